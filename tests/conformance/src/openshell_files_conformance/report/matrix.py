"""Several results side by side: implementations by profile, and by clause where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from openshell_files_conformance.report.markdown import title
from openshell_files_conformance.report.model import Results


def matrix(all_results: Sequence[Results]) -> str:
    """Return the tables as Markdown."""
    return "\n".join(_lines(all_results)) + "\n"


def _lines(all_results: Sequence[Results]) -> Iterator[str]:
    names = [title(results) for results in all_results]
    profiles = list(dict.fromkeys(name for results in all_results for name in results["profiles"]))
    yield f"| | result | {' | '.join(profiles)} |"
    yield "|---" * (len(profiles) + 2) + "|"
    for name, results in zip(names, all_results, strict=True):
        cells = [_profile(results, profile) for profile in profiles]
        yield f"| {name} | {results['result']} | {' | '.join(cells)} |"
    yield ""
    yield f"| clause | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    verdicts = [{clause["id"]: clause["verdict"] for clause in results["clauses"]} for results in all_results]
    for clause in dict.fromkeys(name for one in verdicts for name in one):
        cells = [one.get(clause, "-") for one in verdicts]
        if any(cell not in {"pass", "-"} for cell in cells):
            yield f"| {clause} | {' | '.join(cells)} |"


def _profile(results: Results, profile: str) -> str:
    numbers = results["profiles"].get(profile)
    if numbers is None:
        return "-"
    cell = f"{numbers['passed']}/{numbers['passed'] + numbers['failed']}"
    return cell + (f", {numbers['unsupported']} unsupported" if numbers["unsupported"] else "")
