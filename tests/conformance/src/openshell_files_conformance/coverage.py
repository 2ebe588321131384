"""Which cases check which clause, and the smallest selection that still checks every clause."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from openshell_files_conformance.clauses import Clause, clauses, excluded
from openshell_files_conformance.registry import Case

#: How many cases of an area are listed one by one.
MANY: Final = 4


def by_clause(cases: Iterable[Case]) -> dict[str, list[str]]:
    """Return the ids of the cases that check each clause."""
    found = defaultdict[str, list[str]](list)
    for case in cases:
        for clause in case.clauses:
            found[clause].append(case.id)
    return found


def gaps(cases: Sequence[Case]) -> list[str]:
    """Say what is wrong with the coverage, a line each."""
    table, found, reasons = clauses(), by_clause(cases), excluded()
    problems = [
        f"{clause.id} has neither a case nor a reason in excluded.toml: {clause.text}"
        for clause in table.values()
        if clause.level == "MUST" and clause.id not in found and clause.id not in reasons
    ]
    problems += [f"{name} is excluded and does not exist" for name in reasons if name not in table]
    problems += [f"{name} is excluded and has a case: {found[name][0]}" for name in reasons if name in found]
    return problems


def rendered(cases: Sequence[Case]) -> str:
    """Return the document about the coverage."""
    return "\n".join(_lines(cases)) + "\n"


def _lines(cases: Sequence[Case]) -> Iterator[str]:
    table, found, reasons = clauses(), by_clause(cases), excluded()
    must = [clause for clause in table.values() if clause.level == "MUST"]
    checked = sum(clause.id in found for clause in must)
    yield "# Coverage of the clauses"
    yield ""
    yield "Which case checks which clause. Made by `openshell-files-conformance coverage`; do not edit."
    yield "RULE is a clause without a word of RFC 2119; it binds like MUST."
    yield ""
    yield (
        f"Of {len(must)} clauses with MUST {checked} have a case and {sum(one.id in reasons for one in must)} a reason;"
        f" of all {len(table)} clauses {sum(name in found for name in table)} have a case. There are {len(cases)} cases."
    )
    yield ""
    yield "| clause | level | cases |"
    yield "|---|---|---|"
    for clause in table.values():
        yield f"| {clause.id} | {clause.level} | {_cell(clause, found, reasons)} |"


def _cell(clause: Clause, found: Mapping[str, Sequence[str]], reasons: Mapping[str, str]) -> str:
    if clause.id in found:
        return "<br>".join(_summarised(found[clause.id]))
    if clause.id in reasons:
        return f"excluded: {reasons[clause.id]}"
    return "**none**" if clause.level == "MUST" else "none"


def _summarised(names: Sequence[str]) -> Iterator[str]:
    """Yield the cases; many of one area by their number."""
    areas = defaultdict[str, list[str]](list)
    for name in names:
        areas[name.rpartition("/")[0]].append(name)
    for area, members in areas.items():
        if len(members) > MANY:
            yield f"`{area}/`: {len(members)} cases"
        else:
            yield from (f"`{name}`" for name in members)


def quick(cases: Sequence[Case]) -> list[Case]:
    """Return few and cheap cases that still name every clause that the given ones name.

    Greedy: the case with the most new clauses for its cost, again and again. A case that needs a launch of its own costs more.
    """
    open_clauses = {clause for case in cases for clause in case.clauses}
    launched = {_launch_of(case) for case in cases if not case.alone and not case.launch}
    chosen = dict[str, Case]()
    while open_clauses:
        best = max(
            (case for case in cases if case.id not in chosen),
            key=lambda case: (len(open_clauses & set(case.clauses)) / _cost(case, launched), case.id),
        )
        chosen[best.id] = best
        launched.add(_launch_of(best))
        open_clauses -= set(best.clauses)
    return [case for case in cases if case.id in chosen]


def _launch_of(case: Case) -> str:
    return case.id if case.alone else repr(sorted(case.launch.items()))


def _cost(case: Case, launched: set[str]) -> float:
    """Return a rough number of seconds: what a case takes, and the start of a target that nobody else starts."""
    return 0.3 + case.timeout / 100 + (0.0 if _launch_of(case) in launched else 2.5)
