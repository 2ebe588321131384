"""An identity provider on loopback: discovery, published keys, rotation, and outages that a case asks for."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, Self

from openshell_files_conformance.peers.tokens import SigningKey, TokenMaker, new_key

AUDIENCE: Final = "openshell-conformance"
_DISCOVERY: Final = "/.well-known/openid-configuration"
_KEYS: Final = "/keys"
#: Algorithms of the keys that are published from the start, one key each.
ALGORITHMS: Final = ("ES256", "RS256", "EdDSA")


class IdentityProvider:
    """Serves on a free port while its context lasts.

    Attributes:
        keys: published now, by their `kid`.
        requests: how often each path was asked for.
        down: every request ends with status 503.
    """

    def __init__(self, port: int = 0, audience: str = AUDIENCE) -> None:
        self._port = port
        self.audience = audience
        self.keys = {key.kid: key for key in (new_key(f"key-{name.lower()}", name) for name in ALGORITHMS)}
        self.requests = Counter[str]()
        self.down = False
        self.issuer = ""
        self._server: asyncio.Server | None = None
        self._clients = set[asyncio.StreamWriter]()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        port = self._server.sockets[0].getsockname()[1]
        self.issuer = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._clients:
            writer.close()

    @property
    def key(self) -> SigningKey:
        """The key that signs where nothing else is said."""
        return self.keys["key-es256"]

    @property
    def maker(self) -> TokenMaker:
        """Makes this issuer's tokens."""
        return TokenMaker(self.issuer, self.audience)

    @property
    def facts(self) -> dict[str, str]:
        """What a launch message says of the issuer."""
        return {"issuer": self.issuer, "audience": self.audience, "jwks_url": f"{self.issuer}{_KEYS}"}

    def publish(self, key: SigningKey) -> None:
        """Add a key to the published set."""
        self.keys[key.kid] = key

    def withdraw(self, kid: str) -> None:
        """Remove a key from the published set."""
        del self.keys[kid]

    def token(self, subject: str, **options: Any) -> str:
        """Return a right token of a subject; `roles` and `scope` as in TokenMaker.claims."""
        maker = self.maker
        return maker.sign(self.key, maker.claims(subject, **options))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                path = head.split(" ")[1].partition("?")[0]
                self.requests[path] += 1
                writer.write(self._answer(path))
                await writer.drain()
        writer.close()
        self._clients.discard(writer)

    def _answer(self, path: str) -> bytes:
        documents: dict[str, Mapping[str, Any]] = {
            _DISCOVERY: {
                "issuer": self.issuer,
                "jwks_uri": f"{self.issuer}{_KEYS}",
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": list(ALGORITHMS),
            },
            _KEYS: {"keys": [key.published() for key in self.keys.values()]},
        }
        if self.down:
            return _response("503 Service Unavailable", {"error": "made by the suite"})
        if path not in documents:
            return _response("404 Not Found", {"error": "there is no such document"})
        return _response("200 OK", documents[path])


def _response(status: str, document: Mapping[str, Any]) -> bytes:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body
