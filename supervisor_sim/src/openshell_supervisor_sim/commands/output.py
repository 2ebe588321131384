"""A command's output, read only as fast as the gateway accepts it."""

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

    Nothing is read ahead: output stays in the pipe until it is sent, and the command blocks when
    the pipe is full.
    """

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reader, False)
        self._writer_open = True
        self._waiter: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close both ends; a process that still writes gets SIGPIPE."""
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
        """Return the next piece of at most 64 KiB; b"" once every writer has closed the pipe, None if it is empty."""
        try:
            return os.read(self._reader, PIECE_BYTES)
        except BlockingIOError:
            return None

    async def readable(self) -> None:
        """Wait for output, or for a call of `wake`."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        loop.add_reader(self._reader, self.wake)
        try:
            await self._waiter
        finally:
            loop.remove_reader(self._reader)
            self._waiter = None

    def wake(self) -> None:
        """End the wait in `readable`."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class OutputPump:
    """Sends the output of a command.

    Args:
        pipe: that the command writes to.
        send: sends a piece; waits while the gateway accepts none.
    """

    def __init__(self, pipe: OutputPipe, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._pipe = pipe
        self._send = send
        self._last_byte: int | None = None
        #: Bytes sent.
        self.taken = 0

    async def run(self) -> None:
        """Send output until every writer has closed the pipe, or the output that was there at `finish` is sent."""
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
        """Send the content of the pipe and then stop, even if a process still has the pipe open."""
        self._last_byte = self.taken + self._pipe.waiting()
        self._pipe.wake()
