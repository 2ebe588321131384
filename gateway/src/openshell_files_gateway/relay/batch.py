"""A bounded queue that joins small messages into one write.

The RFC's 64 KiB chunks cost as much per message as large ones, in the gateway,
in the supervisor and between them. Messages that arrive during a write go into
the next one; while messages follow each other closely, a write waits a moment
for more of them.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass
from typing import Final

from openshell_files_protocol.limits import KIB, MIB

#: Bytes that may wait between a caller and the relay. An empty queue accepts a
#: message of any size, so the actual limit is this plus the largest message.
QUEUE_BYTES: Final = MIB

#: In a stream that flows, `take` waits until the queue has this many bytes,
_JOINED_BYTES: Final = 512 * KIB
#: but at most this many seconds.
_GATHER_SECONDS: Final = 0.005

#: A stream flows if the last `take` ended at most this many seconds ago.
_FLOWING_SECONDS: Final = 0.02

#: Least size that a message counts for: objects and headers take memory even if
#: the message is empty, so the number of empty messages must be limited, too.
_LEAST_COST: Final = 48


@dataclass(frozen=True, slots=True)
class BatchStatistics:
    """Bytes that wait now, and their maximum since the start."""

    waiting: int
    peak: int


class MessageBatch:
    """A queue of messages for one producer and one consumer, bounded in bytes.

    `put` waits while `max_bytes` or more are queued; `take` waits for the
    first message and returns as many as fit into one write.

    Args:
        max_bytes: bytes that may wait.
        short: the input is short, so even the first write waits a moment:
            a small file then fits into one write.
    """

    def __init__(self, max_bytes: int = QUEUE_BYTES, *, short: bool = False) -> None:
        self._max = max_bytes
        self._messages: deque[bytes] = deque()
        self._size = self._peak = 0
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._taken_at = self._loop.time() if short else -math.inf
        #: Bytes that the consumer waits for.
        self._wanted = 0
        self._enough = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, message: bytes) -> None:
        """Add a message; wait while the queue is full."""
        while self._size >= self._max:
            self._room.clear()
            await self._room.wait()
        self._messages.append(message)
        self._size += _cost(message)
        self._peak = max(self._peak, self._size)
        if self._size >= self._wanted:
            self._enough.set()

    def end(self) -> None:
        """Mark the end: no message follows."""
        self._ended = True
        self._enough.set()

    def drop(self) -> None:
        """Mark the end, and drop the messages that wait: nobody needs them."""
        self._messages.clear()
        self._size = 0
        self._room.set()
        self.end()

    async def take(self, max_bytes: int) -> list[bytes]:
        """Wait for a message, and return as many messages as fit into one write.

        Args:
            max_bytes: size of the write. A larger first message is returned alone.

        Returns:
            The messages in their order; an empty list after the end.
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
        """True once the producer called `end` and `take` has returned every message."""
        return self._ended and not self._messages

    def statistics(self) -> BatchStatistics:
        """Return the bytes that wait now, and their maximum."""
        return BatchStatistics(self._size, self._peak)

    async def _gather(self, wanted: int) -> None:
        """Wait until `wanted` bytes are queued, for at most `_GATHER_SECONDS`, if the stream flows."""
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
