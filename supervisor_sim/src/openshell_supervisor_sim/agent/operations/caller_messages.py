"""The messages of a caller that an operation takes after its first, apart from uploads (FRM-34)."""

from __future__ import annotations

import asyncio
from typing import Final, Generic, TypeVar

from google.protobuf.message import DecodeError
from openshell_files_protocol.chunks import embedded
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, trees_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.streams import Inbound, parse_request

_FIELDS: Final = file_relay_pb2.FileRelayRequest.DESCRIPTOR.fields_by_name

T = TypeVar("T", trees_pb2.UploadTreeRequest, trees_pb2.DownloadTreeRequest)


class CancelledByPeer(Exception):  # noqa: N818 - not an error: the operation has no caller any more
    """The caller cancelled or left, and no answer is sent (FRM-16)."""


class CallerMessages(Generic[T]):
    """Reads the frames of one operation, in a task that its work does not block.

    Args:
        inbound: frames of the gateway.
        field: of the frame that carries a message.
        message_type: of the message.
        keeps: another operation may follow on the stream.

    Attributes:
        complete: the operation needs no further message; the next operation may follow.
        followed_by: first frame of the next operation, if it came already.
    """

    def __init__(self, inbound: Inbound, field: str, message_type: type[T], *, keeps: bool) -> None:
        self._inbound = inbound
        self._field = field
        self._number = _FIELDS[field].number
        self._type: type[T] = message_type
        self._keeps = keeps
        self._clock = asyncio.get_running_loop().time
        self._waiting_since: float | None = None
        self.complete = False
        self.followed_by: memoryview | None = None

    def wait(self) -> None:
        """Note that the operation needs the caller's next message to go on; the idle timeout starts."""
        self._waiting_since = self._clock()

    def work(self) -> None:
        """Note that the operation works or sends: the caller may be silent."""
        self._waiting_since = None

    async def next(self) -> tuple[T, int] | None:
        """Return the caller's next message and its size in bytes; None if its input is over (FRM-6, FRM-24).

        Raises:
            CancelledByPeer: the caller or the relay is gone (FRM-14, FRM-16).
            TransferError: INVALID_REQUEST, AGENT_PROTOCOL_ERROR; TRANSFER_IDLE if the operation waits for the caller
                in vain.
        """
        frame = await self._frame()
        if frame is None:
            raise CancelledByPeer
        carried = embedded(frame, self._number)
        if carried is not None:
            return self._parsed(bytes(carried)), len(carried)
        request = parse_request(frame)
        match request.WhichOneof("frame"):
            case "input_end":
                if request.input_end.cancelled:
                    raise CancelledByPeer
                return None
            case "open":
                if not (self._keeps and self.complete):
                    raise invalid("open", "must be the first frame, and may not be repeated (FRM-2)")
                self.followed_by = frame
                return None
            case field if field == self._field:
                message: T = getattr(request, self._field)
                return message, message.ByteSize()
            case _:
                raise invalid("frame", f"this operation takes only {self._field}")

    async def _frame(self) -> memoryview | None:
        """Return the next frame, without the idle timeout while the operation does not wait for one."""
        while True:
            try:
                return await self._inbound.frame()
            except TransferError as error:
                if error.reason is not Reason.TRANSFER_IDLE or self._waits_too_long():
                    raise

    def _waits_too_long(self) -> bool:
        since = self._waiting_since
        return since is not None and self._clock() - since >= self._inbound.idle_timeout

    def _parsed(self, data: bytes) -> T:
        try:
            message = self._type()
            message.ParseFromString(data)
        except DecodeError as error:
            raise invalid(self._field, f"is not a {self._type.DESCRIPTOR.name}: {error}") from error
        return message
