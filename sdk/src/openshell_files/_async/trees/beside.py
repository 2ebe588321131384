"""Work beside the owner's: the reader of a stream that the owner writes, and the bell by which it wakes the owner."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from openshell_files_process.tasks import TaskScope


class Bell:
    """Wakes one waiting task; rings before the wait count."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake the waiting task."""
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Wait for a ring since the last wait, at most `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        self._event.clear()


class Beside:
    """Runs work in a task until it ends or its owner leaves the context.

    Args:
        work: the work.
        unblock: ends a wait inside `work`.
        bell: rung at the end of the work.
    """

    def __init__(
        self, work: Callable[[], Awaitable[None]], unblock: Callable[[], object], bell: Bell
    ) -> None:
        self._work = work
        self._unblock = unblock
        self._bell = bell
        self._tasks = TaskScope()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = self._tasks.start(self._run(), "openshell-files-beside")
        # Not in `_run`, which a cancellation may end before it begins.
        self._task.add_done_callback(lambda _: self._bell.ring())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if len(self._tasks):
            self._unblock()
        try:
            await self._tasks.end()
        finally:
            if self._task is not None and self._task.done() and not self._task.cancelled():
                # The owner left for another reason: this error would be reported as unnoticed.
                self._task.exception()

    async def _run(self) -> None:
        await self._work()

    def over(self) -> bool:
        """Return whether the work has ended.

        Raises:
            Exception: the error that ended it.
        """
        if self._task is None or not self._task.done():
            return False
        self._task.result()
        return True
