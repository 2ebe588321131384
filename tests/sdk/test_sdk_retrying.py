"""When to try again: the budget alone, without a connection."""

from __future__ import annotations

import pytest
from openshell_files import RetryPolicy
from openshell_files._core.error_mapping import error_from_reason
from openshell_files._core.retrying import RetryBudget
from openshell_files._core.token_exchange import credentials_error
from openshell_files.errors import FilesError
from openshell_files_protocol.reasons import Reason, Retry

LOST = error_from_reason(Reason.RELAY_LOST, "lost")


def budget(*, attempts: int = 3, random: float = 1.0, refresh: bool = False) -> RetryBudget:
    policy = RetryPolicy(attempts=attempts, initial_delay=1.0, max_delay=5.0)
    return RetryBudget(policy, lambda: random, may_refresh=refresh)


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
def test_policy_is_checked(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|must not|below 1"):
        RetryPolicy(**bad)
