"""Which session speaks for a sandbox."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from openshell_files_gateway.relay.core.session_table import SessionTable
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason


@dataclass(frozen=True)
class FakeSession:
    session_id: str
    sandbox_id: str
    instance_id: str = ""
    connection_epoch: int = 0


def test_a_registered_session_is_found_and_no_other() -> None:
    """Upstream: registry_register_and_lookup."""
    sessions = SessionTable[FakeSession]()
    session = FakeSession("1", "a")
    assert sessions.register(session) is None
    assert sessions.find("a") is session
    assert sessions.find("b") is None


def test_a_newer_session_supersedes_the_older() -> None:
    """RLY-4; upstream: registry_supersedes_previous_session."""
    sessions = SessionTable[FakeSession]()
    old, new = FakeSession("1", "a"), FakeSession("2", "a")
    sessions.register(old)
    assert sessions.register(new) is old
    assert sessions.find("a") is new
    assert sessions.statistics().superseded == 1


def test_the_end_of_a_superseded_session_changes_nothing() -> None:
    """RLY-4; upstream: remove_if_current_ignores_stale_session_id."""
    sessions = SessionTable[FakeSession]()
    old, new = FakeSession("1", "a"), FakeSession("2", "a")
    sessions.register(old)
    sessions.register(new)
    assert not sessions.remove(old)
    assert sessions.find("a") is new
    assert sessions.remove(new)
    assert sessions.find("a") is None


@pytest.mark.parametrize("epochs", [(2, 2), (2, 3), (0, 1), (1, 0), (0, 0)])
def test_a_later_connection_supersedes(epochs: tuple[int, int]) -> None:
    """RLY-4: so does one of a supervisor that does not count its connections."""
    sessions = SessionTable[FakeSession]()
    old = FakeSession("1", "a", "supervisor", epochs[0])
    sessions.register(old)
    assert sessions.register(FakeSession("2", "a", "supervisor", epochs[1])) is old


def test_an_earlier_connection_of_the_same_supervisor_does_not_supersede() -> None:
    """RLY-6: its hello was held back on the way."""
    sessions = SessionTable[FakeSession]()
    late = FakeSession("2", "a", "supervisor", 2)
    sessions.register(late)
    with pytest.raises(TransferError) as refused:
        sessions.register(FakeSession("1", "a", "supervisor", 1))
    assert refused.value.reason is Reason.SESSION_OUTDATED
    assert sessions.find("a") is late
    assert sessions.statistics().superseded == 0


def test_another_supervisor_counts_for_itself() -> None:
    """RLY-4, RLY-6: a restarted supervisor begins to count again."""
    sessions = SessionTable[FakeSession]()
    old = FakeSession("1", "a", "supervisor", 9)
    sessions.register(old)
    assert sessions.register(FakeSession("2", "a", "its successor", 1)) is old


def test_removing_what_is_not_there_is_no_error() -> None:
    """Upstream: remove_if_current_unknown_sandbox_is_noop."""
    assert not SessionTable[FakeSession]().remove(FakeSession("1", "a"))
