"""Which session speaks for a sandbox."""

from __future__ import annotations

from dataclasses import dataclass

from openshell_files_gateway.core.sessions import SessionTable


@dataclass(frozen=True)
class FakeSession:
    session_id: str
    sandbox_id: str


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


def test_removing_what_is_not_there_is_no_error() -> None:
    """Upstream: remove_if_current_unknown_sandbox_is_noop."""
    assert not SessionTable[FakeSession]().remove(FakeSession("1", "a"))
