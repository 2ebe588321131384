"""The report's charts, each with a table of the same figures; nothing where nothing was run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from harness.page import html_table, people_bytes, people_name
from harness.results import MIB, Test
from harness.svg import Point, bars, lines

#: Below this, throughput is the price of a call and says nothing of bytes.
_LEAST_FOR_RATE: Final = 64 << 10

#: What CPU is shown of: the others are the same transfers over something slow.
_CPU_GROUPS: Final = frozenset(
    {"sizes", "chunks", "against ssh", "RFC-only client", "TLS", "digests", "durability"}
)


@dataclass(frozen=True)
class Chart:
    """A chart of throughput.

    Attributes:
        label: of the horizontal axis.
        expression: chooses the tests that feed it, for `K=`.
        written: how a number on that axis is written.
        log: whether that axis is logarithmic.
        log_y: whether throughput is; it is if it goes from next to nothing to everything.
        even: whether the places are next to each other, whatever their numbers.
    """

    label: str
    expression: str
    written: Callable[[float], str] = "{:g}".format
    log: bool = True
    log_y: bool = False
    even: bool = False


CHARTS: Final[Mapping[str, Chart]] = {
    "chunk size": Chart("content of a chunk", "test_chunk", people_bytes),
    "file size": Chart("file size", "test_size", people_bytes, log_y=True, even=True),
    "round-trip time, upload": Chart("round-trip time, ms", "test_link", log=False, log_y=True, even=True),
    "round-trip time, download": Chart("round-trip time, ms", "test_link", log=False, log_y=True, even=True),
    "transfers at once": Chart("transfers at once", "test_many"),
}


@dataclass(frozen=True)
class Compared:
    """A chart of pairs. What people would use instead, what nobody can fall below, and ours without something are not one scale.

    Attributes:
        title: of the section.
        groups: of the benchmarks in it.
        expression: chooses the tests that feed it, for `K=`.
        other: what the second bar of each pair is called.
    """

    title: str
    groups: frozenset[str]
    expression: str
    other: str


COMPARED: Final = (
    Compared(
        "Ours beside what people use today",
        frozenset({"against ssh", "against exec", "RFC-only client"}),
        '"against and not bare and not cpu and not copy"',
        "the other",
    ),
    Compared("Ours beside its floors", frozenset({"limits"}), '"bare or cpu or copy"', "the floor"),
    Compared(
        "Ours with and without",
        frozenset({"TLS", "digests", "durability", "resume", "archives"}),
        '"tls or digests or durability or cut_at_half or packed"',
        "without",
    ),
)


def baselines(tests: Sequence[Test], kind: Compared) -> str:
    """Return ours beside each baseline of one kind; nothing if none was run."""
    compared = [test for test in tests if test.bytes and test.baseline_rate and test.group in kind.groups]
    chart = bars(
        {_pair(test): {"ours": test.rate, kind.other: test.baseline_rate or 0.0} for test in compared},
        x_label="MiB/s",
    )
    rows = [
        [
            escape(people_name(test.name)), escape(str(test.extra.get("against", ""))), f"{test.rate:.0f}",
            f"{test.baseline_rate:.0f}", *_ratio(test),
        ]
        for test in compared
    ]  # fmt: skip
    return chart + html_table(
        ["test", "against", "ours, MiB/s", f"{kind.other}, MiB/s", "ratio of pairs", "least to most"],
        rows,
        text_columns=2,
    )


def _pair(test: Test) -> str:
    """Name a pair by what it is against; what is in the test's name already is not said twice."""
    if test.group == "durability":
        return f"upload, fsync: {test.extra.get('against', '')}"
    direction = "download" if "download" in test.name else "upload"
    name = people_name(test.name).partition(",")[0]
    against = str(test.extra.get("against", "baseline"))
    about = f" ({name})" if test.group in {"RFC-only client", "resume"} else ""
    parameters = test.name.partition("[")[2].removesuffix("]").removeprefix(f"{direction}-")
    which = f" ({parameters})" if test.group == "digests" else about
    return f"{direction}: {against}{which}"


def _ratio(test: Test) -> tuple[str, str]:
    ratios: Sequence[float] = test.extra["speed_ratio"]
    return f"{statistics.median(ratios):.2f} x", f"{min(ratios):.2f} to {max(ratios):.2f}"


def throughput(tests: Sequence[Test], name: str) -> str:
    """Return the chart of that name."""
    chart = CHARTS[name]
    placed = [test for test in tests if test.extra.get("point", {}).get("chart") == name]
    if not placed:
        return ""
    series: dict[str, list[Point]] = {}
    processes = list(dict.fromkeys(process for test in placed for process in test.cpu_per_gib))
    rows: list[list[str]] = []
    for test in placed:
        point: Mapping[str, Any] = test.extra["point"]
        rates = [test.bytes / seconds / MIB for seconds in test.seconds]
        tells = test.bytes >= _LEAST_FOR_RATE
        if tells:
            series.setdefault(point["series"], []).append(
                Point(point["x"], test.rate, min(rates), max(rates))
            )
        share = test.share
        rows.append(
            [
                escape(point["series"]), escape(chart.written(point["x"])), f"{test.median * 1e3:.4g}",
                f"{test.rate:.3g}" if tells else "", f"{min(rates):.3g} to {max(rates):.3g}" if tells else "", f"{statistics.median(share):.0f} %" if share else "",
                *(_cpu_figure(test, process) for process in processes),
            ]
        )  # fmt: skip
    drawn = lines(
        series,
        x_label=chart.label,
        y_label="MiB/s",
        log_x=chart.log,
        log_y=chart.log_y,
        even=chart.even,
        ticks=sorted({point.x for points in series.values() for point in points}),
        tick=chart.written,
    )
    head = [
        "",
        chart.label,
        "ms",
        "MiB/s",
        "least to most",
        "of the link",
        *(f"{one}, CPU s/GiB" for one in processes),
    ]
    return drawn + html_table(head, rows)


def _cpu_figure(test: Test, process: str) -> str:
    """Return it, unless the file is so small that it is the price of a call."""
    if process not in test.cpu_per_gib or test.bytes < MIB:
        return ""
    return f"{test.cpu_per_gib[process]:.2f}"


def latencies(tests: Sequence[Test]) -> str:
    """Return how single calls are distributed: pairs each for itself, the others in one chart."""
    called = [test for test in tests if test.latencies]
    pairs = {people_name(test.name): test.latencies for test in called if len(test.latencies) > 1}
    alone = {
        name: values for test in called if len(test.latencies) == 1 for name, values in test.latencies.items()
    }
    return "".join(
        f"<h3>{escape(title)}</h3>{_distributions(found)}"
        for title, found in (pairs | {"one kind of call alone": alone}).items()
        if found
    )


def _distributions(latencies: Mapping[str, Sequence[float]]) -> str:
    series = {
        name: [
            Point(seconds * 1e3, (rank + 1) / len(values) * 100)
            for rank, seconds in enumerate(sorted(values))
        ]
        for name, values in latencies.items()
    }
    rows = [
        [
            escape(name), str(len(values)), f"{min(values) * 1e3:.2f}",
            *(f"{_percentile(values, share) * 1e3:.2f}" for share in (50, 90, 99)), f"{max(values) * 1e3:.2f}",
        ]
        for name, values in latencies.items()
    ]  # fmt: skip
    return lines(
        series, x_label="ms of a call", y_label="% of calls within", log_x=True, marks=False
    ) + html_table(["call", "calls", "least, ms", "median, ms", "90 %, ms", "99 %, ms", "most, ms"], rows)


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * share / 100) - 1)]


def cpu(tests: Sequence[Test]) -> str:
    """Return what each process takes of the processors."""
    # A small file's seconds are the price of a call, not of its bytes.
    heavy = [
        test for test in tests if test.group in _CPU_GROUPS and test.bytes >= 16 * MIB and test.cpu_per_gib
    ]
    chart = bars(
        {f"{people_name(test.name)}": test.cpu_per_gib for test in heavy},
        x_label="CPU seconds for each GiB, user and system",
        stacked=True,
    )
    names = list(dict.fromkeys(name for test in heavy for name in test.cpu_per_gib))
    rows = [
        [
            escape(people_name(test.name)),
            *(f"{test.cpu_per_gib[name]:.2f}" if name in test.cpu_per_gib else "" for name in names),
            f"{sum(test.cpu_per_gib.values()):.2f}",
        ]
        for test in heavy
    ]
    return chart + html_table(["test", *names, "together"], rows)


def memory(tests: Sequence[Test]) -> str:
    """Return what is resident over time: of many transfers at once, or else of the largest file's."""
    shown = [test for test in tests if test.group == "memory" and test.extra.get("memory")]
    if not shown:
        largest = max((test.bytes for test in tests if test.group == "sizes"), default=0)
        shown = [test for test in tests if test.group == "sizes" and test.bytes == largest]
    parts: list[str] = []
    for test in shown:
        samples: Mapping[str, Sequence[Sequence[float]]] = test.extra.get("memory", {})
        series = {
            name: [Point(seconds, size / MIB) for seconds, size in values]
            for name, values in samples.items()
            if values
        }
        each: Mapping[str, Sequence[float]] = test.extra.get("mib_per_transfer", {})
        rows = [
            [escape(name), f"{statistics.median(values):.1f}", f"{min(values):.1f} to {max(values):.1f}"]
            for name, values in each.items()
        ]
        parts.append(
            f"<h3>{escape(people_name(test.name))}</h3>"
            + lines(series, x_label="s", y_label="MiB resident", marks=False)
            + html_table(["process", "MiB above idle, each transfer", "least to most"], rows)
        )
    return "".join(parts)
