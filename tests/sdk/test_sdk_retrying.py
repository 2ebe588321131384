"""When to try again: the budget, mostly without a connection."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import grpc
import pytest
from fake_file_gateway import FakeFile, FakeGateway, PlainStatus
from openshell_files import NO_RETRY, RetryPolicy
from openshell_files._core.retry import GatewayHistory, RetryBudget
from openshell_files._core.token_exchange import credentials_error
from openshell_files._error_mapping import error_from_status
from openshell_files._known_errors import error_from_reason
from openshell_files.errors import FilesError, Unavailable
from openshell_files_protocol import methods
from openshell_files_protocol.reasons import Reason, Retry
from sdk_flavours import Connect

LOST = error_from_reason(Reason.RELAY_LOST, "lost")


def budget(*, attempts: int = 3, random: float = 1.0, refresh: bool = False) -> RetryBudget:
    policy = RetryPolicy(attempts=attempts, initial_delay=1.0, max_delay=5.0, outage_attempts=attempts)
    return RetryBudget(policy, GatewayHistory(), lambda: random, may_refresh=refresh)


def pauses(budget: RetryBudget, error: FilesError) -> list[float]:
    """Return the pauses until the budget is used up."""
    found = list[float]()
    while True:
        try:
            found.append(budget.decide(error).delay)
        except FilesError:
            return found


@pytest.mark.parametrize("reason", Reason, ids=lambda r: r.name)
def test_only_what_the_table_allows(reason: Reason) -> None:
    error = error_from_reason(reason, "x")
    if reason.row.retry is Retry.NEVER:
        with pytest.raises(FilesError) as caught:
            budget().decide(error)
        assert caught.value is error
    else:
        assert budget().decide(error).restart == (reason.row.retry is Retry.RESTART)


def test_full_jitter_below_a_growing_bound() -> None:
    one = budget(attempts=10)
    assert [one.decide(LOST).delay for _ in range(5)] == [1, 2, 4, 5, 5]
    assert budget(random=0.0).decide(LOST).delay == 0
    assert budget(random=0.5).decide(LOST).delay == 0.5
    assert one.delay(10_000) == 5


def test_tries_are_counted_until_something_moves() -> None:
    one = budget(attempts=3)
    for _ in range(5):
        one.decide(LOST)
        one.decide(LOST)
        one.progressed()
    one.decide(LOST)
    one.decide(LOST)
    with pytest.raises(FilesError):
        one.decide(LOST)


def test_restarts_are_counted_for_ever() -> None:
    one = budget(attempts=3)
    changed = error_from_reason(Reason.FILE_CHANGED, "changed")
    one.decide(changed)
    one.progressed()
    one.decide(changed)
    one.progressed()
    with pytest.raises(FilesError):
        one.decide(changed)


def test_token_is_replaced_once() -> None:
    refused = error_from_reason(Reason.TOKEN_EXPIRED, "expired")
    one = budget(refresh=True)
    assert one.decide(refused).refresh_token
    with pytest.raises(FilesError):
        one.decide(refused)
    one.progressed()
    assert one.decide(refused).refresh_token, "hours later the new one expires too"
    with pytest.raises(FilesError):
        budget(refresh=False).decide(refused)
    with pytest.raises(FilesError):
        budget(refresh=True).decide(credentials_error("no issuer", ""))


def test_the_servers_delay() -> None:
    asked = error_from_reason(Reason.DISK_FULL, "full", retry_delay=30.0)
    assert budget(random=0.0).decide(asked).delay == 30
    with pytest.raises(FilesError):
        budget().decide(error_from_reason(Reason.DISK_FULL, "full", retry_delay=61.0))


@pytest.mark.parametrize("bad", [{"attempts": 0}, {"max_delay": -1}, {"multiplier": 0.5}])
def test_policy_is_checked(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|must not|below 1"):
        RetryPolicy(**bad)


def default_budget(*, answered: bool, random: Random) -> RetryBudget:
    return RetryBudget(RetryPolicy(), GatewayHistory(answered), random.random, may_refresh=False)


def test_defaults_outlast_a_restart_of_the_gateway() -> None:
    """Ten seconds, and two until gRPC connects again; whatever the dice say, but for one client in a thousand."""
    dice = Random(1)
    lasted = [sum(pauses(default_budget(answered=True, random=dice), LOST)) for _ in range(2000)]
    assert sum(seconds < 12 for seconds in lasted) <= 2
    assert max(lasted) < 60


def test_defaults_do_not_wait_for_a_wrong_endpoint() -> None:
    dice = Random(1)
    refused = error_from_status(14, "failed to connect to all addresses", ())
    lasted = [sum(pauses(default_budget(answered=False, random=dice), refused)) for _ in range(2000)]
    assert max(lasted) < 8


def test_only_what_is_away_is_an_outage() -> None:
    """A full disk is not waited for longer because the gateway answers."""
    full = error_from_reason(Reason.DISK_FULL, "full")
    dice = Random(1)
    assert len(pauses(default_budget(answered=True, random=dice), full)) == RetryPolicy().attempts - 1
    assert len(pauses(default_budget(answered=True, random=dice), LOST)) == RetryPolicy().outage_attempts - 1


def test_one_attempt_is_one() -> None:
    one = RetryBudget(NO_RETRY, GatewayHistory(answered=True), lambda: 1.0, may_refresh=False)
    assert pauses(one, LOST) == []


def test_what_advances_is_acquainted() -> None:
    gateway = GatewayHistory()
    RetryBudget(RetryPolicy(), gateway, lambda: 1.0, may_refresh=False).progressed()
    assert gateway.answered


@pytest.mark.parametrize("first", ["stat", "write_bytes", "read_bytes"])
def test_an_outage_after_any_answer(connect: Connect, gateway: FakeGateway, first: str) -> None:
    """A client that was served once waits longer, in every later transfer."""
    policy = RetryPolicy(attempts=2, outage_attempts=8, initial_delay=0.0)
    files = connect(retry=policy)
    gateway.files["x"] = FakeFile(b"1")
    away = PlainStatus(grpc.StatusCode.UNAVAILABLE, "away")
    gateway.failures[methods.STAT_FILE].extend([away] * 2)
    with pytest.raises(Unavailable):
        files.stat("x")
    calls: dict[str, Callable[[], object]] = {
        "stat": lambda: files.stat("x"),
        "write_bytes": lambda: files.write_bytes("y", b"2"),
        "read_bytes": lambda: files.read_bytes("x"),
    }
    calls[first]()
    gateway.failures[methods.STAT_FILE].extend([away] * 7)
    assert files.stat("x").size == 1
    gateway.failures[methods.STAT_FILE].extend([away] * 8)
    with pytest.raises(Unavailable):
        files.stat("x")
