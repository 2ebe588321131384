"""A TCP proxy on loopback between a peer and the gateway: it passes bytes on until a case loses, holds or cuts the connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Final, Self

_READ_BYTES: Final = 64 << 10


class FaultyTcp:
    """Listens on a free port while its context lasts, and connects each caller to the target.

    Attributes:
        endpoint: where it listens.
        sent: bytes that went towards the target, over all connections.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._server: asyncio.Server | None = None
        self._pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._tasks = set[asyncio.Task[None]]()
        self._flows = asyncio.Event()
        self._flows.set()
        self._cut_at: int | None = None
        self.endpoint = ""
        self.sent = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.endpoint = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self.reset()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hold(self) -> None:
        """Pass nothing on towards the target, and close nothing: what a lost route looks like."""
        self._flows.clear()

    def release(self) -> None:
        """Pass on again."""
        self._flows.set()

    def cut_after(self, count: int) -> None:
        """Reset every connection as soon as so many more bytes went towards the target."""
        self._cut_at = self.sent + count

    def reset(self) -> None:
        """Reset every connection."""
        for pair in self._pairs:
            for writer in pair:
                _abort(writer)
        self._pairs.clear()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _abort(writer)
            return
        self._pairs.append((writer, far_writer))
        for source, sink, counted in ((reader, far_writer, True), (far_reader, writer, False)):
            task = asyncio.create_task(self._pass_on(source, sink, counted=counted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, counted: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_READ_BYTES):
                if counted:
                    await self._flows.wait()
                    if self._cut_at is not None and self.sent + len(data) >= self._cut_at:
                        data = data[: self._cut_at - self.sent]
                        sink.write(data)
                        with contextlib.suppress(OSError):
                            await sink.drain()
                        self._cut_at = None
                        self.reset()
                        return
                    self.sent += len(data)
                sink.write(data)
                await sink.drain()
            sink.close()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close a connection by a reset."""
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is not None:
        set_option: Callable[..., None] = raw.setsockopt
        with contextlib.suppress(OSError):
            set_option(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
