"""Every scenario of upstream's tests for sessions and relays is named by a test here, or it is said why not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

#: Names of upstream's tests: its integration test of the relay, the unit tests of its gateway and of its supervisor.
SCENARIOS = [
    "relay_round_trips_bytes",
    "relay_closes_cleanly_when_gateway_drops",
    "relay_sees_eof_when_supervisor_closes",
    "open_relay_times_out_when_no_session",
    "concurrent_relays_multiplex_independently",
    "open_relay_enforces_per_sandbox_cap_under_concurrent_burst",
    "registry_register_and_lookup",
    "registry_supersedes_previous_session",
    "registry_remove",
    "remove_if_current_removes_matching_session",
    "remove_if_current_ignores_stale_session_id",
    "remove_if_current_unknown_sandbox_is_noop",
    "open_relay_sends_relay_open_to_registered_session",
    "open_relay_times_out_without_session",
    "open_relay_waits_for_session_to_appear",
    "open_relay_fails_when_session_receiver_dropped",
    "open_relay_rejects_when_global_cap_reached",
    "open_relay_rejects_when_per_sandbox_cap_reached",
    "open_relay_uses_newest_session_after_supersede",
    "register_signals_shutdown_to_previous_session",
    "replay_pending_relays_reissues_open_to_superseding_session",
    "require_persisted_sandbox_rejects_missing_sandbox",
    "require_persisted_sandbox_accepts_existing_sandbox",
    "expected_transport_close_is_nonfatal_only_during_shutdown",
    "unexpected_transport_error_stays_fatal_during_shutdown",
    "sandbox_proto_terminating_detects_deleting_phase",
    "sandbox_proto_terminating_detects_deletion_timestamp",
    "sandbox_proto_running_is_not_terminating",
    "claim_relay_unknown_channel",
    "claim_relay_success",
    "claim_relay_rejects_cross_sandbox_principal_without_consuming_channel",
    "claim_relay_rejects_user_principal",
    "relay_open_failure_completes_pending_waiter",
    "claim_relay_expired_returns_deadline_exceeded",
    "claim_relay_receiver_dropped_returns_internal",
    "claim_relay_connects_both_ends",
    "reap_expired_relays_removes_old_entries",
    "reap_expired_relays_keeps_fresh_entries",
    "connect_tcp_target_sets_tcp_nodelay",
    "tcp_target_allows_loopback_hosts",
    "tcp_target_normalizes_localhost_before_dialing",
    "tcp_target_rejects_non_loopback_hosts",
    "tcp_target_rejects_invalid_ports",
    "session_established",
    "session_closed",
    "session_failed",
    "relay_open",
    "tcp_relay_open",
    "relay_closed",
    "relay_failed",
    "relay_close_from_gateway",
    "map_stream_message_treats_eof_as_reconnectable_error",
    "map_session_stream_message_allows_expected_close_during_shutdown",
    "map_session_stream_message_keeps_transport_close_fatal_when_not_shutting_down",
    "map_session_stream_message_keeps_unexpected_error_fatal_during_shutdown",
]

#: Those without a counterpart, and why.
ELSEWHERE = {
    "gateway_endpoint_parses_*": "an address is HOST:PORT here; upstream cuts it out of a URL for an audit event",
    "ssh_target_requires_authenticated_supervisor_peer_pid": "no SSH server is spoken to (ADR 0013)",
}


def docstrings() -> Iterator[str]:
    for file in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield ast.get_docstring(node) or ""


WORDS = {word.strip(".,:;()") for text in docstrings() for word in text.split()}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_scenario_of_upstream_is_named(scenario: str) -> None:
    assert scenario in WORDS


def test_the_list_is_whole() -> None:
    assert len(SCENARIOS) == len(set(SCENARIOS)) == 55
    assert ELSEWHERE.keys().isdisjoint(SCENARIOS)
