"""A peer that is too fast is waited with, and one that floods is found out."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openshell_files_gateway.relay.paces import SupervisorPaces
from openshell_files_gateway.relay.targets import CommandTarget, FileAgentTarget
from openshell_files_gateway.server.core.pace import BAN_SECONDS, Pace, PaceTable


def test_a_burst_and_then_a_steady_stream() -> None:
    pace = Pace(per_second=10, at_once=5)
    assert [pace.take(100.0) for _ in range(5)] == [0.0] * 5
    assert abs(pace.take(100.0) - 0.1) < 1e-9
    assert abs(pace.take(100.0) - 0.2) < 1e-9
    assert pace.take(100.4) == 0.0


@given(st.lists(st.floats(0, 3), max_size=60), st.integers(1, 20), st.floats(0.5, 50))
def test_no_more_than_the_bound_in_any_time(pauses: list[float], at_once: int, per_second: float) -> None:
    """RLY-10: whoever waits as told lets through at most the burst and what the time allows."""
    pace, now = Pace(per_second=per_second, at_once=at_once), 1000.0
    passed: list[float] = []
    for pause in pauses:
        now += pause
        now += pace.take(now)
        passed.append(now)
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            allowed = at_once + (passed[last] - passed[first]) * per_second
            assert last - first + 1 <= allowed + 1 + 1e-6


@pytest.mark.parametrize(("per_second", "cost"), [(500.0, 10.0), (200.0, 1.0), (1000.0, 1e9)])
def test_nobody_waits_longer_than_the_other_bans(per_second: float, cost: float) -> None:
    """RLY-26: whatever was taken, the debt ends after half a minute."""
    pace = Pace(per_second=per_second, at_once=500)
    waits = [pace.take(100.0, cost) for _ in range(20_000)]
    assert max(waits) <= BAN_SECONDS
    assert pace.take(100.0 + BAN_SECONDS) <= 1 / per_second + 1e-9


def test_what_may_not_come_now_costs_nothing() -> None:
    pace = Pace(per_second=10, at_once=2)
    assert [pace.spare(100.0) for _ in range(50)] == [True, True, *[False] * 48]
    assert [pace.spare(100.15), pace.spare(100.15)] == [True, False]


def test_it_forgets() -> None:
    pace = Pace(per_second=10, at_once=5)
    pace.take(0.0)
    assert not pace.idle(0.0)
    assert pace.idle(0.1)


def test_what_counts_more_and_what_pays_for_others() -> None:
    pace = Pace(per_second=10, at_once=5)
    assert pace.take(100.0, 10.0) == 0.5
    assert pace.take(100.0, -3.0) == 0.2
    assert pace.take(100.0, -100.0) == 0.0
    assert [pace.take(100.0) for _ in range(6)] == [0.0] * 5 + [0.1], "no more is saved than comes at once"


def test_a_table_forgets_who_rests() -> None:
    table = PaceTable(per_second=10, at_once=5, max_peers=2)
    busy, resting = table.of("busy", 100.0), table.of("resting", 100.0)
    for _ in range(50):
        busy.take(100.0)
    resting.take(100.0)
    table.of("new", 101.0)
    assert table.of("busy", 101.0) is busy
    assert table.of("resting", 101.0) is not resting


def test_who_goes_on_above_the_pace_is_flooding() -> None:
    """RLY-25: not by a burst, nor by two with a rest between, but by a second without a break; then at once."""
    pace = Pace(per_second=10, at_once=5, patience=1.0)
    for now in (100.0, 101.0):
        for _ in range(8):
            pace.take(now)
        assert not pace.flooding(now)
    now = 102.0
    flooding = list[bool]()
    while now < 104.0:
        now += pace.take(now)
        flooding.append(pace.flooding(now))
    assert flooding.index(True) == pytest.approx(15, abs=3)
    assert all(flooding[flooding.index(True) :])
    assert 0 < pace.banned(now) <= BAN_SECONDS
    assert not pace.idle(now + 1)
    later = now + 2.0
    pace.take(later)
    assert not pace.flooding(later), "within its pace it is listened to"
    for _ in range(6):
        pace.take(later)
    assert pace.flooding(later), "and not again a second longer"
    assert not pace.banned(later + BAN_SECONDS)


async def test_commands_are_waited_with_for_ever() -> None:
    """RLY-27: the same small pieces are a flood in a file relay, and not in a command's."""
    paces, now = SupervisorPaces(), asyncio.get_running_loop().time()
    command = paces.of_relay("sandbox", CommandTarget("transfer"))
    file = paces.of_relay("sandbox", FileAgentTarget("transfer"))
    floods = {"command": False, "file": False}
    for step in range(6000):
        for name, pace in (("command", command), ("file", file)):
            pace.take(now + step / 2000)
            floods[name] |= pace.flooding(now + step / 2000)
    assert floods == {"command": False, "file": True}
    assert not command.banned(now + 3)


def test_nobody_floods_where_patience_has_no_end() -> None:
    """RLY-27."""
    pace, now = Pace(per_second=10, at_once=5), 100.0
    for _ in range(500):
        now += pace.take(now)
        assert not pace.flooding(now)
