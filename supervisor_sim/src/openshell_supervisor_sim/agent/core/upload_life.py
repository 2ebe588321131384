"""The states of an upload, and the events that lead from one to the next (RSM-5, RSM-7, RSM-8, RSM-34).

One table. Only `LiveUpload` changes a state: it owns one `UploadLife` and asks
it. The table has no way back from an end, so a failure after the rename cannot
make a published upload an unfinished one.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeAlias

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

#: The state as messages and the journal have it.
WireState: TypeAlias = "files_pb2.UploadState.ValueType"

#: Wire states of an upload that can still be published.
UNFINISHED: Final = (files_pb2.UPLOAD_STATE_RECEIVING, files_pb2.UPLOAD_STATE_VERIFYING)


class State(Enum):
    """The state of an upload in the agent."""

    #: It accepts content, and no stream writes to it.
    IDLE = "idle"
    #: It accepts content from the one stream that holds it.
    HELD = "held"
    #: A finish is being carried out: content is verified, flushed and renamed.
    VERIFYING = "verifying"
    #: The destination is the new file.
    PUBLISHED = "published"
    #: Its finish was refused, its content found no room, or its caller aborted it.
    ABORTED = "aborted"
    #: No byte came for too long, or a newer upload needed its slot.
    EXPIRED = "expired"
    #: Its outcome is unknown. This is never sent: such an upload is refused as UPLOAD_UNKNOWN.
    LOST = "lost"

    @property
    def wire(self) -> WireState:
        """The state as callers see it."""
        return _WIRE[self]

    @property
    def unfinished(self) -> bool:
        """True while the upload can still be published."""
        return self in {State.IDLE, State.HELD, State.VERIFYING}


class Event(Enum):
    """An event in an upload's life."""

    #: A stream of UploadFile takes the upload, perhaps from another stream.
    STREAM_ATTACHED = "stream attached"
    #: StartUpload takes the upload from its stream, for a stream to come.
    STREAM_DISPLACED = "stream displaced"
    #: The stream ended, and another may resume the upload.
    STREAM_LEFT = "stream left"
    #: The stream brought a finish.
    FINISH_TAKEN = "finish taken"
    #: The finish failed for a reason that a later finish may not meet.
    FINISH_FAILED = "finish failed"
    #: The staging file was renamed.
    PUBLISHED = "published"
    #: The finish was refused, or the content found no room.
    REFUSED = "refused"
    #: AbortUpload.
    ABORTED = "aborted"
    #: No byte came for too long.
    EXPIRED = "expired"
    #: A newer upload of the same caller needs the slot (RSM-27).
    SLOT_NEEDED = "slot needed"
    #: The staging file was removed, and with it every trace of the outcome.
    STAGING_LOST = "staging lost"
    #: Its WriteFile ended early, and no caller can resume it (UPL-59).
    FORGOTTEN = "forgotten"


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.IDLE, Event.STREAM_ATTACHED): State.HELD,
    (State.IDLE, Event.STREAM_DISPLACED): State.IDLE,
    (State.IDLE, Event.ABORTED): State.ABORTED,
    (State.IDLE, Event.EXPIRED): State.EXPIRED,
    (State.IDLE, Event.SLOT_NEEDED): State.EXPIRED,
    (State.IDLE, Event.STAGING_LOST): State.LOST,
    (State.HELD, Event.STREAM_ATTACHED): State.HELD,
    (State.HELD, Event.STREAM_DISPLACED): State.IDLE,
    (State.HELD, Event.STREAM_LEFT): State.IDLE,
    (State.HELD, Event.FINISH_TAKEN): State.VERIFYING,
    (State.HELD, Event.REFUSED): State.ABORTED,
    (State.HELD, Event.ABORTED): State.ABORTED,
    (State.HELD, Event.EXPIRED): State.EXPIRED,
    (State.HELD, Event.STAGING_LOST): State.LOST,
    (State.HELD, Event.FORGOTTEN): State.LOST,
    # Only the stream that brought a finish decides about it.
    (State.VERIFYING, Event.FINISH_FAILED): State.HELD,
    (State.VERIFYING, Event.REFUSED): State.ABORTED,
    (State.VERIFYING, Event.PUBLISHED): State.PUBLISHED,
}

#: Events that only the stream that holds the upload can cause.
OF_THE_HOLDER: Final = frozenset(
    {
        Event.STREAM_LEFT,
        Event.FINISH_TAKEN,
        Event.FINISH_FAILED,
        Event.PUBLISHED,
        Event.REFUSED,
        Event.FORGOTTEN,
    }
)

_WIRE: Final[Mapping[State, WireState]] = {
    State.IDLE: files_pb2.UPLOAD_STATE_RECEIVING,
    State.HELD: files_pb2.UPLOAD_STATE_RECEIVING,
    State.VERIFYING: files_pb2.UPLOAD_STATE_VERIFYING,
    State.PUBLISHED: files_pb2.UPLOAD_STATE_PUBLISHED,
    State.ABORTED: files_pb2.UPLOAD_STATE_ABORTED,
    State.EXPIRED: files_pb2.UPLOAD_STATE_EXPIRED,
    State.LOST: files_pb2.UPLOAD_STATE_UNSPECIFIED,
}


def restored(wire: WireState) -> State:
    """Return the state of an unfinished upload whose row an earlier agent wrote: no stream holds it."""
    return State.VERIFYING if wire == files_pb2.UPLOAD_STATE_VERIFYING else State.IDLE


class UploadLife:
    """The state of one upload.

    Args:
        state: IDLE for a new upload; see `restored` for an old one.
    """

    def __init__(self, state: State = State.IDLE) -> None:
        self._state = state

    @property
    def state(self) -> State:
        """The current state."""
        return self._state

    def take(self, event: Event, *, of_holder: bool) -> bool:
        """Apply an event.

        Args:
            event: that happened.
            of_holder: the stream that holds the upload caused it.

        Returns:
            False if the table has no row for it, or only the holder may cause
            it; then the state is as it was.
        """
        if event in OF_THE_HOLDER and not of_holder:
            return False
        after = TRANSITIONS.get((self._state, event))
        if after is None:
            return False
        self._state = after
        return True


def superseded() -> TransferError:
    """Make the error for a stream whose upload another attempt took over (RSM-18)."""
    return TransferError(Reason.SUPERSEDED, "a newer attempt has taken the upload over")
