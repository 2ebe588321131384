"""The rules of relays that wait: who may claim what, and how many may wait."""

from __future__ import annotations

import pytest
from openshell_files_gateway.relay.core.waiting_relays import RelayTable
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

SESSION = "session-1"


def table(**options: float) -> RelayTable:
    return RelayTable(
        max_pending=int(options.get("max_pending", 256)),
        max_pending_per_sandbox=int(options.get("per_sandbox", 32)),
        pending_seconds=options.get("seconds", 10.0),
    )


def test_an_unknown_channel_cannot_be_claimed() -> None:
    """RLY-3; upstream: claim_relay_unknown_channel."""
    with pytest.raises(TransferError) as caught:
        table().claim("nothing", "a", now=0)
    assert caught.value.reason is Reason.RELAY_UNKNOWN


def test_a_channel_is_claimed_once() -> None:
    """RLY-3; upstream: claim_relay_success."""
    relays = table()
    relays.open("c", "a", SESSION, now=0)
    assert relays.claim("c", "a", now=1).sandbox_id == "a"
    with pytest.raises(TransferError) as caught:
        relays.claim("c", "a", now=1)
    assert caught.value.reason is Reason.RELAY_UNKNOWN
    assert relays.statistics().pending == 0


def test_another_sandbox_cannot_claim_and_does_not_use_the_channel_up() -> None:
    """RLY-15; upstream: claim_relay_rejects_cross_sandbox_principal_without_consuming_channel."""
    relays = table()
    relays.open("c", "a", SESSION, now=0)
    with pytest.raises(TransferError) as caught:
        relays.claim("c", "b", now=1)
    assert caught.value.reason is Reason.SANDBOX_MISMATCH
    assert relays.claim("c", "a", now=1).channel_id == "c"


def test_a_late_claim_times_out_and_uses_the_channel_up() -> None:
    """RLY-14; upstream: claim_relay_expired_returns_deadline_exceeded."""
    relays = table(seconds=10)
    relays.open("c", "a", SESSION, now=0)
    with pytest.raises(TransferError) as caught:
        relays.claim("c", "a", now=10.5)
    assert caught.value.reason is Reason.RELAY_TIMEOUT
    with pytest.raises(TransferError) as caught:
        relays.claim("c", "a", now=10.5)
    assert caught.value.reason is Reason.RELAY_UNKNOWN


def test_the_bound_over_all_sandboxes() -> None:
    """Upstream: open_relay_rejects_when_global_cap_reached."""
    relays = table(max_pending=3)
    for number in range(3):
        relays.open(f"c{number}", f"sandbox-{number}", SESSION, now=0)
    with pytest.raises(TransferError) as caught:
        relays.open("c3", "sandbox-3", SESSION, now=0)
    assert caught.value.reason is Reason.TOO_MANY_TRANSFERS
    assert caught.value.retry_delay is not None
    relays.abandon("c0")
    relays.open("c3", "sandbox-3", SESSION, now=0)


def test_the_bound_of_one_sandbox_does_not_concern_another() -> None:
    """Upstream: open_relay_rejects_when_per_sandbox_cap_reached."""
    relays = table(per_sandbox=2)
    relays.open("c0", "a", SESSION, now=0)
    relays.open("c1", "a", SESSION, now=0)
    with pytest.raises(TransferError) as caught:
        relays.open("c2", "a", SESSION, now=0)
    assert caught.value.reason is Reason.TOO_MANY_TRANSFERS
    relays.open("c3", "b", SESSION, now=0)
    relays.claim("c0", "a", now=0)
    relays.open("c4", "a", SESSION, now=0)


def test_overdue_relays_are_reaped_and_fresh_ones_kept() -> None:
    """Upstream: reap_expired_relays_removes_old_entries, _keeps_fresh_entries."""
    relays = table(seconds=10)
    relays.open("old", "a", SESSION, now=0)
    relays.open("fresh", "a", SESSION, now=8)
    assert [relay.channel_id for relay in relays.expire(now=12)] == ["old"]
    assert relays.statistics().pending == 1
    assert relays.claim("fresh", "a", now=12).channel_id == "fresh"


def test_a_refusal_by_another_sandbox_means_nothing() -> None:
    """RLY-5: upstream does not check whose the channel is; here only its sandbox may refuse it."""
    relays = table()
    relays.open("c", "a", SESSION, now=0)
    assert relays.refuse("c", "b") is None
    refused = relays.refuse("c", "a")
    assert refused is not None
    assert relays.refuse("c", "a") is None


def test_a_new_session_is_told_of_what_waits_and_told_once() -> None:
    """RLY-16; upstream: replay_pending_relays_reissues_open_to_superseding_session."""
    relays = table()
    relays.open("c", "a", SESSION, now=0)
    relays.open("other", "b", SESSION, now=0)
    assert relays.undelivered("a", SESSION) == []
    assert [relay.channel_id for relay in relays.undelivered("a", "session-2")] == ["c"]
    assert relays.undelivered("a", "session-2") == []
