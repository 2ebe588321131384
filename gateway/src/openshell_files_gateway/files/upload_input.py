"""An upload's messages on their way from the caller to the agent, over one stream or several."""

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

#: Room for the headers that a message gets on its way into a relay frame.
_HEADER_ROOM: Final = 64

#: A file up to this size is sent when all of it is here: content, finish and
#: end come one right after the other, and the agent is busy with the admission.
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
    """Reads the caller's messages in their order, and forwards them as they came (FRM-4).

    `read_on` reads ahead, as much as a `MessageBatch` holds, even if there is
    no relay yet: a small file is all there when the relay is.

    Args:
        read: reads the messages that follow the metadata.
        declared_bytes: size of the file that the caller declares; 0 for none.
        max_chunk_bytes: limit that the refusal of a larger chunk names.
        confirm_end: asked whether the caller ended its stream, and did not
            cancel; None if it makes no difference, since only a finish
            publishes (UPL-3).
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
        #: Of what came from the caller.
        self.count = ContentCount(files_pb2.UploadFileRequest)

    async def read_on(self) -> None:
        """Read until the end, in a task of its own.

        Returns without an error if the input breaks: `UploadStreams.unless_broken` raises it.

        Raises:
            TransferError: CHUNK_TOO_LARGE, or INVALID_REQUEST for another
                message above 1 MiB (UPL-6); or raised by the reader.
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
        """Carry everything, and say when it is over, in a task of its own.

        Ends quietly when the relay breaks: whoever waits for the agent's
        answer finds out, and may find a better reason than a broken relay.

        Args:
            relay: to the agent.
            activity: told of everything that moves from now on.
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
