"""Threads for disk work, shared fairly among callers."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt

T = TypeVar("T")


class DiskThreads:
    """Runs blocking work in a bounded number of threads; callers take turns.

    One principal may use all of them. A principal that uses less than a quarter of `count` gets a
    thread beyond `count` without waiting, so that hashing a hole of a terabyte for one caller does
    not delay the `stat` of another. Up to twice `count` threads can run.

    Args:
        count: threads; up to as many again for principals that use few.
    """

    def __init__(self, count: int) -> None:
        # Two more for the agent's own work.
        self._pool = ThreadPoolExecutor(2 * count + 2, thread_name_prefix="file-agent-disk")
        self._count = count
        self._few = max(1, count // 4)
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @property
    def crowded(self) -> bool:
        """True if work waits for a thread; any thread may ask."""
        return bool(self._waiting)

    def of(self, principal: str) -> DiskShare:
        """Return one principal's share of the threads."""
        return DiskShare(self, principal)

    async def run(
        self,
        work: Callable[[], T],
        *,
        principal: str | None = None,
        interrupt: Interrupt | None = None,
        discard: Callable[[T], object] | None = None,
    ) -> T:
        """Run `work` in a thread and wait for its end.

        Work owns descriptors, so a cancelled caller continues only after its end. If the caller is
        cancelled before the start, interruptible work does not start.

        Args:
            work: blocks.
            principal: that the work is for; None for the agent's own, which takes no turns.
            interrupt: set when the caller is cancelled, to end the work early.
            discard: frees the result if the caller was cancelled; blocks.

        Raises:
            CancelledError: the caller was cancelled. An error of the work is lost.
        """
        loop = asyncio.get_running_loop()
        late = None if principal is None else await self._turn(principal, interrupt)
        try:
            if late is not None and interrupt is not None:
                raise late
            future = loop.run_in_executor(self._pool, work)
            cancelled = await _wait(future, interrupt) or late
            if cancelled is None:
                return future.result()
            if future.exception() is None and discard is not None:
                await _wait(loop.run_in_executor(self._pool, discard, future.result()), None)
            raise cancelled
        finally:
            if principal is not None:
                self._done(principal)

    async def _turn(self, principal: str, interrupt: Interrupt | None) -> asyncio.CancelledError | None:
        """Wait for the principal's turn; return a cancellation that came meanwhile."""
        if not self._may_run(principal):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(principal, deque()).append(turn)
            # `_done` counts the turn when it grants it.
            cancelled = await _wait(turn, interrupt, until_cancelled=interrupt is not None)
            if turn.done():
                return cancelled
            self._forget(principal, turn)
            self._running[principal] += 1
            return cancelled
        self._running[principal] += 1
        return None

    def _may_run(self, principal: str) -> bool:
        own, total = self._running[principal], self._running.total()
        if principal in self._waiting:
            return False
        return self._has_room(own, total)

    def _has_room(self, own: int, total: int) -> bool:
        return total < (2 * self._count if own < self._few else self._count)

    def _done(self, principal: str) -> None:
        self._running[principal] -= 1
        if not self._running[principal]:
            del self._running[principal]
        # Principals with the fewest threads first, and among them the longest wait.
        for waiting in sorted(self._waiting, key=lambda name: self._running[name]):
            while waiting in self._waiting and self._has_room(self._running[waiting], self._running.total()):
                turn = self._waiting[waiting][0]
                self._forget(waiting, turn)
                self._running[waiting] += 1
                turn.set_result(None)

    def _forget(self, principal: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting[principal]
        turns.remove(turn)
        if not turns:
            del self._waiting[principal]

    def later(self, work: Callable[[], object]) -> None:
        """Run `work` when a thread is free, without waiting for it. Any thread may ask."""
        try:
            self._pool.submit(work)
        except RuntimeError:
            # The agent is closing; running work may still finish.
            work()

    async def close(self) -> None:
        """Wait for the threads to end; nothing may be run afterwards."""
        loop = asyncio.get_running_loop()
        self._pool.shutdown(wait=False)
        await loop.run_in_executor(None, self._pool.shutdown)


class DiskShare:
    """One principal's share of the disk threads."""

    def __init__(self, threads: DiskThreads, principal: str) -> None:
        self._threads = threads
        self._principal = principal

    @property
    def crowded(self) -> bool:
        """True if work waits for a thread; any thread may ask."""
        return self._threads.crowded

    def of(self, principal: str) -> DiskShare:
        """Return another principal's share of the threads."""
        return self._threads.of(principal)

    async def run(
        self,
        work: Callable[[], T],
        *,
        interrupt: Interrupt | None = None,
        discard: Callable[[T], object] | None = None,
    ) -> T:
        """Run `work` in a thread; see `DiskThreads.run`."""
        return await self._threads.run(work, principal=self._principal, interrupt=interrupt, discard=discard)


async def _wait(
    future: asyncio.Future[T], interrupt: Interrupt | None, *, until_cancelled: bool = False
) -> asyncio.CancelledError | None:
    """Wait for a thread, even if cancelled; return the cancellation.

    Args:
        future: of the thread.
        interrupt: set when cancelled.
        until_cancelled: return at the first cancellation.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done() and not (cancelled is not None and until_cancelled):
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
            if interrupt is not None:
                interrupt.set()
    return cancelled
