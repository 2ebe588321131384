"""An issuer that gives tokens by the client credentials grant, and counts them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final, Self
from urllib.parse import parse_qs

from openshell_files_conformance.checks import Transcript

#: Longest request that it reads.
_MOST_BYTES: Final = 64 * 1024


class TokenEndpoint:
    """Serves discovery and tokens on a free loopback port while its context lasts.

    Attributes:
        issued: the tokens, in their order.
        lifetime: `expires_in` of the next tokens, in seconds.
    """

    def __init__(self, transcript: Transcript, stem: str) -> None:
        self._transcript = transcript
        self._stem = stem
        self._server: asyncio.Server | None = None
        self.issued = list[str]()
        self.lifetime = 3600
        self.issuer = ""

    @property
    def token_url(self) -> str:
        """URL of the token endpoint."""
        return f"{self.issuer}/token"

    def credentials(self) -> dict[str, Any]:
        """Return `auth` of a request to an adapter."""
        return {
            "client_credentials": {
                "issuer": self.issuer,
                "token_url": self.token_url,
                "client_id": "conformance",
                "client_secret": "kept between us",
            }
        }

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_MOST_BYTES)
        self.issuer = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, _ = head.split(" ", 2)
            headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            status, document = self._answer(method, path, body)
            data = json.dumps(document).encode()
            lines = (
                f"HTTP/1.1 {status}",
                "content-type: application/json",
                f"content-length: {len(data)}",
                "connection: close",
            )
            writer.write("\r\n".join((*lines, "", "")).encode() + data)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, ValueError) as error:
            self._transcript.note(f"issuer: {error!r}")
        finally:
            writer.close()

    def _answer(self, method: str, path: str, body: bytes) -> tuple[str, Mapping[str, object]]:
        self._transcript.received(f"issuer: {method} {path}")
        if path.endswith("/.well-known/openid-configuration"):
            return "200 OK", {"issuer": self.issuer, "token_endpoint": self.token_url}
        form = parse_qs(body.decode("latin-1"))
        if method != "POST" or path != "/token":
            return "404 Not Found", {"error": "not_found"}
        if form.get("grant_type") != ["client_credentials"]:
            return "400 Bad Request", {"error": "unsupported_grant_type"}
        token = f"{self._stem}-issued-{len(self.issued) + 1}"
        self.issued.append(token)
        return "200 OK", {"access_token": token, "token_type": "Bearer", "expires_in": self.lifetime}
