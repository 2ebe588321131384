"""Tasks with an owner that ends and awaits them, and races between tasks.

No other module of gateway and supervisor makes a task, except in an `asyncio.TaskGroup`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

_T = TypeVar("_T")


class TaskScope:
    """Tasks of one owner. Leaving the scope cancels the running ones and waits for their end.

    Unlike an `asyncio.TaskGroup` it does not wait for tasks that serve only
    their owner, and the error of a task reaches the owner when it asks for
    the task's result.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running:
            await self.end()

    def __len__(self) -> int:
        """Return the number of running tasks."""
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, _T], name: str) -> asyncio.Task[_T]:
        """Start a task.

        Args:
            work: what the task runs.
            name: of the task, for a reader of the process's list of tasks.
        """
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def wait(self, seconds: float | None = None) -> int:
        """Wait until no task runs, at most so many seconds.

        Returns:
            Tasks that still run.
        """
        deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
        while self._running:
            left = None if deadline is None else deadline - asyncio.get_running_loop().time()
            if left is not None and left <= 0:
                break
            await asyncio.wait(self._running, timeout=left)
        return len(self._running)

    async def end(self) -> None:
        """Cancel the running tasks and wait for their end; more than once is fine.

        Raises:
            CancelledError: the caller was cancelled; the tasks have ended.
        """
        await end_tasks(*self._running)


async def end_tasks(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait for their end; see `until_over`."""
    for task in tasks:
        task.cancel()
    await until_over(*tasks)


async def until_over(*tasks: asyncio.Future[Any]) -> None:
    """Wait for the end of tasks, even if the caller is cancelled meanwhile.

    Their errors count as retrieved; the caller may still ask for them.

    Raises:
        CancelledError: the caller was cancelled; the tasks have ended.
    """
    cancelled: asyncio.CancelledError | None = None
    while pending := [task for task in tasks if not task.done()]:
        # Awaiting a task itself could not tell its cancellation from the caller's.
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    for task in tasks:
        if not task.cancelled():
            task.exception()
    if cancelled is not None:
        raise cancelled


async def to_the_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Return the result of `work`; a cancellation of the caller waits for its end.

    For work that must not stop half-way, and that ends soon whatever a peer does.

    Raises:
        CancelledError: the caller was cancelled; the work has ended.
    """
    task = asyncio.create_task(work)
    await until_over(task)
    return task.result()


async def first_of(
    work: Coroutine[Any, Any, _T], *others: Coroutine[Any, Any, Any], seconds: float | None = None
) -> asyncio.Task[_T]:
    """Run coroutines until the first of them ends, and then end the others.

    Args:
        work: the one that the caller wants the result of.
        others: end the race, too.
        seconds: after which the race ends as well; None for never.

    Returns:
        The task of `work`: done, or cancelled if the race ended without it.

    Raises:
        CancelledError: the caller was cancelled; all of the coroutines have ended.
        Exception: the error of one of `others`, if it ended first.
    """
    task = asyncio.create_task(work, name="first-of-work")
    racing = [asyncio.create_task(other, name="first-of-other") for other in others]
    try:
        await asyncio.wait({task, *racing}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            for other in racing:
                if other.done():
                    other.result()
    finally:
        await end_tasks(task, *racing)
    return task
