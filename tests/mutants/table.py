"""The tables of mutants: small wrong changes, and the tests that must notice each.

A table is a file `tests/mutants/AREA.toml` with rows of this form:

    [[mutant]]
    name = "journal-result-not-durable"
    file = "supervisor_sim/src/openshell_supervisor_sim/agent/store/journal.py"
    old = "exact text that occurs once in the file"
    new = "its replacement"
    tests = ["tests/agent/test_journal.py::test_x"]

A row whose change cannot be noticed has `survives = "the reason"` instead of `tests`.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
TABLES: Final = Path(__file__).parent

_REQUIRED: Final = {"name", "file", "old", "new"}
_OPTIONAL: Final = {"tests", "survives"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One small wrong change.

    Attributes:
        area: stem of the table's file name.
        name: unique over all tables.
        file: path of the changed file, relative to the root of the project.
        old: text that occurs exactly once in the file.
        new: text that replaces it.
        tests: node ids of which at least one must fail; empty if the mutant survives.
        survives: the reason why no test can notice; empty for every other mutant.
    """

    area: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    survives: str

    def applied(self, source: str) -> str:
        """Return the file's text with the change.

        Raises:
            ValueError: `old` does not occur exactly once, or the changed text is no Python.
        """
        if (count := source.count(self.old)) != 1:
            raise ValueError(f"{self.name}: `old` occurs {count} times in {self.file}, not once")
        mutated = source.replace(self.old, self.new)
        if mutated == source:
            raise ValueError(f"{self.name}: `new` changes nothing")
        if self.file.endswith(".py"):
            try:
                ast.parse(mutated)
            except SyntaxError as error:
                raise ValueError(f"{self.name}: the mutant is no Python: {error}") from error
        return mutated


def load(areas: Iterable[str] = ()) -> list[Mutant]:
    """Return the rows of the named tables, or of all.

    Raises:
        ValueError: a row lacks a key, has an unknown one, or has neither tests nor a reason.
        FileNotFoundError: there is no table for an area.
    """
    files = [TABLES / f"{area}.toml" for area in areas] or sorted(TABLES.glob("*.toml"))
    return [
        _row(file.stem, row) for file in files for row in tomllib.loads(file.read_text("utf-8"))["mutant"]
    ]


def problems(mutants: Iterable[Mutant], root: Path = ROOT) -> list[str]:
    """Return a line for every row that does not fit the tree, and for every name that occurs twice."""
    found: list[str] = []
    names = set[str]()
    for mutant in mutants:
        if mutant.name in names:
            found.append(f"{mutant.name}: the name occurs twice")
        names.add(mutant.name)
        try:
            mutant.applied((root / mutant.file).read_text("utf-8"))
        except (ValueError, OSError) as error:
            found.append(str(error))
        found += [
            f"{mutant.name}: there is no test {test}" for test in mutant.tests if not _exists(test, root)
        ]
    return found


def _row(area: str, row: dict[str, Any]) -> Mutant:
    keys = set(row)
    name = row.get("name", "a row without a name")
    if not (_REQUIRED <= keys <= _REQUIRED | _OPTIONAL):
        raise ValueError(f"{area}.toml: {name}: keys are {sorted(keys)}")
    if ("tests" in row) == ("survives" in row) or not (row.get("tests") or row.get("survives")):
        raise ValueError(f"{area}.toml: {name}: a row has either tests or the reason why it survives")
    return Mutant(
        area, name, row["file"], row["old"], row["new"], tuple(row.get("tests", ())), row.get("survives", "")
    )


def _exists(node_id: str, root: Path) -> bool:
    """Whether the file of a node id defines its test. The parameters in brackets are not looked at."""
    path, *names = node_id.partition("[")[0].split("::")
    file = root / path
    if not file.is_file():
        return False
    scope: list[ast.stmt] = ast.parse(file.read_text("utf-8")).body
    for name in names:
        found = next((node for node in scope if getattr(node, "name", None) == name), None)
        if found is None:
            return False
        scope = found.body if isinstance(found, ast.ClassDef) else []
    return True
