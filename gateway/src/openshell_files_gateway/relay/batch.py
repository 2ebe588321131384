"""A bounded queue that hands out small messages together.

The RFC's 64 KiB chunks cost as much per message as large ones. What has
queued up while the last write was under way goes into the next one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final

from openshell_files_protocol.limits import MIB

#: Bytes that may wait between a caller and the relay. One message is always
#: let in, so the true bound is this plus the largest message.
QUEUE_BYTES: Final = MIB

#: What a message counts for at least: its objects and headers take up room
#: even if it is empty, so any number of empty ones must not fit.
_LEAST_COST: Final = 48


@dataclass(frozen=True, slots=True)
class BatchStatistics:
    """What waits now, and the most that ever did, in bytes."""

    waiting: int
    peak: int


class MessageBatch:
    """One producer, one consumer, bounded in bytes.

    `put` waits while `max_bytes` or more are queued; `take` waits for the
    first message and returns all that fit together.
    """

    def __init__(self, max_bytes: int = QUEUE_BYTES) -> None:
        self._max = max_bytes
        self._messages: deque[bytes] = deque()
        self._size = self._peak = 0
        self._ended = False
        self._changed = asyncio.Event()

    async def put(self, message: bytes) -> None:
        """Add a message."""
        while self._size >= self._max:
            await self._wait()
        self._messages.append(message)
        self._size += _cost(message)
        self._peak = max(self._peak, self._size)
        self._changed.set()

    def end(self) -> None:
        """Say that no message follows."""
        self._ended = True
        self._changed.set()

    async def take(self, max_bytes: int) -> list[bytes]:
        """Return the next messages, at least one, and together at most `max_bytes` if more.

        Returns:
            The messages, or an empty list after the last one.
        """
        while not self._messages and not self._ended:
            await self._wait()
        batch: list[bytes] = []
        size = 0
        while self._messages and (not batch or size + _cost(self._messages[0]) <= max_bytes):
            message = self._messages.popleft()
            size += _cost(message)
            batch.append(message)
        self._size -= size
        self._changed.set()
        return batch

    def statistics(self) -> BatchStatistics:
        """Return what waits."""
        return BatchStatistics(self._size, self._peak)

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _cost(message: bytes) -> int:
    return max(len(message), _LEAST_COST)
