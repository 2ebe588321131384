"""A peer that floods is waited with."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from openshell_files_gateway.core.pace import Pace


def test_a_burst_and_then_a_steady_stream() -> None:
    pace = Pace(per_second=10, at_once=5)
    assert [pace.take(100.0) for _ in range(5)] == [0.0] * 5
    assert abs(pace.take(100.0) - 0.1) < 1e-9
    assert abs(pace.take(100.0) - 0.2) < 1e-9
    assert pace.take(100.4) == 0.0


@given(st.lists(st.floats(0, 3), max_size=60), st.integers(1, 20), st.floats(0.5, 50))
def test_no_more_than_the_bound_in_any_time(pauses: list[float], at_once: int, per_second: float) -> None:
    """Whoever waits as told lets through at most the burst and what the time allows."""
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


def test_it_forgets() -> None:
    pace = Pace(per_second=10, at_once=5)
    pace.take(0.0)
    assert not pace.idle(0.0)
    assert pace.idle(0.1)
