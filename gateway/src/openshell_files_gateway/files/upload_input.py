"""The messages of an upload: where they come from, and what is counted and refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol, TypeVar

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import KIB, MAX_MESSAGE_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.files.caller_input import CallerInput, Read
from openshell_files_gateway.files.core.content_count import ContentCount

#: A file up to this size goes out in one write: its content, finish and end
#: follow each other closely, and meanwhile the agent is busy with the admission.
_SMALL_BYTES: Final = 64 * KIB


_T = TypeVar("_T")


class UploadStreams(Protocol):
    """The streams that an upload's messages come over."""

    async def read(self) -> object:
        """Read the next message; see `Read`."""
        ...

    async def unless_broken(self, answer: Coroutine[Any, Any, _T]) -> _T:
        """Return the result of `answer`, unless a stream breaks first.

        Raises:
            TransferError: the reason why the input broke; or raised by `answer`.
        """
        ...


class SingleStream:
    """The one stream of an upload without lanes. Its end is the end of the call, so it cannot break."""

    def __init__(self, read: Read) -> None:
        self._read = read

    async def read(self) -> object:
        """Read the next message; see `Read`."""
        return await self._read()

    async def unless_broken(self, answer: Coroutine[Any, Any, _T]) -> _T:
        """Return the result of `answer`."""
        return await answer


class UploadInput(CallerInput):
    """The messages of one upload.

    Args:
        read: reads the messages that follow the metadata.
        declared_bytes: size of the file that the caller declares; 0 for none.
        max_chunk_bytes: limit that the refusal of a larger chunk names.
        confirm_end: see `CallerInput`; None if the upload has an explicit finish.
    """

    def __init__(
        self,
        read: Read,
        declared_bytes: int,
        max_chunk_bytes: int,
        confirm_end: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        super().__init__(read, short=0 < declared_bytes <= _SMALL_BYTES, confirm_end=confirm_end)
        self._max_chunk_bytes = max_chunk_bytes
        #: Counts the content that was read from the caller.
        self.count = ContentCount(files_pb2.UploadFileRequest)

    def admit(self, message: bytes) -> None:
        """Count the content of a message, and refuse one that is too large.

        Raises:
            TransferError: CHUNK_TOO_LARGE (UPL-24), or INVALID_REQUEST for another
                message above 1 MiB (UPL-15).
        """
        content_bytes = self.count.add(message)
        if content_bytes and len(message) > MAX_MESSAGE_BYTES:
            raise TransferError(
                Reason.CHUNK_TOO_LARGE,
                f"a chunk has {content_bytes} bytes, at most {self._max_chunk_bytes} are allowed",
                {"max_chunk_bytes": str(self._max_chunk_bytes)},
            )
        super().admit(message)
