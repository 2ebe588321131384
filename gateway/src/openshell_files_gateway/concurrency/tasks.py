"""Tasks of the gateway: each has an owner that cancels it, waits for its end and hears of its failure.

| need | use |
|---|---|
| tasks beside the main one of a call; a failure of any ends the call | `with_helpers` |
| tasks that outlive the call which starts them | `BackgroundTasks` |
| tasks beside a block of code | `TaskScope` (`openshell_files_process.tasks`) |
| work that ends early when an event is set | `race` |
| work that a cancellation must not interrupt | `to_the_end` (ibid.), `in_thread` |
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import grpc
import structlog
from openshell_files_process.tasks import TaskScope, end_tasks, to_the_end
from openshell_files_protocol.errors import TransferError

log = structlog.get_logger("openshell_files_gateway.concurrency.tasks")

_T = TypeVar("_T")


class BackgroundTasks(TaskScope):
    """Tasks of an object that lives longer than any call. A bug that ends one is logged; `end` ends all."""

    def start(self, work: Coroutine[Any, Any, _T], name: str) -> asyncio.Task[_T]:
        """Start a task; see `TaskScope.start`."""
        task = super().start(work, name)
        task.add_done_callback(_log_failure)
        return task


class Helpers(TaskScope):
    """Tasks that run beside the main one of a call; see `with_helpers`."""

    def __init__(self) -> None:
        super().__init__()
        self._started: list[asyncio.Task[Any]] = []
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    def start(self, work: Coroutine[Any, Any, _T], name: str) -> asyncio.Task[_T]:
        """Start a task. If it fails, the call ends with its error at once; see `TaskScope.start`."""
        task = super().start(work, name)
        self._started.append(task)
        task.add_done_callback(self._note_failure)
        return task

    def check(self) -> None:
        """Raise the error of a task that has failed already."""
        for task in self._started:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def cancel_all(self) -> None:
        """Cancel all tasks, without waiting."""
        for task in self._started:
            task.cancel()

    def _note_failure(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if not self.failed.done():
            self.failed.set_result(error)
        else:
            _log_bug(task.get_name(), error)


async def with_helpers(main: Callable[[Helpers], Coroutine[Any, Any, _T]]) -> _T:
    """Run `main` with helper tasks: they are cancelled when it ends, and it is cancelled when one of them fails.

    Args:
        main: receives the `Helpers` that start its tasks.

    Returns:
        The result of `main`.

    Raises:
        TransferError: raised by `main` or a helper.
        Exception: raised by a helper. If `main` has ended before, its outcome
            stands and the helper's error is logged.
    """
    helpers = Helpers()

    async def ending() -> _T:
        try:
            return await main(helpers)
        finally:
            # At once: a helper that has not started yet must not write to a call that is being refused.
            helpers.cancel_all()

    async with helpers, TaskScope() as scope:
        work = scope.start(ending(), "call")
        waited: set[asyncio.Future[Any]] = {work, helpers.failed}
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise helpers.failed.result()
        finally:
            await cancel(work)
    if helpers.failed.done():
        _log_bug("a helper", helpers.failed.result())
    return work.result()


class EventFirst(Exception):  # noqa: N818 - an outcome of `race`, no error
    """The event of a race was set before its work ended."""


async def race(work: Coroutine[Any, Any, _T], event: asyncio.Event) -> _T:
    """Return the result of `work`, or cancel it when `event` is set first.

    `work` has ended in any case; it does not start if the event is set
    already. If both happen in one turn of the loop, its result counts.

    Raises:
        EventFirst: the event was set first.
        Exception: raised by `work`.
    """
    if event.is_set():
        work.close()
        raise EventFirst
    async with TaskScope() as scope:
        task = scope.start(work, "race-work")
        waiting = scope.start(event.wait(), "race-event")
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        won = task.done()
        await cancel(task)
    if not won:
        raise EventFirst
    return task.result()


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end. Its result is dropped; a bug that shows during its end is logged.

    Raises:
        CancelledError: the caller was cancelled meanwhile; the task has ended.
    """
    was_done = task.done()
    await end_tasks(task)
    if not was_done:
        _log_failure(task)


async def in_thread(work: Callable[[], _T]) -> _T:
    """Run `work` in a thread, to its end: a thread cannot be stopped, and must not run beside its caller's next step.

    Raises:
        CancelledError: the caller was cancelled; the work has ended.
    """
    return await to_the_end(asyncio.to_thread(work))


async def ends_within(task: asyncio.Future[Any], seconds: float) -> bool:
    """Wait up to `seconds` for a task's end; return True if it ended without error or cancellation."""
    await asyncio.wait({task}, timeout=seconds)
    return task.done() and not task.cancelled() and task.exception() is None


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log_bug(task.get_name(), error)


def _log_bug(name: str, error: BaseException) -> None:
    """Log an error that is a bug: an error of the table, or of a call that has ended, is an outcome."""
    if not isinstance(error, TransferError | grpc.aio.BaseError | asyncio.CancelledError):
        log.error("a task failed by a bug", task=name, exc_info=error)
