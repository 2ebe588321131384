"""A bounded queue that hands out small messages together.

The RFC's 64 KiB chunks cost as much per message as large ones, here, at the
relay's other end and between them. What has queued up while the last write was
under way goes into the next one; and while messages come one right after the
other, a write waits a moment for more of them.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass
from typing import Final

from openshell_files_protocol.limits import KIB, MIB

#: Bytes that may wait between a caller and the relay. One message is always
#: let in, so the true bound is this plus the largest message.
QUEUE_BYTES: Final = MIB

#: While a stream flows, so much goes into one write,
_JOINED_BYTES: Final = 512 * KIB
#: or what comes in this time.
_GATHER_SECONDS: Final = 0.005

#: It flows if the last messages were taken no longer ago than this.
_FLOWING_SECONDS: Final = 0.02

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

    Args:
        max_bytes: bytes that may wait.
        short: whether the end is near: then the first messages wait for it,
            too, and all of a small file goes in one write.
    """

    def __init__(self, max_bytes: int = QUEUE_BYTES, *, short: bool = False) -> None:
        self._max = max_bytes
        self._messages: deque[bytes] = deque()
        self._size = self._peak = 0
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._taken_at = self._loop.time() if short else -math.inf
        #: How much the consumer waits for.
        self._wanted = 0
        self._enough = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, message: bytes) -> None:
        """Add a message."""
        while self._size >= self._max:
            self._room.clear()
            await self._room.wait()
        self._messages.append(message)
        self._size += _cost(message)
        self._peak = max(self._peak, self._size)
        if self._size >= self._wanted:
            self._enough.set()

    def end(self) -> None:
        """Say that no message follows."""
        self._ended = True
        self._enough.set()

    async def take(self, max_bytes: int) -> list[bytes]:
        """Return the next messages, at least one, and together at most `max_bytes` if more.

        Returns:
            The messages, or an empty list after the last one.
        """
        while not self._messages and not self._ended:
            self._enough.clear()
            await self._enough.wait()
        await self._gather(min(max_bytes, self._max, _JOINED_BYTES))
        batch: list[bytes] = []
        size = 0
        while self._messages and (not batch or size + _cost(self._messages[0]) <= max_bytes):
            message = self._messages.popleft()
            size += _cost(message)
            batch.append(message)
        self._size -= size
        self._taken_at = self._loop.time()
        self._room.set()
        return batch

    @property
    def over(self) -> bool:
        """Whether everything was taken, and no message follows."""
        return self._ended and not self._messages

    def statistics(self) -> BatchStatistics:
        """Return what waits."""
        return BatchStatistics(self._size, self._peak)

    async def _gather(self, wanted: int) -> None:
        """Wait a moment for more messages if they come one right after the other."""
        now = self._loop.time()
        if self._ended or self._size >= wanted or now - self._taken_at > _FLOWING_SECONDS:
            return
        self._wanted = wanted
        self._enough.clear()
        timer = self._loop.call_at(now + _GATHER_SECONDS, self._enough.set)
        try:
            await self._enough.wait()
        finally:
            timer.cancel()
            self._wanted = 0


def _cost(message: bytes) -> int:
    return max(len(message), _LEAST_COST)
