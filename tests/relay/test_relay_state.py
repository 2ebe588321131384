"""The states of a relay (FRM-26)."""

from __future__ import annotations

import itertools

import pytest
from openshell_files_gateway.relay.core.relay_states import RelayEvent, RelayLife, RelayState

#: What each event makes of each state; anything else is a bug.
TABLE = {
    (RelayState.OPENING, RelayEvent.CLAIM): RelayState.IN_USE,
    (RelayState.IN_USE, RelayEvent.ANSWER): RelayState.ANSWERED,
    (RelayState.ANSWERED, RelayEvent.RETURN): RelayState.IDLE,
    (RelayState.IDLE, RelayEvent.REUSE): RelayState.IN_USE,
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(RelayState, RelayEvent)))
def test_each_event_in_each_state(state: RelayState, event: RelayEvent) -> None:
    life = RelayLife()
    life.state = state
    expected = RelayState.CLOSED if event is RelayEvent.CLOSE else TABLE.get((state, event))
    if expected is None:
        with pytest.raises(ValueError, match=f"{event} of a relay that is {state}"):
            life.after(event)
        assert life.state is state
        assert life.operations == 0
    else:
        life.after(event)
        assert life.state is expected
        assert life.operations == (event in {RelayEvent.CLAIM, RelayEvent.REUSE})


def test_a_relay_shows_its_state() -> None:
    life = RelayLife()
    for event in (RelayEvent.CLAIM, RelayEvent.ANSWER, RelayEvent.RETURN, RelayEvent.REUSE):
        life.after(event)
    assert repr(life) == "in use, operation 2"
