"""A command's output, read as fast as somebody takes it."""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import termios
from collections.abc import Awaitable, Callable
from typing import Final, Self

#: Largest piece of output in one event.
PIECE_BYTES: Final = 64 * 1024


class OutputPipe:
    """The reading end of a pipe; a context manager that closes it.

    Nothing is read ahead: what nobody takes stays in the pipe, and the
    command waits when that is full.
    """

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reader, False)
        self._writer_open = True
        self._waiter: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close both ends; whoever still writes gets SIGPIPE."""
        self.close_writer()
        os.close(self._reader)

    def close_writer(self) -> None:
        """Close this process's copy of the writing end."""
        if self._writer_open:
            self._writer_open = False
            os.close(self.writer)

    def waiting(self) -> int:
        """Return how many bytes are in the pipe."""
        count = array.array("i", [0])
        fcntl.ioctl(self._reader, termios.FIONREAD, count)
        return count[0]

    def read(self) -> bytes | None:
        """Return the next piece of at most 64 KiB, b"" once every writer has closed it, None if nothing is there."""
        try:
            return os.read(self._reader, PIECE_BYTES)
        except BlockingIOError:
            return None

    async def readable(self) -> None:
        """Wait until there is something to read, or `wake` is called."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        loop.add_reader(self._reader, self.wake)
        try:
            await self._waiter
        finally:
            loop.remove_reader(self._reader)
            self._waiter = None

    def wake(self) -> None:
        """Let who waits look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class OutputPump:
    """Hands on what a command writes.

    Args:
        pipe: where it comes from.
        send: takes a piece; waits while nobody takes it further.
    """

    def __init__(self, pipe: OutputPipe, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._pipe = pipe
        self._send = send
        self._last_byte: int | None = None
        #: Bytes handed on.
        self.taken = 0

    async def run(self) -> None:
        """Hand on until every writer has closed the pipe, or `finish` was called and it is done."""
        while self._last_byte is None or self.taken < self._last_byte:
            piece = self._pipe.read()
            if piece is None:
                await self._pipe.readable()
                continue
            if not piece:
                return
            self.taken += len(piece)
            await self._send(piece)

    def finish(self) -> None:
        """Take what is in the pipe now, and then no more, whoever still has it open."""
        self._last_byte = self.taken + self._pipe.waiting()
        self._pipe.wake()
