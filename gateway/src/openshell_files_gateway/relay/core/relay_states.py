"""The states of a relay to a file agent, and what leads from one to the next (FRM-9)."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class RelayState(StrEnum):
    """Where a relay is in its life."""

    #: The supervisor was asked, and has not claimed it.
    OPENING = "opening"
    #: An operation has it, and awaits the agent's last frame.
    IN_USE = "in use"
    #: An operation has it, and the agent's last frame is here.
    ANSWERED = "answered"
    #: It waits in the pool for the next operation.
    IDLE = "idle"
    #: It is over.
    CLOSED = "closed"


class RelayEvent(StrEnum):
    """What changes a relay's state."""

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
    """One relay's state, which only `after` changes.

    Attributes:
        state: where the relay is.
        operations: how many have had it, the present one included.
    """

    def __init__(self) -> None:
        self.state = RelayState.OPENING
        self.operations = 0

    def __repr__(self) -> str:
        return f"{self.state}, operation {self.operations}"

    def after(self, event: RelayEvent) -> None:
        """Change the state.

        Raises:
            ValueError: the event cannot happen in this state; a bug of the gateway.
        """
        state = _NEXT.get((self.state, event))
        if state is None:
            raise ValueError(f"{event} of a relay that is {self.state}")
        self.operations += event in {RelayEvent.CLAIM, RelayEvent.REUSE}
        self.state = state
