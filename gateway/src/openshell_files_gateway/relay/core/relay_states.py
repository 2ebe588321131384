"""The states of a relay to a file agent, and the events between them (FRM-26)."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class RelayState(StrEnum):
    """State of a relay."""

    #: The supervisor has the request, and has not claimed the relay.
    OPENING = "opening"
    #: An operation uses it, and waits for the agent's last frame.
    IN_USE = "in use"
    #: An operation uses it, and has received the agent's last frame.
    ANSWERED = "answered"
    #: The pool has it, for the next operation.
    IDLE = "idle"
    #: It has ended.
    CLOSED = "closed"


class RelayEvent(StrEnum):
    """Event that changes a relay's state."""

    CLAIM = "claim"
    ANSWER = "answer"
    RETURN = "return"
    REUSE = "reuse"
    CLOSE = "close"


_NEXT: Final = {
    (RelayState.OPENING, RelayEvent.CLAIM): RelayState.IN_USE,
    (RelayState.IN_USE, RelayEvent.ANSWER): RelayState.ANSWERED,
    (RelayState.ANSWERED, RelayEvent.RETURN): RelayState.IDLE,
    (RelayState.IDLE, RelayEvent.REUSE): RelayState.IN_USE,
} | {(state, RelayEvent.CLOSE): RelayState.CLOSED for state in RelayState}


class RelayLife:
    """The state of one relay; only `after` changes it.

    Attributes:
        state: current state.
        operations: number of operations so far, the current one included.
    """

    def __init__(self) -> None:
        self.state = RelayState.OPENING
        self.operations = 0

    def __repr__(self) -> str:
        return f"{self.state}, operation {self.operations}"

    def after(self, event: RelayEvent) -> None:
        """Apply an event.

        Raises:
            ValueError: the event is impossible in this state, which is a bug of the gateway.
        """
        state = _NEXT.get((self.state, event))
        if state is None:
            raise ValueError(f"{event} of a relay that is {self.state}")
        self.operations += event in {RelayEvent.CLAIM, RelayEvent.REUSE}
        self.state = state
