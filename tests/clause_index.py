"""Which tests hold which clause of docs/protocol.md.

A case of `tests/vectors` names clauses, too. A test names a clause in its name (`test_upl_3_...`), in its docstring, or in that of a rule or an invariant
of its module's state machine. The docstring of a module names nothing: it says what the tests are about, not
what one of them would notice. A case of the conformance suite declares its clauses.

    python tests/clause_index.py > docs/clauses.md
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from openshell_files_conformance.registry import load_cases

REPOSITORY: Final = Path(__file__).resolve().parent.parent
PROTOCOL: Final = REPOSITORY / "docs" / "protocol.md"
INDEX: Final = REPOSITORY / "docs" / "clauses.md"
TESTS: Final = REPOSITORY / "tests"
#: Which case of the conformance suite checks which clause.
COVERAGE: Final = "tests/conformance/COVERAGE.md"

#: Clauses that no test here can hold, and why.
UNTESTED: Final[dict[str, str]] = {}

_DEFINITION = re.compile(r"\*\*([A-Z]{3}-\d+)\*\*")
#: Digits end the name, so that CRC-32C and SHA-256 are none.
_NAME = re.compile(r"\b([A-Z]{3})-(\d{1,2})(?![\w-])")
_RANGE = re.compile(r"\b([A-Z]{3})-(\d{1,2}) to (?:([A-Z]{3})-)?(\d{1,2})\b")
_IN_A_NAME = re.compile(r"(?:^|_)([a-z]{3})_(\d{1,2})(?=_|$)")
#: What looks like a clause and is something else.
_NO_CLAUSE: Final = frozenset({"CRC", "SHA", "UTF", "AES", "ISO"})
_STEPS: Final = frozenset({"rule", "invariant", "initialize"})

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """A test, or a step of a state machine, that names a clause."""

    path: str
    name: str


def defined_clauses(text: str) -> list[str]:
    """Return the clauses that the protocol defines, in its order."""
    return _DEFINITION.findall(text)


def clauses_in(text: str) -> list[str]:
    """Return the clauses that a docstring names; a range names all of it."""
    found = [f"{family}-{number}" for family, number in _NAME.findall(text)]
    for family, first, _, last in _RANGE.findall(text):
        found += [f"{family}-{number}" for number in range(int(first), int(last) + 1)]
    return found


def holders(tests: Path) -> dict[str, set[Holder]]:
    """Return the clauses that tests name, and where."""
    found: dict[str, set[Holder]] = {}
    for path in sorted(tests.rglob("test_*.py")):
        relative = path.relative_to(tests.parent).as_posix()
        for name, text in _named_tests(ast.parse(path.read_text(encoding="utf-8"))):
            in_name = [f"{family.upper()}-{number}" for family, number in _IN_A_NAME.findall(name)]
            for clause in [*in_name, *clauses_in(text)]:
                found.setdefault(clause, set()).add(Holder(relative, name))
    for path in sorted((tests / "vectors").rglob("*.json")):
        for name, clauses in _cases(path) if path.name != "schema.json" else ():
            for clause in clauses:
                found.setdefault(clause, set()).add(Holder(path.relative_to(tests.parent).as_posix(), name))
    if tests == TESTS:
        for case in load_cases().values():
            for clause in case.clauses:
                found.setdefault(clause, set()).add(Holder(COVERAGE, case.id))
    return found


def _cases(vectors: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield name and clauses of the cases of a file of vectors."""
    fields: dict[str, Any] = json.loads(vectors.read_text(encoding="utf-8"))
    lists: list[list[dict[str, Any]]] = [value for value in fields.values() if isinstance(value, list)]
    for cases in lists:
        for case in cases:
            yield case.get("name", ""), case.get("clauses", [])


def _named_tests(module: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield name and docstring of tests and of the steps of state machines."""
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef):
            for child in node.body:
                if isinstance(child, Function) and _is_step(child):
                    yield f"{node.name}.{child.name}", ast.get_docstring(child) or ""
        if isinstance(node, Function) and node.name.startswith("test_"):
            yield node.name, ast.get_docstring(node) or ""


def _is_step(function: Function) -> bool:
    calls = (node.func if isinstance(node, ast.Call) else node for node in function.decorator_list)
    return any(isinstance(name, ast.Name) and name.id in _STEPS for name in calls)


def unknown(found: dict[str, set[Holder]], defined: list[str]) -> dict[str, set[Holder]]:
    """Return what tests name and the protocol does not define."""
    return {
        clause: where
        for clause, where in found.items()
        if clause not in defined and clause.partition("-")[0] not in _NO_CLAUSE
    }


def rendered() -> str:
    """Return docs/clauses.md."""
    defined = defined_clauses(PROTOCOL.read_text(encoding="utf-8"))
    found = holders(TESTS)
    lines = [
        "# Clauses and their tests",
        "",
        "Which test names which clause of [protocol.md](protocol.md). Made by `tests/clause_index.py`; do not edit.",
        "",
        "| clause | held by |",
        "|---|---|",
    ]
    lines += [f"| {clause} | {_cell(clause, found.get(clause, set()))} |" for clause in defined]
    return "\n".join(lines) + "\n"


def _cell(clause: str, where: set[Holder]) -> str:
    files: dict[str, list[str]] = {}
    for holder in sorted(where):
        files.setdefault(holder.path, []).append(holder.name)
    cells = [
        f"[{path.removeprefix('tests/')}](../{path}): {_names(path, names)}" for path, names in files.items()
    ]
    if not cells:
        return f"not tested: {UNTESTED.get(clause, 'no reason given')}"
    return "<br>".join(cells)


def _names(path: str, names: list[str]) -> str:
    if path.endswith((".json", ".md")):
        return f"{len(names)} case{'s' * (len(names) > 1)}"
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    sys.stdout.write(rendered())
