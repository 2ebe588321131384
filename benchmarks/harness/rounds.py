"""Rounds: ours and another's side by side, interleaved, so that what the machine does meanwhile happens to both."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.pages import take_before
from harness.processes import Measured

Work = Callable[[], Measured]

#: Returns the seconds that each of many calls took.
Calls = Callable[[], list[float]]

#: Notes what a target's figure came to: its key in TARGETS, and the figure.
Reach = Callable[[str, "Spread"], None]

#: Runs something while processes, by name, are watched.
Watched = Callable[[Callable[[], object], Mapping[str, Sequence[int]]], Measured]

#: Single latencies kept of one test, so that results stay small.
_LATENCIES_KEPT = 2000


class Benchmark(Protocol):
    """pytest-benchmark's fixture, as far as it is used here."""

    extra_info: dict[str, Any]

    def pedantic(
        self,
        target: Callable[[], object],
        *,
        setup: Callable[[], None] | None = None,
        rounds: int,
        iterations: int = 1,
    ) -> object: ...


@dataclass(frozen=True)
class Spread:
    """A median, and the least and most beside it."""

    median: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum values up."""
        return cls(statistics.median(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f} to {self.most:.2f}, {self.count} rounds)"


@dataclass(frozen=True)
class Pairs:
    """Interleaved measurements of ours and of a baseline.

    Attributes:
        ours: in the order of the rounds.
        baseline: the same rounds.
    """

    ours: tuple[Measured, ...]
    baseline: tuple[Measured, ...]

    @property
    def speed_ratio(self) -> Spread:
        """How many times as fast ours is, by pair."""
        return Spread.of([b.seconds / o.seconds for o, b in zip(self.ours, self.baseline, strict=True)])

    @property
    def time_ratio(self) -> Spread:
        """How much of the baseline's time ours takes, by pair."""
        return Spread.of([o.seconds / b.seconds for o, b in zip(self.ours, self.baseline, strict=True)])

    def cpu_ratio(self, ours: Sequence[str], baseline: Sequence[str]) -> Spread:
        """CPU seconds of some of our processes against some of the baseline's, by pair."""
        return Spread.of(
            [o.cpu(*ours) / b.cpu(*baseline) for o, b in zip(self.ours, self.baseline, strict=True)]
        )


def place(benchmark: Benchmark, chart: str, series: str, x: float) -> None:
    """Say where in the report's charts a test's figure belongs.

    Args:
        benchmark: of the test.
        chart: one of `harness.report.CHARTS`.
        series: the line it is on.
        x: the place on the horizontal axis.
    """
    benchmark.extra_info["point"] = {"chart": chart, "series": series, "x": x}


def interleaved(
    benchmark: Benchmark, ours: Work, baseline: Work, *, rounds: int, size: int = 0, against: str = "baseline"
) -> Pairs:
    """Run both in turn; pytest-benchmark times ours, and its `extra_info` has the rest.

    One round of each goes before, unmeasured: pages, caches and connections
    are there when the first pair begins. Before each measurement the memory
    for its files is taken and let go (`harness.pages`).

    Args:
        benchmark: of the test.
        ours: one measurement of ours.
        baseline: one of what it is compared with.
        rounds: how many of each.
        size: bytes that each moves, for the report.
        against: what the baseline is, for the report.
    """
    ours()
    baseline()
    mine: list[Measured] = []
    theirs: list[Measured] = []

    def before_ours() -> None:
        take_before(size)
        theirs.append(baseline())
        take_before(size)

    benchmark.pedantic(lambda: mine.append(ours()), setup=before_ours, rounds=rounds, iterations=1)
    pairs = Pairs(tuple(mine), tuple(theirs))
    _note(benchmark, mine, size)
    benchmark.extra_info |= {
        "against": against,
        "baseline_seconds": [one.seconds for one in theirs],
        "baseline_cpu": cpu_of(theirs),
        "speed_ratio": [b.seconds / o.seconds for o, b in zip(mine, theirs, strict=True)],
    }
    return pairs


def alone(
    benchmark: Benchmark, work: Work, *, rounds: int, size: int = 0, warm: bool = True
) -> tuple[Measured, ...]:
    """Run one thing; the median of its rounds is pytest-benchmark's.

    Args:
        benchmark: of the test.
        work: one measurement.
        rounds: how many.
        size: bytes that it moves, for the report.
        warm: whether one round goes before, unmeasured.
    """
    if warm:
        work()
    measured: list[Measured] = []
    benchmark.pedantic(
        lambda: measured.append(work()), setup=lambda: take_before(size), rounds=rounds, iterations=1
    )
    _note(benchmark, measured, size)
    return tuple(measured)


def latencies(
    benchmark: Benchmark, ours: Calls, baseline: Calls, *, rounds: int, names: tuple[str, str]
) -> Spread:
    """Compare single calls: in each round many of ours and many of the baseline's.

    Args:
        benchmark: of the test.
        ours: makes our calls.
        baseline: makes the others.
        rounds: how many of each.
        names: of ours and of the baseline, for the report.

    Returns:
        Per round, the baseline's median against ours: how many times as fast ours is.
    """
    ours()
    baseline()
    mine: list[list[float]] = []
    theirs: list[list[float]] = []
    benchmark.pedantic(
        lambda: mine.append(ours()), setup=lambda: theirs.append(baseline()), rounds=rounds, iterations=1
    )
    benchmark.extra_info["latencies"] = {names[0]: _kept(mine), names[1]: _kept(theirs)}
    ratios = [
        statistics.median(other) / statistics.median(own) for own, other in zip(mine, theirs, strict=True)
    ]
    benchmark.extra_info["speed_ratio"] = ratios
    return Spread.of(ratios)


def latencies_alone(benchmark: Benchmark, ours: Calls, *, rounds: int, name: str) -> Spread:
    """Measure single calls; returns each round's median, in seconds."""
    ours()
    mine: list[list[float]] = []
    benchmark.pedantic(lambda: mine.append(ours()), rounds=rounds, iterations=1)
    benchmark.extra_info["latencies"] = {name: _kept(mine)}
    return Spread.of([statistics.median(one) for one in mine])


def cpu_of(measured: Sequence[Measured]) -> Mapping[str, list[float]]:
    """Return CPU seconds by process, in the order of the rounds."""
    return {name: [one.usage[name].cpu for one in measured] for name in measured[0].usage}


def _note(benchmark: Benchmark, measured: Sequence[Measured], size: int) -> None:
    benchmark.extra_info |= {
        "bytes": size,
        "ours_seconds": [one.seconds for one in measured],
        "ours_cpu": cpu_of(measured),
        "memory": {name: usage.samples for name, usage in measured[-1].usage.items()},
    }


def _kept(rounds: Sequence[Sequence[float]]) -> list[float]:
    every = [round(seconds, 7) for one in rounds for seconds in one]
    return every[:: max(1, len(every) // _LATENCIES_KEPT)]
