"""One upload over several streams (LAN-1)."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from openshell_files._async._calls import UploadCall
from openshell_files._error_mapping import idle_error
from openshell_files.errors import FilesError

#: A lane that failed, and not only because the upload is over, makes the
#: gateway end the upload. Its words on that come at once, or never.
_LAST_WORDS_SECONDS: Final = 2.0

#: How often somebody who waits for the answer looks at the lanes.
_LOOK_SECONDS: Final = 0.25


class UploadLanes:
    """Several calls that behave like one `UploadCall`.

    The first carries the metadata and the answer; what follows goes to each in
    turn. Leaving the context cancels those that are not over.

    Args:
        calls: at least two, the first one first.
        openings: first messages of the others.
        idle: how long nothing may come, in seconds.
    """

    def __init__(self, calls: Sequence[UploadCall], openings: Sequence[bytes], idle: float) -> None:
        self._idle = idle
        self._calls = calls
        self._first = calls[0]
        self._openings = openings
        self._opened = False
        self._position = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for call in self._calls:
            call.cancel()
        for call in self._calls:
            await call.__aexit__(kind, error, trace)

    @property
    def finish_left(self) -> bool:
        """Whether the finish can have left this process."""
        return any(call.finish_left for call in self._calls)

    async def write(self, message: bytes, *, last: bool = False) -> None:
        """Send a message on the stream whose turn it is; the first one opens the others, too.

        Args:
            message: serialized.
            last: it is the finish.

        Raises:
            CallEndedError: a call is over already; `response` tells why.
            DeadlineExceeded: nothing moved for the idle time.
        """
        if not self._opened:
            self._opened = True
            await self._first.write(message)
            for call, opening in zip(self._calls[1:], self._openings, strict=True):
                await call.write(opening)
            return
        call = self._calls[self._position % len(self._calls)]
        self._position += 1
        await call.write(message, last=last)

    async def finish(self, message: bytes) -> None:
        """Send the last message, and half-close all streams."""
        await self.write(message, last=True)
        for call in self._calls:
            await call.half_close()

    async def response(self) -> bytes:
        """Return the answer of the first stream.

        Raises:
            FilesError: the upload failed, or a lane did and the upload's
                first stream says nothing of it; nothing came for the idle time.
        """
        waited = 0.0
        while (failure := await self._failure()) is None:
            if await self._first.ends_within(_LOOK_SECONDS):
                break
            waited += _LOOK_SECONDS
            if waited >= self._idle:
                raise idle_error(self._idle, "answered")
        else:
            if not await self._first.ends_within(_LAST_WORDS_SECONDS):
                raise failure
        return await self._first.response()

    async def _failure(self) -> FilesError | None:
        """Return why a lane failed, if one did."""
        for call in self._calls[1:]:
            if (failure := await call.failure()) is not None:
                return failure
        return None
