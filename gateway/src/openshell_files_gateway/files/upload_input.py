"""Reads an upload's messages ahead, and forwards them to the agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar

from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.framing import MAX_RELAY_PAYLOAD
from openshell_files_protocol.limits import KIB, MAX_MESSAGE_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.files.core.content_count import ContentCount
from openshell_files_gateway.relay.activity import Activity
from openshell_files_gateway.relay.batch import MessageBatch
from openshell_files_gateway.relay.file_relay import FileRelay

#: Bytes for the headers that a message gets inside a relay frame.
_HEADER_ROOM: Final = 64

#: A file up to this size goes out in one write: its content, finish and end
#: follow each other closely, and meanwhile the agent is busy with the admission.
_SMALL_BYTES: Final = 64 * KIB


_T = TypeVar("_T")

#: Reads the next message of an upload. A result that is not bytes is the end of the input, or `BROKEN`.
Read = Callable[[], Coroutine[Any, Any, object]]

#: Read instead of a message: the input broke, which is not its end. `UploadStreams.unless_broken` raises the reason.
BROKEN: Final = object()


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


class UploadInput:
    """Reads an upload's messages in order, and forwards them unparsed (FRM-4).

    `read_on` reads ahead as much as a `MessageBatch` holds, even before the
    relay is open: a small file has arrived completely by then.

    Args:
        read: reads the messages that follow the metadata.
        declared_bytes: size of the file that the caller declares; 0 for none.
        max_chunk_bytes: limit that the refusal of a larger chunk names.
        confirm_end: returns True if the caller half-closed its stream, False
            if it cancelled the call; None if the end of the stream publishes
            nothing, since the upload has an explicit finish (UPL-3).
    """

    def __init__(
        self,
        read: Read,
        declared_bytes: int,
        max_chunk_bytes: int,
        confirm_end: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._read = read
        self._batch = MessageBatch(short=0 < declared_bytes <= _SMALL_BYTES)
        self._max_chunk_bytes = max_chunk_bytes
        self._confirm_end = confirm_end
        self._activity: Activity | None = None
        #: Counts the content that was read from the caller.
        self.count = ContentCount(files_pb2.UploadFileRequest)

    async def read_on(self) -> None:
        """Read until the end of the input, in a task of its own.

        Returns without an error if the input breaks: `UploadStreams.unless_broken` raises it.

        Raises:
            TransferError: CHUNK_TOO_LARGE (UPL-24), or INVALID_REQUEST for another
                message above 1 MiB (UPL-15); or raised by the reader.
        """
        while isinstance(message := await self._read(), bytes):
            if self._activity is not None:
                self._activity.touch()
            content_bytes = self.count.add(message)
            if len(message) > MAX_MESSAGE_BYTES:
                raise self._too_large(message, content_bytes)
            await self._batch.put(message)
        if message is not BROKEN:
            self._batch.end()

    async def forward(self, relay: FileRelay, activity: Activity) -> None:
        """Forward all messages and the end of the input, in a task of its own.

        Returns without an error if the relay breaks: the reader of the agent's
        answer notices that as well, and may receive a better reason.

        Args:
            relay: the relay to the agent.
            activity: restarted by every message from now on.
        """
        self._activity = activity
        with suppress(TransferError):
            messages = await self._take()
            while not self._batch.over:
                await relay.forward(messages)
                activity.touch()
                messages = await self._take()
            if self._confirm_end is None or await self._confirm_end():
                await relay.forward(messages, ended=True)
            else:
                await relay.cancel_input()
            activity.touch()

    async def _take(self) -> list[bytes]:
        return await self._batch.take(MAX_RELAY_PAYLOAD - _HEADER_ROOM)

    def _too_large(self, message: bytes, content_bytes: int) -> TransferError:
        if not content_bytes:
            return invalid(
                "payload", f"the message has {len(message)} bytes, at most {MAX_MESSAGE_BYTES} are allowed"
            )
        return TransferError(
            Reason.CHUNK_TOO_LARGE,
            f"a chunk has {content_bytes} bytes, at most {self._max_chunk_bytes} are allowed",
            {"max_chunk_bytes": str(self._max_chunk_bytes)},
        )
