"""Tasks of a call: each has an owner, who ends it and hears of its failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc
import structlog
from openshell_files_protocol.errors import TransferError

log = structlog.get_logger("openshell_files_gateway.concurrency.tasks")

_T = TypeVar("_T")


class Helpers:
    """Tasks that work beside the one that answers a call; see `with_helpers`."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[Any]] = []
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    def start(self, work: Coroutine[Any, Any, _T], name: str) -> asyncio.Task[_T]:
        """Begin a task. If it fails the call ends with its error at once.

        Args:
            work: what it does.
            name: for whoever looks at the tasks of the process.
        """
        task = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        task.add_done_callback(self._note)
        return task

    async def stop(self, task: asyncio.Task[Any]) -> None:
        """End one of the tasks, and wait until it is over.

        Raises:
            CancelledError: the caller was cancelled meanwhile; the task is over.
        """
        await _end(task)

    def check(self) -> None:
        """Raise the error of one that has failed already."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def cancel_all(self) -> None:
        """Have all of them end."""
        for task in self._tasks:
            task.cancel()

    async def stop_all(self) -> None:
        """End all of them; as `stop`."""
        for task in self._tasks:
            await _end(task)

    def _note(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if not self.failed.done():
            self.failed.set_result(error)
        else:
            _report(task.get_name(), error)


async def with_helpers(main: Callable[[Helpers], Coroutine[Any, Any, _T]]) -> _T:
    """Return what `main` returns; its helpers end with it, and it ends when one of them fails.

    Args:
        main: gets the `Helpers` to begin its tasks with.

    Raises:
        TransferError: as `main` or a helper raised it.
        Exception: as a helper raised it. If `main` is over by then its outcome
            stands, and the helper's error is logged.
    """
    helpers = Helpers()

    async def ending() -> _T:
        try:
            return await main(helpers)
        finally:
            # At once: what has not begun by now must not write to a call that is being refused.
            helpers.cancel_all()

    work = asyncio.create_task(ending(), name="call")
    waited: set[asyncio.Future[Any]] = {work, helpers.failed}
    try:
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise helpers.failed.result()
    finally:
        try:
            await cancel(work)
        finally:
            await helpers.stop_all()
    if helpers.failed.done():
        _report("a helper", helpers.failed.result())
    return work.result()


async def cancel(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it is over; its result no longer matters, a bug in it does and is logged.

    Raises:
        CancelledError: the caller was cancelled; the task is over.
    """
    was_over = task.done()
    await _end(task)
    if not was_over and not task.cancelled() and (error := task.exception()) is not None:
        _report(task.get_name() if isinstance(task, asyncio.Task) else "", error)


def report_failure(task: asyncio.Task[Any]) -> None:
    """Log a bug that ended a task nobody awaits; for `add_done_callback`."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _report(task.get_name(), error)


async def to_the_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Return what `work` returns. It is never cut off: a cancellation waits until it is over.

    For what must not stop half-way and ends soon, whatever the peer does.

    Raises:
        CancelledError: the caller was cancelled; the work is over.
    """
    task = asyncio.ensure_future(work)
    await _until_over(task)
    return task.result()


async def in_thread(work: Callable[[], _T]) -> _T:
    """Run `work` in a thread, to its end: a thread cannot be stopped, and must not work beside whatever its caller does next.

    Raises:
        CancelledError: the caller was cancelled; the work is over.
    """
    return await to_the_end(asyncio.to_thread(work))


async def ends_within(task: asyncio.Future[Any], seconds: float) -> bool:
    """Give a task that has nothing left to do the time to notice; whether it ended in order."""
    await asyncio.wait({task}, timeout=seconds)
    return task.done() and not task.cancelled() and task.exception() is None


async def first_of(work: Awaitable[_T], other: asyncio.Future[Any]) -> asyncio.Future[_T]:
    """Wait for `work` or `other`; `work` is over in any case, cancelled if `other` came first."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, other}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel(task)
    return task


async def _end(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await _until_over(task)


async def _until_over(task: asyncio.Future[Any]) -> None:
    """Wait for the end of a task, however often the caller is cancelled meanwhile, and then raise that.

    Its error counts as heard.
    """
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        # Awaiting the task itself could not tell its cancellation from ours.
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if not task.cancelled():
        task.exception()
    if cancelled is not None:
        raise cancelled


def _report(name: str, error: BaseException) -> None:
    # An error of the table, or a call that is over, is an outcome and no bug.
    if not isinstance(error, TransferError | grpc.aio.BaseError | asyncio.CancelledError):
        log.error("a task failed by a bug", task=name, exc_info=error)
