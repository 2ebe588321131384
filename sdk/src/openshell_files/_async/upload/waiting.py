"""Sends `waiting` messages while the source of an upload yields nothing (WAI-2)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self

from openshell_files_process.tasks import TaskScope

from openshell_files._async._calls import CallEndedError
from openshell_files._core.upload.outgoing import waiting_message
from openshell_files.errors import FilesError


class _UploadStream(Protocol):
    """The stream of an upload or a tree, or lanes; this module writes to it beside the content."""

    async def write(self, message: bytes) -> None: ...


class ContentWriter:
    """Writes content to a call, and `waiting` messages while there is none.

    The end of the context ends the writing, so that the finish may follow.

    Args:
        call: receives the messages.
        interval: seconds without content after which `waiting` is due; None
            if the server does not take that message.
        message: the message `waiting` of the method; None takes that of UploadFile.
    """

    def __init__(self, call: _UploadStream, interval: float | None, message: bytes | None = None) -> None:
        self._call = call
        self._message = waiting_message() if message is None else message
        self._interval = interval
        self._turn = asyncio.Lock()
        self._clock = asyncio.get_running_loop().time
        self._written_at = self._clock()
        self._tasks = TaskScope()

    async def __aenter__(self) -> Self:
        if self._interval is not None:
            self._tasks.start(self._run(self._interval), "openshell-files-waiting")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and len(self._tasks):
                # Finish the write in progress: the finish comes next on the same call.
                await self._turn.acquire()
        finally:
            await self._tasks.end()

    async def write(self, message: bytes) -> None:
        """Write content; see `UploadCall.write`."""
        async with self._turn:
            await self._call.write(message)
            self._written_at = self._clock()

    async def _run(self, interval: float) -> None:
        # The next write of content raises the error that ended the call.
        with suppress(CallEndedError, FilesError):
            while True:
                await asyncio.sleep(max(0.0, self._written_at + interval - self._clock()))
                async with self._turn:
                    if self._clock() >= self._written_at + interval:
                        await self._call.write(self._message)
                        self._written_at = self._clock()
