"""An issuer over HTTP in the test's own loop, which answers whatever it is told to."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from token_forge import Signer

DISCOVERY = "/.well-known/openid-configuration"
JWKS = "/jwks"


@dataclass
class Reply:
    """What a path answers.

    Attributes:
        body: content.
        status: of HTTP.
        headers: replace or add to the usual ones; None leaves one out.
        endless: go on sending the body for ever, without a length.
        gate: the answer waits until it is set.
    """

    body: bytes
    status: int = 200
    headers: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])
    endless: bool = False
    gate: asyncio.Event | None = None


class ScriptedIssuer:
    """Serves discovery and keys, honest until `replies` is changed.

    Attributes:
        replies: by path.
        requests: by path, how many came.
    """

    def __init__(self, *signers: Signer, tls: ssl.SSLContext | None = None) -> None:
        self.signers = list(signers)
        self.replies: dict[str, Reply] = {}
        self.requests: Counter[str] = Counter()
        self.asked = asyncio.Event()
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def issuer(self) -> str:
        """The issuer's URL."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def discovery(self) -> dict[str, object]:
        """The honest configuration."""
        return {"issuer": self.issuer, "jwks_uri": self.issuer + JWKS}

    def publish(self, *signers: Signer) -> None:
        """Publish the keys of these signers, and of no others."""
        self.signers = list(signers)
        self.replies[JWKS] = Reply(json.dumps({"keys": [signer.jwk for signer in self.signers]}).encode())

    def configure(self, **changes: object) -> None:
        """Publish the configuration with changes."""
        self.replies[DISCOVERY] = Reply(json.dumps({**self.discovery, **changes}).encode())

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.publish(*self.signers)
        self.configure()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split()[1].decode()
            self.requests[path] += 1
            self.asked.set()
            await self._answer(writer, self.replies.get(path, Reply(b"{}", status=404)))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # The client hung up, which some tests want.
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, reply: Reply) -> None:
        if reply.gate is not None:
            await reply.gate.wait()
        headers: dict[str, str | None] = {
            "content-type": "application/json",
            "content-length": None if reply.endless else str(len(reply.body)),
            "connection": "close",
            **reply.headers,
        }
        lines = [f"HTTP/1.1 {reply.status} X", *(f"{k}: {v}" for k, v in headers.items() if v is not None)]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        writer.write(reply.body)
        while reply.endless:
            await writer.drain()
            writer.write(reply.body)
        await writer.drain()
