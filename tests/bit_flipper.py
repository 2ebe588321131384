"""A connection that damages what it carries: a TCP proxy that flips one bit of content.

Whoever wants a bit flipped puts `MARKER` into the content, many times in a
row: framing falls between two of them, never on all of them, so that what is
flipped is content and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Self

MARKER = b"<-- this is content, and one bit of it will be another soon -->\n"

#: So many bytes of markers are in one piece somewhere, however they are cut.
MARKED_BYTES = 256 * len(MARKER)


def marked(content: bytes, offset: int) -> bytes:
    """Return the content with markers at an offset; as long as before."""
    region = MARKER * (MARKED_BYTES // len(MARKER))
    assert offset + len(region) <= len(content)
    return content[:offset] + region + content[offset + len(region) :]


def flipped(data: bytes, position: int, bit: int = 0) -> bytes:
    """Return data with one other bit."""
    return data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]


def flip_in_file(path: Path, position: int) -> None:
    """Flip one bit of a file in place."""
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(flipped(byte, 0))


class Direction(Enum):
    """Which way bytes go, as seen by who opened the connection."""

    THERE = auto()
    BACK = auto()


@dataclass
class _Watch:
    direction: Direction
    pattern: bytes
    seen: asyncio.Event = field(default_factory=asyncio.Event)


class BitFlipper:
    """Passes connections on; an async context manager.

    Args:
        upstream: where to, `host:port`; asked for every connection.

    Attributes:
        flips: bits that were flipped.
    """

    def __init__(self, upstream: Callable[[], str]) -> None:
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._direction = Direction.THERE
        self._left = 0
        self._watches: list[_Watch] = []
        self.flips = 0

    @property
    def endpoint(self) -> str:
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def flip(self, direction: Direction, times: int = 1) -> None:
        """Flip one bit of each of the next so many markers that go this way."""
        self._direction, self._left = direction, times

    def seen(self, pattern: bytes) -> asyncio.Event:
        """Return an event for when these bytes went there."""
        watch = _Watch(Direction.THERE, pattern)
        self._watches.append(watch)
        return watch.seen

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        host, _, port = self._upstream().rpartition(":")
        onward: asyncio.StreamWriter | None = None
        try:
            answers, onward = await asyncio.open_connection(host, int(port))
            pumps = [
                asyncio.create_task(self._pump(reader, onward, Direction.THERE)),
                asyncio.create_task(self._pump(answers, writer, Direction.BACK)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            # Nobody is there, or the proxy is closed: for the client the connection is gone.
            return
        finally:
            self._connections.discard(task)
            for end in (writer, onward):
                if end is not None:
                    end.close()
                    with suppress(OSError):
                        await end.wait_closed()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        tail = b""
        while data := await reader.read(65536):
            window = tail + data
            for watch in self._watches:
                if watch.direction is direction and watch.pattern in window:
                    watch.seen.set()
            tail = window[-256:]
            position = data.find(MARKER)
            if self._left and direction is self._direction and position >= 0:
                data = flipped(data, position + len(MARKER) // 2, bit=3)
                self._left -= 1
                self.flips += 1
            writer.write(data)
            await writer.drain()
