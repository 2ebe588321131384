"""Reads of a call's stream that a cancellation does not interrupt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


class StreamReads:
    """Reads the messages of one call, for one reader at a time.

    A cancelled read of grpc.aio is dropped, and a message that still arrives for it is never freed: up to 1 MiB of
    each call that ends while its caller sends (https://github.com/grpc/grpc/issues/43360). So gRPC's read goes on
    here until it has a message or the call ends, and the next reader gets its result.

    Args:
        read: reads a message of the call.
    """

    def __init__(self, read: Callable[[], Awaitable[Any]]) -> None:
        self._read = read
        self._reading: asyncio.Future[Any] | None = None

    async def next(self) -> Any:  # noqa: ANN401 - a message, or grpc.aio.EOF
        """Return the next message, or what gRPC returns at the end.

        Raises:
            BaseError: of grpc.aio; the call has ended.
        """
        reading = self._reading
        if reading is None:
            reading = self._reading = asyncio.ensure_future(self._read())
            reading.add_done_callback(_note)
        # Neither awaited nor shielded: whether it or the reader was cancelled would look the same.
        await asyncio.wait((reading,))
        self._reading = None
        return reading.result()


def _note(reading: asyncio.Future[Any]) -> None:
    """Take an error that nobody may wait for any more: the call has ended."""
    if not reading.cancelled():
        reading.exception()
