"""The option `waiting`: limits the pauses in which an upload's caller waits for its source (WAI-4, WAI-5)."""

from __future__ import annotations

from time import monotonic

from openshell_files_protocol.durations import duration_of
from openshell_files_protocol.pb.openshell.v1 import file_options_pb2, file_relay_pb2, files_pb2

from openshell_files_gateway.files.caller_input import Read
from openshell_files_gateway.files.options.core.pauses import MayWait, Pauses


def with_bounded_pauses(
    read: Read, max_pause: float, message_type: type[MayWait] = files_pb2.UploadFileRequest
) -> Read:
    """Return a reader that raises TRANSFER_IDLE when a pause lasts too long.

    Args:
        read: reads the caller's messages.
        max_pause: longest pause in seconds; 0 refuses the first `waiting`.
        message_type: type of the messages.
    """
    pauses = Pauses(max_pause, message_type)

    async def read_and_check() -> object:
        message = await read()
        if isinstance(message, bytes):
            pauses.check(message, monotonic())
        return message

    return read_and_check


def waiting_capability(
    max_pause: float, agent: file_relay_pb2.FileTransferCapability
) -> file_options_pb2.WaitingCapability | None:
    """Return the capability that the gateway announces (WAI-5); None unless gateway and agent both take `waiting`.

    Args:
        max_pause: the gateway's longest pause in seconds.
        agent: the agent's announcement.
    """
    if max_pause <= 0 or not agent.takes_waiting:
        return None
    return file_options_pb2.WaitingCapability(max_pause=duration_of(max_pause))
