"""One HTML file with everything a run found: `python -m harness.report RESULT.json OUT.html`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import cast

from harness.page import STYLE, html_table
from harness.report_charts import CHARTS, COMPARED, baselines, cpu, latencies, memory, throughput
from harness.results import Results, Test, read
from harness.targets import TARGETS


def report(results: Results) -> str:
    """Return the page. What was not run has no section: one list at the end names it, with the commands that run it."""
    tests = results.tests
    sections = [
        ("Targets", _targets(results), "make bench-targets"),
        *((kind.title, baselines(tests, kind), f"make bench K={kind.expression}") for kind in COMPARED),
        *(
            (f"Throughput by {name}", throughput(tests, name), f"make bench K={chart.expression}")
            for name, chart in CHARTS.items()
        ),
        ("Latency of single calls", latencies(tests), "make bench K=small_files"),
        ("CPU seconds for each GiB, by process", cpu(tests), "make bench K=test_size MIB=64"),
        ("Memory over time", memory(tests), "make bench K=test_memory"),
        ("All benchmarks", _every(tests), "make bench"),
        ("The machine and the settings", _machine(results), "make bench"),
    ]
    body = "".join(f"<h2>{escape(title)}</h2>{text}" for title, text, _ in sections if text)
    body += _not_run([(title, command) for title, text, command in sections if not text])
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Benchmarks of OpenShell file transfer</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style><h1>Benchmarks of OpenShell file transfer</h1>"
        f"<p>{escape(results.when[:16].replace('T', ' '))} UTC, {_commit(results)}. {_what(results)} medians of "
        f"{results.settings.get('rounds', '?')} rounds, interleaved with what they are compared with; a line through a "
        "point, and columns “least to most”, show the rounds. Compare ratios, and CPU seconds before "
        f"MiB/s: machines differ.</p>{body}</html>\n"
    )


def _what(results: Results) -> str:
    attached = results.settings.get("attached_to")
    where = f"A gateway that ran already, at {escape(str(attached))}. " if attached else ""
    return f"{where}The large file has {results.settings.get('large_mib', '?')} MiB;"


def _commit(results: Results) -> str:
    identity, _, rest = results.commit.partition(",")
    if not identity:
        return "of a commit that is not known"
    return f"commit <code>{escape(identity)}</code>{', ' * bool(rest)}{escape(rest.strip())}"


def _not_run(missing: Sequence[tuple[str, str]]) -> str:
    """Name the sections that have nothing, folded."""
    if not missing:
        return ""
    lines = "".join(f"<li>{escape(title)}: <code>{escape(command)}</code></li>" for title, command in missing)
    return f"<details><summary>Not in this result, and the commands that measure it</summary><ul>{lines}</ul></details>"


def _targets(results: Results) -> str:
    mib: int = results.settings.get("large_mib", 1024)

    def row(name: str) -> Sequence[str]:
        target, reached = TARGETS[name], results.targets[name]
        bound = f"{'≥' if target.at_least else '≤'} {target.bound:g}{escape(target.unit)}"
        aim, text = "" if target.aim is None else f"{target.aim:g}", escape(target.text_at(mib))
        verdict = '<span class="ok">met</span>' if reached["met"] else '<span class="miss">missed</span>'
        if not target.is_judged_at(mib):
            verdict = "other size"
        spread = f"{reached['least']:.2f} to {reached['most']:.2f}"
        return [text, verdict, bound, aim, f"{reached['median']:.2f}", spread]

    run = [name for name in TARGETS if name in results.targets]
    if not run:
        return ""
    others = [escape(TARGETS[name].text_at(mib)) for name in TARGETS if name not in results.targets]
    left_out = (
        f"<details><summary>{len(others)} that were not run</summary><ul>"
        + "".join(f"<li>{text}</li>" for text in others)
        + "</ul></details>"
        if others
        else ""
    )
    smaller = (
        ""
        if mib >= 1024
        else f"<p>Those of 1 GiB are not judged, since this run had {mib} MiB: of a small file ssh's connection is most of the time.</p>"
    )
    table = html_table(
        ["figure", "", "must be", "aim", "median", "least to most"], map(row, run), text_columns=2
    )
    return smaller + table + left_out


def _every(tests: Sequence[Test]) -> str:
    rows = [
        [
            escape(test.group), escape(test.name), f"{test.median:.4g}",
            f"{min(test.seconds):.4g} to {max(test.seconds):.4g}", f"{test.rate:.1f}" if test.bytes else "",
        ]
        for test in tests
    ]  # fmt: skip
    return html_table(["group", "test", "median, s", "least to most, s", "MiB/s"], rows, text_columns=2)


def _machine(results: Results) -> str:
    machine = results.machine
    names = {
        "processor": "processor",
        "cores": "cores",
        "memory_gib": "memory, GiB",
        "kernel": "kernel",
        "load_before": "load before the run",
        "python_version": "Python",
        "versions": "libraries",
        "channel_options": "channel options",
        "chunk_bytes": "largest chunk, bytes",
        "allocator": "allocator",
    }
    facts = [(people, machine[name]) for name, people in names.items() if machine.get(name) is not None]
    facts += [(f"option {name}", value) for name, value in results.settings.items()]
    return html_table(
        ["fact", "value"], [[escape(name), _value(value)] for name, value in facts], text_columns=2
    )


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        several = cast("Mapping[str, object]", value)
        return "<br>".join(f"{escape(name)} = {escape(str(one))}" for name, one in several.items())
    return escape(f"{value:.3g}" if isinstance(value, float) else str(value))


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
