"""Disk work off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from openshell_supervisor_sim.agent.file_info import Interrupt

T = TypeVar("T")


class DiskThreads:
    """Runs blocking work in a bounded number of threads.

    Args:
        count: threads at most.
    """

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="file-agent-disk")
        self._count = count
        self._asked = 0

    @property
    def crowded(self) -> bool:
        """Whether work may be waiting for a thread; any thread may ask."""
        return self._asked > self._count

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
        self._asked += 1
        try:
            future = loop.run_in_executor(self._pool, work)
            cancelled = await _wait(future, interrupt)
            if cancelled is None:
                return future.result()
            if future.exception() is None and discard is not None:
                await _wait(loop.run_in_executor(self._pool, discard, future.result()), None)
            raise cancelled
        finally:
            self._asked -= 1

    def later(self, work: Callable[[], object]) -> None:
        """Run `work` when a thread is free; nobody waits for it. Any thread may ask."""
        try:
            self._pool.submit(work)
        except RuntimeError:
            # The agent is being closed; what runs may still finish.
            work()

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
