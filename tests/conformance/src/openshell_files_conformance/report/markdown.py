"""Results as Markdown: profiles, failures, and the table of clauses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from openshell_files_conformance.report.lines import is_bad
from openshell_files_conformance.report.model import Results


def markdown(results: Results) -> str:
    """Return the document."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: Results) -> Iterator[str]:
    yield f"# {title(results)}: {results['result']}"
    yield ""
    suite = results["suite"]
    yield f"- suite {suite['version']}, protocol {suite['protocol']}, started {results['started']}, {results['seconds']:.0f} s"
    yield f"- capabilities: {', '.join(results['capabilities']) or 'none'}"
    yield f"- reproduce: `{results['reproduce']}`"
    yield ""
    yield "| profile | passed | failed | unsupported |"
    yield "|---|---|---|---|"
    for name, numbers in results["profiles"].items():
        yield f"| {name} | {numbers['passed']} | {numbers['failed']} | {numbers['unsupported']} |"
    yield ""
    yield from _failures(results)
    yield "## Clauses"
    yield ""
    yield "| clause | level | verdict | says |"
    yield "|---|---|---|---|"
    for clause in results["clauses"]:
        yield f"| {clause['id']} | {clause['level']} | {clause['verdict']} | {_cell(clause['text'])} |"


def title(results: Results) -> str:
    """Return the name of what was judged."""
    implementation = results["implementation"]
    words = [str(implementation.get("name", "")), str(implementation.get("version", "")), results["role"]]
    return " ".join(word for word in words if word)


def _failures(results: Results) -> Iterator[str]:
    complaints = [
        *results["stale"],
        *(f"{name} is unstable" for name in results["unstable"]),
        *(f"nothing of the profile {name} is supported" for name in results["missing_profiles"]),
    ]
    bad = [(case, check) for case in results["cases"] for check in case["checks"] if _told(check)]
    if not complaints and not bad:
        return
    yield "## Failures"
    yield ""
    yield from (f"- {complaint}" for complaint in complaints)
    for case, check in bad:
        expected = " (expected)" if check["expected_failure"] else ""
        yield f"- **{check['verdict']}**{expected} `{case['id']}:{check['name']}` {check['clause']}: {_said(check)}"
        yield f"  - `{case['reproduce']}`"
    yield ""


def _told(check: dict[str, Any]) -> bool:
    return is_bad(check) or check["expected_failure"] or check["verdict"] == "warn"


def _said(check: dict[str, Any]) -> str:
    return _cell(check["reason"] or f"expected {check['expected']}, seen {check['seen']}")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
