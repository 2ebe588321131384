"""Limits the pauses of a caller, in which it sends only `waiting` (WAI-4)."""

from __future__ import annotations

from typing import Final

from google.protobuf.message import DecodeError
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_protocol.reasons import Reason

#: Size above which a message carries content and need not be parsed.
_LONGEST: Final = 64

#: Messages that may be `waiting`.
MayWait = files_pb2.UploadFileRequest | trees_pb2.UploadTreeRequest | trees_pb2.DownloadTreeRequest


class Pauses:
    """Checks each message of one call for pauses.

    Args:
        most_seconds: longest pause; 0 if callers may not send `waiting`.
        message_type: type of the call's messages.
    """

    def __init__(
        self, most_seconds: float, message_type: type[MayWait] = files_pb2.UploadFileRequest
    ) -> None:
        self._most = most_seconds
        self._type = message_type
        self._since: float | None = None

    def check(self, message: bytes, now: float) -> None:
        """Check the next message.

        Args:
            message: serialized.
            now: seconds on a monotonic clock.

        Raises:
            TransferError: TRANSFER_IDLE if the pause is too long.
        """
        if not is_waiting(message, self._type):
            self._since = None
            return
        if self._since is None:
            self._since = now
        if self._most and now - self._since <= self._most:
            return
        raise TransferError(
            Reason.TRANSFER_IDLE,
            f"the caller waited for its source for longer than max_pause, {self._most:g} s",
        )


def is_waiting(message: bytes, message_type: type[MayWait] = files_pb2.UploadFileRequest) -> bool:
    """Return True if a message is `waiting`. The agent refuses messages that cannot be parsed."""
    if len(message) > _LONGEST:
        return False
    try:
        return message_type.FromString(message).WhichOneof("payload") == "waiting"
    except DecodeError:
        return False
