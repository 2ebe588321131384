"""Which phase follows what, and how a caller sees it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openshell_files_gateway.sandboxes import phases
from openshell_files_gateway.sandboxes.phases import Event, Phase
from openshell_files_gateway.simulation.core.sandbox_message import (
    add_ignored_fields,
    changed_by,
    new_message,
)
from openshell_files_protocol.pb.openshell.v1 import sandboxes_pb2

PHASES = tuple(phases.READINESS)

#: Every pair that changes something; all others change nothing.
TABLE = {
    (phases.PROVISIONING, Event.CONNECTED): phases.READY,
    (phases.PROVISIONING, Event.FAILED): phases.ERROR,
    (phases.PROVISIONING, Event.STOP): phases.STOPPING,
    (phases.PROVISIONING, Event.DELETE): phases.DELETING,
    (phases.STARTING, Event.CONNECTED): phases.READY,
    (phases.STARTING, Event.FAILED): phases.ERROR,
    (phases.STARTING, Event.STOP): phases.STOPPING,
    (phases.STARTING, Event.DELETE): phases.DELETING,
    (phases.READY, Event.CONNECTED): phases.READY,
    (phases.READY, Event.DISCONNECTED): phases.PROVISIONING,
    (phases.READY, Event.FAILED): phases.ERROR,
    (phases.READY, Event.STOP): phases.STOPPING,
    (phases.READY, Event.DELETE): phases.DELETING,
    (phases.STOPPING, Event.STOPPED): phases.STOPPED,
    (phases.STOPPING, Event.DELETE): phases.DELETING,
    (phases.STOPPED, Event.START): phases.STARTING,
    (phases.STOPPED, Event.DELETE): phases.DELETING,
    (phases.ERROR, Event.STOP): phases.STOPPING,
    (phases.ERROR, Event.START): phases.STARTING,
    (phases.ERROR, Event.DELETE): phases.DELETING,
}


def name_of(phase: Phase) -> str:
    return sandboxes_pb2.SandboxPhase.Name(phase).removeprefix("SANDBOX_PHASE_")


@pytest.mark.parametrize("event", Event, ids=lambda event: event.name)
@pytest.mark.parametrize("phase", PHASES, ids=name_of)
def test_every_event_in_every_phase(phase: Phase, event: Event) -> None:
    """SBX-8, SBX-4."""
    assert phases.after(phase, event) == TABLE.get((phase, event))


def test_the_table_in_the_documentation_is_the_table() -> None:
    assert phases.__doc__ is not None
    rows = [line.strip("|").split("|") for line in phases.__doc__.splitlines() if line.startswith("|")]
    header, _, *body = [[cell.strip() for cell in row] for row in rows]
    documented = {
        (row[0], event): cell
        for row in body
        for event, cell in zip(header[1:], row[1:], strict=True)
        if cell != "-"
    }
    assert documented == {
        (name_of(phase), event.name.lower()): name_of(after) for (phase, event), after in TABLE.items()
    }


@given(st.lists(st.sampled_from(Event), max_size=30))
def test_whatever_happens_a_sandbox_that_is_deleted_stays_so(events: list[Event]) -> None:
    """SBX-3: and no supervisor makes one ready that nobody started (SBX-4)."""
    phase, may_run, deleted = phases.PROVISIONING, True, False
    for event in events:
        phase = phases.after(phase, event) or phase
        deleted = deleted or event is Event.DELETE
        if event in (Event.STOP, Event.FAILED):
            may_run = False
        elif event is Event.START:
            may_run = True
        assert (phase == phases.DELETING) == deleted
        assert may_run or phase != phases.READY


@given(st.lists(st.tuples(st.sampled_from(Event), st.text(max_size=5)), max_size=20))
def test_what_callers_see_follows_the_phase(events: list[tuple[Event, str]]) -> None:
    """SBX-8: one condition "Ready", whose time is that of the last change of the phase."""
    message = new_message("id", "name", "default", 1.0)
    add_ignored_fields(message, ["policy"])
    now, entered = 1.0, 1.0
    for event, why in events:
        now += 1
        changed = changed_by(message, event, why, now)
        if changed is None:
            continue
        assert changed.metadata.resource_version == message.metadata.resource_version + 1
        if changed.status.phase != message.status.phase:
            entered = now
            assert ready(changed).message == (why or phases.READINESS[changed.status.phase].message)
        message = changed
        assert ready(message).status == ("True" if message.status.phase == phases.READY else "False")
        assert ready(message).transition_time.ToNanoseconds() == entered * 1e9
        assert message.metadata.HasField("deletion_time") == (message.status.phase == phases.DELETING)
        assert [one.type for one in message.status.conditions if one.type != "Ready"] == ["SpecHeeded"]


def test_an_event_changes_a_copy() -> None:
    """Records are shared; whoever holds one sees it as it was."""
    message = new_message("id", "name", "default", 1.0)
    before = message.SerializeToString(deterministic=True)
    assert changed_by(message, Event.CONNECTED, "", 2.0) is not None
    assert message.SerializeToString(deterministic=True) == before


def ready(message: sandboxes_pb2.Sandbox) -> sandboxes_pb2.SandboxCondition:
    [condition] = [one for one in message.status.conditions if one.type == "Ready"]
    return condition
