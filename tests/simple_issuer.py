"""An identity provider on loopback that gives numbered tokens, and misbehaves on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs


class SimpleIssuer:
    """Answers discovery and token requests.

    Attributes:
        forms: what was posted.
        authorizations: the header beside each form.
        methods: what the discovery document says of secrets; None says nothing.
        token: changes the answer to a token request; None leaves a member out.
        answer: answers in its place, if it returns True.
    """

    def __init__(self) -> None:
        self.forms: list[dict[str, list[str]]] = []
        self.authorizations: list[str | None] = []
        self.discoveries = 0
        self.lifetime: Any = 3600
        self.methods: object = None
        self.token: dict[str, Any] = {}
        self.answer: Callable[[BaseHTTPRequestHandler], bool] = lambda _: False
        self.url = ""
        self.issuer = ""

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("content-length", "0")))
        if request.command == "POST":
            self.forms.append(parse_qs(body.decode()))
            self.authorizations.append(request.headers.get("authorization"))
        if self.answer(request):
            return
        if request.command == "GET":
            self.discoveries += 1
            document: dict[str, object] = {"issuer": self.issuer, "token_endpoint": f"{self.issuer}/token"}
            if self.methods is not None:
                document["token_endpoint_auth_methods_supported"] = self.methods
            reply(request, 200, document)
        else:
            answer = {"access_token": f"token-{len(self.forms)}", "expires_in": self.lifetime} | self.token
            reply(request, 200, {name: value for name, value in answer.items() if value is not None})


def reply(
    request: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str] | None = None
) -> None:
    """Answer a request with JSON or bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("content-length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


@contextmanager
def simple_issuer() -> Generator[SimpleIssuer]:
    """Run one on a free port of this machine."""
    issuer = SimpleIssuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.handle(self)

        def do_POST(self) -> None:
            issuer.handle(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer.url = issuer.issuer = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
