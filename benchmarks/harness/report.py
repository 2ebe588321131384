"""One HTML file with everything a run found: `python -m harness.report RESULT.json OUT.html`."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from harness.results import MIB, Results, Test, read
from harness.svg import bars, lines
from harness.targets import TARGETS

#: Charts of throughput: the label of the horizontal axis, and whether that is logarithmic.
CHARTS: Final[Mapping[str, tuple[str, bool]]] = {
    "chunk size": ("bytes of content in a chunk", True),
    "file size": ("bytes", True),
    "round-trip time, upload": ("round-trip time, ms", False),
    "round-trip time, download": ("round-trip time, ms", False),
    "transfers at once": ("transfers", True),
}

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem } th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } svg text { font: 11px system-ui, sans-serif }
.ok { color: #00705a } .miss { color: #b34700; font-weight: 600 } .key { margin-right: 1rem }
.key i { display: inline-block; width: .7rem; height: .7rem; margin-right: .3rem } svg { max-width: 100% }
h2 { margin-top: 2.5rem } h3 { margin-bottom: .3rem }
"""


def report(results: Results) -> str:
    """Return the page."""
    sections = [
        ("Targets", _targets(results)),
        ("Ours beside each baseline", _baselines(results.tests)),
        *((f"Throughput by {name}", _throughput(results.tests, name)) for name in CHARTS),
        ("Latency of single calls", _latencies(results.tests)),
        ("CPU seconds for each GiB, by process", _cpu(results.tests)),
        ("Memory over time", _memory(results.tests)),
        ("Other figures", _rest(results.tests)),
        ("The machine", _machine(results)),
    ]
    body = "".join(f"<h2>{escape(title)}</h2>{text}" for title, text in sections if text)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Benchmarks of OpenShell file transfer</title>'
        f"<style>{_STYLE}</style><h1>Benchmarks of OpenShell file transfer</h1>"
        f"<p>{escape(results.when)}. The large file has {results.settings.get('large_mib', '?')} MiB; medians of "
        f"{results.settings.get('rounds', '?')} rounds, interleaved with what they are compared with. Compare "
        "ratios, and CPU seconds before MiB/s: machines differ.</p>"
        f"{body}</html>\n"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    kind = ["" if column < text_columns else ' class="n"' for column in range(len(head))]
    top = "".join(f"<th{kind[column]}>{escape(name)}</th>" for column, name in enumerate(head))
    lines_ = [
        "<tr>" + "".join(f"<td{kind[column]}>{cell}</td>" for column, cell in enumerate(row)) + "</tr>"
        for row in rows
    ]
    return f"<table><tr>{top}</tr>{''.join(lines_)}</table>" if lines_ else ""


def _targets(results: Results) -> str:
    def row(name: str) -> Sequence[str]:
        target, reached = TARGETS[name], results.targets.get(name)
        bound = f"{'≥' if target.at_least else '≤'} {target.bound:g}{escape(target.unit)}"
        aim = "" if target.aim is None else f"{target.aim:g}"
        if reached is None:
            return [escape(target.text), "not run", bound, aim, "", ""]
        verdict = '<span class="ok">met</span>' if reached["met"] else '<span class="miss">missed</span>'
        spread = f"{reached['least']:.2f} to {reached['most']:.2f}"
        return [escape(target.text), verdict, bound, aim, f"{reached['median']:.2f}", spread]

    return _table(
        ["figure", "", "must be", "aim", "median", "least to most"], map(row, TARGETS), text_columns=2
    )


def _baselines(tests: Sequence[Test]) -> str:
    compared = [test for test in tests if test.bytes and test.baseline_rate and test.group != "many at once"]
    chart = bars(
        {
            f"{test.name.removeprefix('test_')[:34]}": {
                "ours": test.rate,
                "baseline": test.baseline_rate or 0.0,
            }
            for test in compared
        },
        x_label="MiB/s",
    )
    rows = [
        [
            escape(test.name), escape(str(test.extra.get("against", ""))), f"{test.rate:.0f}",
            f"{test.baseline_rate:.0f}", *_ratio(test),
        ]
        for test in compared
    ]  # fmt: skip
    return chart + _table(
        ["test", "against", "ours, MiB/s", "baseline, MiB/s", "ratio, median of pairs", "least to most"],
        rows,
        text_columns=2,
    )


def _ratio(test: Test) -> tuple[str, str]:
    ratios: Sequence[float] = test.extra["speed_ratio"]
    return f"{statistics.median(ratios):.2f} x", f"{min(ratios):.2f} to {max(ratios):.2f}"


def _throughput(tests: Sequence[Test], chart: str) -> str:
    placed = [test for test in tests if test.extra.get("point", {}).get("chart") == chart]
    series: dict[str, list[tuple[float, float]]] = {}
    rows: list[list[str]] = []
    for test in placed:
        point: Mapping[str, Any] = test.extra["point"]
        series.setdefault(point["series"], []).append((point["x"], test.rate))
        cpu = " ".join(f"{name} {seconds:.2f}" for name, seconds in test.cpu_per_gib.items())
        share = test.share
        rows.append(
            [escape(point["series"]), f"{point['x']:g}", f"{test.rate:.2f}",
             f"{statistics.median(share):.0f} %" if share else "", escape(cpu)]
        )  # fmt: skip
    if not rows:
        return ""
    label, log = CHARTS[chart]
    ticks = sorted({x for points in series.values() for x, _ in points})
    return lines(
        series, x_label=label, y_label="MiB/s", log_x=log, ticks=ticks, tick=_bytes if log else str
    ) + _table(["series", label, "MiB/s", "share of the link", "CPU s/GiB"], rows)


def _bytes(value: float) -> str:
    for size, unit in ((1 << 30, "G"), (MIB, "M"), (1 << 10, "K")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def _latencies(tests: Sequence[Test]) -> str:
    parts: list[str] = []
    for test in tests:
        if not test.latencies:
            continue
        series = {
            name: [
                (seconds * 1e3, (rank + 1) / len(values) * 100) for rank, seconds in enumerate(sorted(values))
            ]
            for name, values in test.latencies.items()
        }
        rows = [
            [escape(name), *(f"{_percentile(values, share) * 1e3:.2f}" for share in (50, 90, 99))]
            for name, values in test.latencies.items()
        ]
        parts.append(
            f"<h3>{escape(test.name)}</h3>"
            + lines(series, x_label="ms", y_label="% of calls within", log_x=True, marks=False)
            + _table(["call", "median, ms", "90 %", "99 %"], rows)
        )
    return "".join(parts)


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * share / 100) - 1)]


def _cpu(tests: Sequence[Test]) -> str:
    # A small file's seconds are below what the system counts.
    heavy = [test for test in tests if test.bytes >= 16 * MIB and test.cpu_per_gib]
    chart = bars({test.name.removeprefix("test_")[:42]: test.cpu_per_gib for test in heavy}, x_label="CPU s")
    names = list(dict.fromkeys(name for test in heavy for name in test.cpu_per_gib))
    rows = [
        [
            escape(test.name),
            *(f"{test.cpu_per_gib[name]:.2f}" if name in test.cpu_per_gib else "" for name in names),
        ]
        for test in heavy
    ]
    return chart + _table(["test", *names], rows)


def _memory(tests: Sequence[Test]) -> str:
    parts: list[str] = []
    for test in tests:
        samples: Mapping[str, Sequence[Sequence[float]]] = test.extra.get("memory") or {}
        series = {
            name: [(seconds, size / MIB) for seconds, size in values]
            for name, values in samples.items()
            if values
        }
        if series and (test.group in {"memory", "against ssh"}):
            each: Mapping[str, Sequence[float]] = test.extra.get("mib_per_transfer", {})
            rows = [[escape(name), f"{statistics.median(values):.1f}"] for name, values in each.items()]
            parts.append(
                f"<h3>{escape(test.name)}</h3>"
                + lines(series, x_label="s", y_label="MiB resident", marks=False)
                + _table(["process", "MiB above idle, each transfer"], rows)
            )
    return "".join(parts)


def _rest(tests: Sequence[Test]) -> str:
    rows = [
        [
            escape(test.group), escape(test.name), f"{test.median:.4g}",
            f"{min(test.seconds):.4g} to {max(test.seconds):.4g}", f"{test.rate:.1f}" if test.bytes else "",
        ]
        for test in tests
    ]  # fmt: skip
    return _table(["group", "test", "median, s", "least to most", "MiB/s"], rows, text_columns=2)


def _machine(results: Results) -> str:
    wanted = (
        "processor", "cores", "memory_gib", "kernel", "load_before", "python_version", "versions",
        "channel_options", "chunk_bytes", "allocator",
    )  # fmt: skip
    facts = {**{name: results.machine.get(name) for name in wanted}, **results.settings}
    return _table(
        ["fact", "value"],
        [[escape(name), escape(str(value))] for name, value in facts.items() if value is not None],
        text_columns=2,
    )


def main(arguments: Sequence[str]) -> int:
    """Write the page."""
    if len(arguments) != 2:
        print("usage: python -m harness.report RESULT.json OUT.html", file=sys.stderr)
        return 2
    try:
        page = report(read(Path(arguments[0])))
        Path(arguments[1]).write_text(page, "utf-8")
    except (OSError, ValueError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    print(arguments[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
