"""The states of an upload, and what leads from one to the next (RSM-7, RSM-10).

One table. No other module changes a state: `LiveUpload` owns one `UploadLife`
and asks it. The table has no way back from an end, so whatever fails after a
rename cannot make a published upload an unfinished one.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeAlias

from openshell_files_protocol.pb.openshell.v1 import files_pb2

State: TypeAlias = "files_pb2.UploadState.ValueType"

#: States of an upload that can still be published.
UNFINISHED: Final = (files_pb2.UPLOAD_STATE_RECEIVING, files_pb2.UPLOAD_STATE_VERIFYING)

#: The end of an upload of which nothing can be known. It is never sent: such an upload is refused as UPLOAD_UNKNOWN.
LOST: Final = files_pb2.UPLOAD_STATE_UNSPECIFIED


class Event(Enum):
    """What happens to an upload."""

    #: A stream's finish is being carried out.
    FINISH_TAKEN = "finish taken"
    #: It could not be carried out, and a later one may be.
    FINISH_FAILED = "finish failed"
    #: The destination is the new file.
    PUBLISHED = "published"
    #: Its finish was refused, or its content found no room.
    REFUSED = "refused"
    #: Its caller gave it up (AbortUpload).
    GIVEN_UP = "given up"
    #: No byte came for too long, or its place was needed (RSM-8).
    EXPIRED = "expired"
    #: Its staging file is gone: nobody can know what became of it.
    LOST = "lost"


_RECEIVING: Final = files_pb2.UPLOAD_STATE_RECEIVING
_VERIFYING: Final = files_pb2.UPLOAD_STATE_VERIFYING

TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (_RECEIVING, Event.FINISH_TAKEN): _VERIFYING,
    (_RECEIVING, Event.REFUSED): files_pb2.UPLOAD_STATE_ABORTED,
    (_RECEIVING, Event.GIVEN_UP): files_pb2.UPLOAD_STATE_ABORTED,
    (_RECEIVING, Event.EXPIRED): files_pb2.UPLOAD_STATE_EXPIRED,
    (_RECEIVING, Event.LOST): LOST,
    # A finish that was taken is decided by nobody but the stream that brought it.
    (_VERIFYING, Event.FINISH_FAILED): _RECEIVING,
    (_VERIFYING, Event.REFUSED): files_pb2.UPLOAD_STATE_ABORTED,
    (_VERIFYING, Event.PUBLISHED): files_pb2.UPLOAD_STATE_PUBLISHED,
}


class UploadLife:
    """The state of one upload.

    Args:
        state: where it stands: RECEIVING for a new one, VERIFYING for one of
            which a start-up cannot tell yet what became of its finish.
    """

    def __init__(self, state: State = _RECEIVING) -> None:
        self._state: State = state

    @property
    def state(self) -> State:
        """Where the upload stands."""
        return self._state

    @property
    def unfinished(self) -> bool:
        """Whether it can still be published."""
        return self._state in UNFINISHED

    def take(self, event: Event) -> bool:
        """Let an event happen.

        Returns:
            False if it means nothing in this state; then nothing changed.
        """
        after = TRANSITIONS.get((self._state, event))
        if after is None:
            return False
        self._state = after
        return True
