"""Tasks with an owner that cancels them, waits for their end and hears of their failure.

The only module of the gateway that makes tasks. Choose by what the work is to its owner:

| need | use |
|---|---|
| tasks beside the main one of a call; a failure of any ends the call | `with_helpers` |
| one task beside a block of code | `background` |
| tasks that outlive the call which starts them | `BackgroundTasks` |
| work that ends early when an event is set | `race` |
| work that a cancellation must not interrupt | `to_the_end`, `in_thread` |
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
import structlog
from openshell_files_protocol.errors import TransferError

log = structlog.get_logger("openshell_files_gateway.concurrency.tasks")

_T = TypeVar("_T")


class Helpers:
    """Tasks that run beside the main one of a call; see `with_helpers`."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[Any]] = []
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    def start(self, work: Coroutine[Any, Any, _T], name: str) -> asyncio.Task[_T]:
        """Start a task. If it fails, the call ends with its error at once.

        Args:
            work: the task's coroutine.
            name: the task's name in debuggers and in the log.
        """
        task = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        task.add_done_callback(self._note_failure)
        return task

    async def stop(self, task: asyncio.Task[Any]) -> None:
        """Cancel one of the tasks and wait for its end.

        Raises:
            CancelledError: the caller was cancelled meanwhile; the task has ended.
        """
        await _cancel_and_wait(task)

    def check(self) -> None:
        """Raise the error of a task that has failed already."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def cancel_all(self) -> None:
        """Cancel all tasks, without waiting."""
        for task in self._tasks:
            task.cancel()

    async def stop_all(self) -> None:
        """Cancel all tasks and wait for their end; raises as `stop`."""
        for task in self._tasks:
            await _cancel_and_wait(task)

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
        _log_bug("a helper", helpers.failed.result())
    return work.result()


class BackgroundTasks:
    """Tasks of an object that lives longer than any call; `aclose` ends them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, _T], name: str) -> asyncio.Task[_T]:
        """Start a task. A bug that ends it is logged.

        Args:
            work: the task's coroutine.
            name: the task's name in debuggers and in the log.
        """
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def __len__(self) -> int:
        """Return how many tasks have not ended."""
        return len(self._tasks)

    async def aclose(self) -> None:
        """Cancel all tasks and wait for their end.

        Raises:
            CancelledError: the caller was cancelled meanwhile; the tasks have ended.
        """
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await _until_done(*tasks)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log_bug(task.get_name(), error)


@asynccontextmanager
async def background(work: Coroutine[Any, Any, _T], name: str) -> AsyncGenerator[asyncio.Task[_T]]:
    """Run `work` in a task beside the block; the end of the block cancels it and waits for its end.

    Args:
        work: the task's coroutine. The block reads its result or error.
        name: the task's name in debuggers and in the log.
    """
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        await cancel(task)


class EventFirst(Exception):  # noqa: N818 - an outcome of `race`, no error
    """The event of a race was set before its work ended."""


async def race(work: Awaitable[_T], event: asyncio.Event) -> _T:
    """Return the result of `work`, or cancel it when `event` is set first.

    `work` has ended in any case. If both happen in one turn of the loop, its result counts.

    Raises:
        EventFirst: the event was set first.
        Exception: raised by `work`.
    """
    task = asyncio.ensure_future(work)
    try:
        if not event.is_set():
            async with background(event.wait(), "race") as waiting:
                await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        won = task.done()
    finally:
        await cancel(task)
    if not won:
        raise EventFirst
    return task.result()


async def cancel(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait for its end. Its result is dropped; a bug that shows during its end is logged.

    Raises:
        CancelledError: the caller was cancelled meanwhile; the task has ended.
    """
    was_done = task.done()
    await _cancel_and_wait(task)
    if not was_done and not task.cancelled() and (error := task.exception()) is not None:
        _log_bug(task.get_name() if isinstance(task, asyncio.Task) else "", error)


async def to_the_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Return the result of `work`; a cancellation of the caller takes effect when `work` has ended.

    For work that must not stop half-way and ends soon, whatever the peer does.

    Raises:
        CancelledError: the caller was cancelled; the work has ended.
    """
    task = asyncio.ensure_future(work)
    await _until_done(task)
    return task.result()


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


async def _cancel_and_wait(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await _until_done(task)


async def _until_done(*tasks: asyncio.Future[Any]) -> None:
    """Wait for the end of all tasks, however often the caller is cancelled meanwhile, and then raise that.

    The tasks' errors count as retrieved.
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


def _log_bug(name: str, error: BaseException) -> None:
    """Log an error that is a bug: an error of the table, or of a call that has ended, is an outcome."""
    if not isinstance(error, TransferError | grpc.aio.BaseError | asyncio.CancelledError):
        log.error("a task failed by a bug", task=name, exc_info=error)
