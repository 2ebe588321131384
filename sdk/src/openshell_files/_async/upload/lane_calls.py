"""One upload over several streams (LAN-1)."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from openshell_files._async._calls import UploadCall
from openshell_files._known_errors import idle_error
from openshell_files.errors import FilesError

#: After a lane failed, the gateway ends the upload. The first stream gets its
#: status within this time, or never.
_LAST_WORDS_SECONDS: Final = 2.0

#: Interval at which `response` checks the lanes.
_LOOK_SECONDS: Final = 0.25


class UploadLanes:
    """Several calls with the interface of one `UploadCall`.

    The first call carries the metadata and the answer; the messages after it
    go to the calls in turn. Leaving the context cancels the calls that are not
    over.

    Args:
        calls: at least two; the first has index 0.
        openings: first messages of the others.
        idle: idle timeout, in seconds.
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
        """True if the finish may have left this process."""
        return any(call.finish_left for call in self._calls)

    async def write(self, message: bytes, *, last: bool = False) -> None:
        """Send a message on the next stream in turn; the first message also opens the others.

        Args:
            message: serialized.
            last: the message is the finish.

        Raises:
            CallEndedError: a call is over; `response` raises its error.
            DeadlineExceeded: the connection took nothing for the idle timeout.
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
            FilesError: the upload failed; or a lane failed and the first
                stream did not; or no answer came for the idle timeout.
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
        """Return the error of the first lane that failed; None if none did."""
        for call in self._calls[1:]:
            if (failure := await call.failure()) is not None:
                return failure
        return None
