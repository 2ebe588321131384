"""The HTTP server of the development identity provider."""

from __future__ import annotations

import json
import socketserver
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Protocol, cast

from openshell_files_gateway.dev.token_endpoint import Answer

DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
JWKS_PATH: Final = "/jwks"
TOKEN_PATH: Final = "/token"  # noqa: S105 -- a path, not a password

_METHODS: Final = {DISCOVERY_PATH: "GET", JWKS_PATH: "GET", TOKEN_PATH: "POST"}

_MAX_BODY_BYTES: Final = 16 * 1024


class Provider(Protocol):
    """The provider that the server serves; the server's threads call it."""

    @property
    def discovery(self) -> Mapping[str, object]:
        """The configuration."""
        ...

    @property
    def jwks(self) -> Mapping[str, object]:
        """The published keys."""
        ...

    def answer_token_request(self, content_type: str, authorization: str | None, body: bytes) -> Answer:
        """Answer a request to the token endpoint."""
        ...


class ProviderServer(ThreadingHTTPServer):
    """Serves a provider on a free port of 127.0.0.1.

    Args:
        provider: computes the answers.
    """

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        super().__init__(("127.0.0.1", 0), _Handler)

    def server_bind(self) -> None:
        """Bind without the base class's lookup of the machine's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.socket.getsockname()[1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Ends the thread of a client that sends nothing.
    timeout = 10.0

    def do_GET(self) -> None:
        provider = cast("ProviderServer", self.server).provider
        if self.path == DISCOVERY_PATH:
            self._send(Answer(200, provider.discovery))
        elif self.path == JWKS_PATH:
            self._send(Answer(200, provider.jwks))
        else:
            self._refuse_path()

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.path != TOKEN_PATH:
            self._refuse_path()
        elif not (length.isascii() and length.isdigit()):
            self._refuse(411, "Content-Length is missing")
        elif int(length) > _MAX_BODY_BYTES:
            self._refuse(413, "the body is too large")
        else:
            answer = cast("ProviderServer", self.server).provider.answer_token_request(
                self.headers.get("Content-Type", ""),
                self.headers.get("Authorization"),
                self.rfile.read(int(length)),
            )
            self._send(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class names it so
        """Log nothing: requests carry secrets."""

    def _refuse_path(self) -> None:
        allowed = _METHODS.get(self.path)
        if allowed is None:
            self._refuse(404, "unknown path")
        else:
            self._refuse(405, "the method is not allowed here", {"Allow": allowed})

    def _refuse(self, status: int, description: str, headers: Mapping[str, str] | None = None) -> None:
        self._send(
            Answer(status, {"error": "invalid_request", "error_description": description}, headers or {})
        )

    def _send(self, answer: Answer) -> None:
        body = json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        # A kept-alive connection would outlive `stop`.
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
