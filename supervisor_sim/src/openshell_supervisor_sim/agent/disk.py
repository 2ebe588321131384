"""Disk work off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from openshell_supervisor_sim.agent.file_info import Interrupt

T = TypeVar("T")

#: What an entry of a queue costs beside its content: a flood of tiny chunks is
#: bounded too.
_ENTRY_COST = 512


class DiskThreads:
    """Runs blocking work in a bounded number of threads.

    Args:
        count: threads at most.
    """

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="file-agent-disk")

    async def run(
        self,
        work: Callable[[], T],
        *,
        interrupt: Interrupt | None = None,
        discard: Callable[[T], object] | None = None,
    ) -> T:
        """Run `work` in a thread and wait for it, whatever happens.

        Work owns descriptors, so a cancelled caller goes on only when the
        work is over.

        Args:
            work: what to do; blocks.
            interrupt: set when the caller is cancelled, to make it shorter.
            discard: frees the result if the caller was cancelled; blocks.

        Raises:
            CancelledError: the caller was cancelled. What the work raised is
                lost.
        """
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, work)
        cancelled = await _wait(future, interrupt)
        if cancelled is None:
            return future.result()
        if future.exception() is None and discard is not None:
            await _wait(loop.run_in_executor(self._pool, discard, future.result()), None)
        raise cancelled

    async def close(self) -> None:
        """Wait for the threads to end; nothing may be run any more."""
        loop = asyncio.get_running_loop()
        self._pool.shutdown(wait=False)
        await loop.run_in_executor(None, self._pool.shutdown)


async def _wait(future: asyncio.Future[T], interrupt: Interrupt | None) -> asyncio.CancelledError | None:
    """Wait for a thread, also when cancelled; return the cancellation."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
            if interrupt is not None:
                interrupt.set()
    return cancelled


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they are over, also if cancelled meanwhile.

    What they raised can still be asked of them, but need not be.

    Raises:
        CancelledError: the caller was cancelled; the tasks are over.
    """
    cancelled: asyncio.CancelledError | None = None
    for task in tasks:
        task.cancel()
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    for task in tasks:
        if not task.cancelled():
            task.exception()
    if cancelled is not None:
        raise cancelled


class BoundedQueue(Generic[T]):
    """Entries on their way to the disk, bounded by the bytes they hold.

    One task puts, another takes everything at once, so many small entries
    cost one hop to a thread. An entry counts until it was worked on.

    Args:
        limit: bytes that may wait. A single larger entry is let through.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: list[T] = []
        self._bytes = 0
        self._taken = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def buffered(self) -> int:
        """Bytes that wait or are being worked on."""
        return self._bytes + self._taken

    async def put(self, entry: T, size: int) -> None:
        """Add an entry, once there is room for it."""
        cost = size + _ENTRY_COST
        while self.buffered and self.buffered + cost > self._limit:
            self._room.clear()
            await self._room.wait()
        self._entries.append(entry)
        self._bytes += cost
        self._changed.set()

    def put_last(self, entry: T) -> None:
        """Add an entry without waiting, for what ends the stream."""
        self._entries.append(entry)
        self._changed.set()

    async def take(self) -> list[T]:
        """Return all entries, at least one; those taken before are done."""
        self._taken = 0
        self._room.set()
        while not self._entries:
            self._changed.clear()
            await self._changed.wait()
        entries, self._entries = self._entries, []
        self._taken, self._bytes = self._bytes, 0
        return entries
