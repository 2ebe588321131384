"""Says for an upload that its source gives nothing for the time being (WAI-2)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self

from openshell_files._async._calls import CallEndedError
from openshell_files._core.upload.outgoing import waiting_message
from openshell_files.errors import FilesError


class _Call(Protocol):
    """What a task of its own may write to as well: one stream of an upload, or several in turn."""

    async def write(self, message: bytes) -> None: ...


class Patient:
    """Writes content to a call, and `waiting` while there is none.

    After the context nothing is written any more, so the finish may follow.

    Args:
        call: what is written to.
        interval: seconds without content after which `waiting` is due; None
            if the server did not offer it.
    """

    def __init__(self, call: _Call, interval: float | None) -> None:
        self._call = call
        self._interval = interval
        self._turn = asyncio.Lock()
        self._clock = asyncio.get_running_loop().time
        self._written_at = self._clock()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._interval is not None:
            self._task = asyncio.create_task(self._run(self._interval), name="openshell-files-waiting")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is None:
            return
        try:
            if error is None:
                # What is being written is written to its end: the finish comes next on the same call.
                await self._turn.acquire()
        finally:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def write(self, message: bytes) -> None:
        """Write content; see `UploadCall.write`."""
        async with self._turn:
            await self._call.write(message)
            self._written_at = self._clock()

    async def _run(self, interval: float) -> None:
        # The content's own write finds out what ended the call.
        with suppress(CallEndedError, FilesError):
            while True:
                await asyncio.sleep(max(0.0, self._written_at + interval - self._clock()))
                async with self._turn:
                    if self._clock() >= self._written_at + interval:
                        await self._call.write(waiting_message())
                        self._written_at = self._clock()
