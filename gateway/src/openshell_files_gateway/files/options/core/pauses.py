"""How long an upload's caller may wait for its source (WAI-2)."""

from __future__ import annotations

from typing import Final

from google.protobuf.message import DecodeError
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

#: A longer message carries content. Only a short one is worth a parser's look.
_LONGEST: Final = 64


class Pauses:
    """Is shown each message of one upload, and bounds the time in which `waiting` is all that comes.

    Args:
        most_seconds: how long that may go on; 0 if no caller may send `waiting`.
    """

    def __init__(self, most_seconds: float) -> None:
        self._most = most_seconds
        self._since: float | None = None

    def check(self, message: bytes, now: float) -> None:
        """Take the next message.

        Args:
            message: a serialized UploadFileRequest.
            now: in seconds, of a clock that never goes back.

        Raises:
            TransferError: TRANSFER_IDLE: the pause has become too long.
        """
        if not is_waiting(message):
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


def is_waiting(message: bytes) -> bool:
    """Return whether a message says nothing but `waiting`; one that cannot be parsed is the agent's to refuse."""
    if len(message) > _LONGEST:
        return False
    try:
        return files_pb2.UploadFileRequest.FromString(message).WhichOneof("payload") == "waiting"
    except DecodeError:
        return False
