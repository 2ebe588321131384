"""The gateway's side of the command protocol on a relay channel (EXE-1 ff.)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.framing import FrameDecoder, FramingError, frame_segments
from openshell_files_protocol.limits import MAX_FRAME_BYTES
from openshell_files_protocol.pb.openshell.v1 import exec_pb2, exec_relay_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.relay.agent_errors import error_of

if TYPE_CHECKING:
    from openshell_files_gateway.relay.channel import RelayChannel


class CommandRelay:
    """The relay of one command.

    Args:
        channel: relay to the supervisor. Closing it, which its owner does,
            cancels a running command.
    """

    def __init__(self, channel: RelayChannel) -> None:
        self._channel = channel
        self._decoder = FrameDecoder()

    async def open(self, request: exec_relay_pb2.ExecRelayOpen) -> None:
        """Send the request, the only frame in this direction.

        Raises:
            TransferError: INVALID_REQUEST if the caller's request, with the
                sandbox's environment, makes it larger than a frame may be;
                RELAY_LOST.
        """
        frame = exec_relay_pb2.ExecRelayRequest(open=request)
        if frame.ByteSize() > MAX_FRAME_BYTES:
            raise invalid(
                "request", f"too large: {frame.ByteSize()} bytes, at most {MAX_FRAME_BYTES} are allowed"
            )
        await self._channel.send(frame_segments([frame.SerializeToString()]))

    async def events(self) -> AsyncGenerator[exec_pb2.ExecSandboxEvent]:
        """Yield the command's events, the exit last.

        Raises:
            TransferError: the supervisor's error, AGENT_PROTOCOL_ERROR, or
                COMMAND_LOST if the relay ended before the exit: the command
                may or may not have run to its end.
        """
        frames: Iterator[memoryview] = iter(())
        while True:
            try:
                for frame in frames:
                    event = _event(frame)
                    yield event
                    if event.WhichOneof("payload") == "exit":
                        return
            except (FramingError, DecodeError) as error:
                raise TransferError(
                    Reason.AGENT_PROTOCOL_ERROR, f"the supervisor broke the command protocol: {error}"
                ) from error
            try:
                data = await self._channel.receive()
            except TransferError as error:
                if error.reason is not Reason.RELAY_LOST:
                    raise
                raise _lost() from error
            if not len(data):
                raise _lost()
            frames = self._decoder.feed(data)


def _event(frame: memoryview) -> exec_pb2.ExecSandboxEvent:
    response = exec_relay_pb2.ExecRelayResponse.FromString(bytes(frame))
    kind = response.WhichOneof("frame")
    if kind == "error":
        raise error_of(response.error)
    if kind != "event" or response.event.WhichOneof("payload") is None:
        raise TransferError(Reason.AGENT_PROTOCOL_ERROR, "the supervisor sent a frame that is no event")
    return response.event


def _lost() -> TransferError:
    return TransferError(Reason.COMMAND_LOST, "exec relay closed before the command reported an exit status")
