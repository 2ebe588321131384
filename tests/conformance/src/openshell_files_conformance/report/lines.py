"""What the command prints: a block for each check that fails, and a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from openshell_files_conformance.clauses import clauses
from openshell_files_conformance.report.model import Results

#: Lines of a transcript that are printed; the whole of it is in the results.
LAST_EVENTS = 25


def failure_lines(results: Results, *, transcripts: bool = True) -> Iterator[str]:
    """Yield the lines about checks that are not as they should be, case by case."""
    for case in results["cases"]:
        bad = [check for check in case["checks"] if is_bad(check) or check["verdict"] == "warn"]
        for check in bad:
            yield from _check_lines(case, check)
        if transcripts and any(is_bad(check) for check in bad) and case.get("transcript"):
            events = case["transcript"]
            yield f"  transcript of {case['id']}" + (
                f", the last {LAST_EVENTS} of {len(events)}" if len(events) > LAST_EVENTS else ""
            )
            yield from (f"    {line}" for event in events[-LAST_EVENTS:] for line in event.splitlines())
            yield ""


def is_bad(check: dict[str, Any]) -> bool:
    """Whether a check fails the run."""
    return check["verdict"] not in {"pass", "warn", "unsupported"} and not check["expected_failure"]


def _check_lines(case: dict[str, Any], check: dict[str, Any]) -> Iterator[str]:
    clause = clauses().get(check["clause"])
    yield f"{check['verdict'].upper():<8} {case['id']}:{check['name']}"
    yield f"  clause    {clause or check['clause']}"
    if check["expected"]:
        yield f"  expected  {check['expected']}"
        yield f"  seen      {check['seen']}"
    if check["reason"]:
        yield f"  reason    {check['reason']}"
    yield f"  alone     {case['reproduce']}"
    yield ""


def summary_lines(results: Results) -> Iterator[str]:
    """Yield the lines at the end of a run."""
    for problem in results["stale"]:
        yield f"STALE    {problem}"
    for name in results["unstable"]:
        yield f"UNSTABLE {name}: its repetitions came to different verdicts"
    for name in results["missing_profiles"]:
        yield f"MISSING  profile {name}: it is to be passed, and nothing of it is supported"
    for name, numbers in results["profiles"].items():
        yield (
            f"{name:<10} {numbers['passed']:>4} passed {numbers['failed']:>4} failed {numbers['unsupported']:>4} unsupported"
        )
    left_out = Counter(
        check["reason"]
        for case in results["cases"]
        for check in case["checks"]
        if check["verdict"] == "unsupported"
    )
    for reason, number in sorted(left_out.items()):
        yield f"unsupported: {reason} ({number} checks)"
    counts = ", ".join(f"{number} {verdict}" for verdict, number in sorted(results["counts"].items()))
    expected = sum(check["expected_failure"] for case in results["cases"] for check in case["checks"])
    yield (
        f"{results['result']}: {len(results['cases'])} cases, checks: {counts or 'none'}"
        + (f" ({expected} of them expected to fail)" if expected else "")
        + f", {results['seconds']:.1f} s"
    )
