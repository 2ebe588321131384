"""The queue between an upload's stream and a disk thread, bounded in bytes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Final, Generic, TypeVar

T = TypeVar("T")

#: Bytes that an entry counts beside its content, so that a flood of tiny chunks is bounded, too.
_ENTRY_COST: Final = 512


class DiskQueue(Generic[T]):
    """Entries on their way from the event loop to a disk thread.

    The event loop puts entries, and one thread at a time takes all that wait. A thread stays while
    entries come, so that not every chunk costs a hop between loop and thread. An entry counts until
    it is done, that is, until the next `take` or `arrived`.

    Args:
        limit: bytes that may wait. An entry larger than that passes alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        #: Guards the following attributes, and wakes a thread that lingers.
        self._changed = threading.Condition()
        self._entries: list[T] = []
        self._bytes = 0
        self._taken = 0
        self._lingering = False
        self._wants_room = False
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def buffered(self) -> int:
        """Bytes that wait or are being written."""
        return self._bytes + self._taken

    async def put(self, entries: Sequence[T], size: int) -> None:
        """Add entries in one step; waits until there is room for them.

        Args:
            entries: at least one.
            size: bytes of all of them.
        """
        cost = size + _ENTRY_COST * len(entries)
        while not self._added(entries, cost):
            await self._room.wait()

    def put_last(self, entry: T) -> None:
        """Add the entry that ends the stream, without waiting for room."""
        with self._changed:
            self._add([entry], 0)

    async def arrived(self) -> None:
        """Wait for an entry. Entries that were taken before count as done."""
        with self._changed:
            self._done()
        while not self._entries:
            self._arrived.clear()
            await self._arrived.wait()

    def take(self, linger: float) -> list[T]:
        """Return all entries; blocks, for a disk thread. Entries that were taken before count as done.

        Args:
            linger: seconds to wait for an entry.

        Returns:
            The entries; an empty list if none came.
        """
        with self._changed:
            self._done()
            if not self._entries and linger > 0:
                self._lingering = True
                self._changed.wait(linger)
                self._lingering = False
            entries, self._entries = self._entries, []
            self._taken, self._bytes = self._bytes, 0
            return entries

    def _added(self, entries: Sequence[T], cost: int) -> bool:
        with self._changed:
            if self.buffered and self.buffered + cost > self._limit:
                self._wants_room = True
                self._room.clear()
                return False
            self._add(entries, cost)
            return True

    def _add(self, entries: Sequence[T], cost: int) -> None:
        self._entries += entries
        self._bytes += cost
        self._arrived.set()
        if self._lingering:
            self._changed.notify()

    def _done(self) -> None:
        self._taken = 0
        if self._wants_room:
            self._wants_room = False
            self._loop.call_soon_threadsafe(self._room.set)
