"""The clauses of the protocol: level and sentence of each, so that a failure prints the sentence that it violates.

The table is made from `docs/protocol.md` and shipped with the suite:

    python -m openshell_files_conformance.clauses docs/protocol.md           # writes requirements/clauses.json
    python -m openshell_files_conformance.clauses docs/protocol.md --check   # fails if it is not up to date
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tomllib
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

#: RULE states what is so, without a word of RFC 2119; it binds like MUST.
Level = Literal["MUST", "SHOULD", "MAY", "RULE"]

_TABLE: Final = "clauses.json"
_CLAUSE = re.compile(r"^(?:- |\| )\*\*([A-Z]{3}-\d+)\*\*(.*)")
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")
_HEADING = re.compile(r"^#+ (.*)")


@dataclass(frozen=True, slots=True)
class Clause:
    """One rule of the protocol."""

    id: str
    level: Level
    section: str
    text: str

    @property
    def binding(self) -> bool:
        """Whether a target that breaks the clause does not conform; SHOULD is only a warning."""
        return self.level != "SHOULD"

    def __str__(self) -> str:
        return f"{self.id} ({self.level}) {self.text}"


def extracted(document: str) -> list[Clause]:
    """Return the clauses of the protocol's text, in its order."""
    found = list[Clause]()
    section, name, words = "", "", list[str]()

    def finish() -> None:
        if name:
            text = _LINK.sub(r"\1", " ".join(words)).strip()
            found.append(Clause(name, _level(text), section, text))

    for line in document.splitlines():
        start = _CLAUSE.match(line)
        if start or not line.startswith("  "):
            finish()
            name, words = "", []
        if heading := _HEADING.match(line):
            section = heading[1]
        if start:
            row = line.startswith("|")
            name = start[1]
            words = [_row(start[2])] if row else [start[2].strip()]
        elif name:
            words.append(line.strip())
    finish()
    return found


def _row(cells: str) -> str:
    """Return the row of the table of losses as a sentence."""
    lost, sandbox, answer, caller = [cell.strip() for cell in cells.strip(" |").split(" | ")]
    return f"After the loss of {lost} the sandbox has {sandbox}; GetUpload answers {answer}; the caller {caller}."


def _level(text: str) -> Level:
    for level in ("MUST", "SHOULD", "MAY"):
        if re.search(rf"\b{level}\b", text):
            return level
    return "RULE"


def rendered(clauses: list[Clause]) -> str:
    """Return the table as it is shipped."""
    return json.dumps([asdict(clause) for clause in clauses], indent=1, ensure_ascii=False) + "\n"


def _shipped(name: str) -> str:
    return files("openshell_files_conformance").joinpath("requirements", name).read_text("utf-8")


@cache
def clauses() -> dict[str, Clause]:
    """Return the shipped table, by id."""
    return {fields["id"]: Clause(**fields) for fields in json.loads(_shipped(_TABLE))}


@cache
def revision() -> str:
    """Return a name of the protocol's revision: it changes with every clause."""
    return hashlib.sha256(_shipped(_TABLE).encode()).hexdigest()[:12]


@cache
def excluded() -> dict[str, str]:
    """Return the clauses that no case can check, and why."""
    groups = tomllib.loads(_shipped("excluded.toml")).get("excluded", [])
    return {clause: group["reason"] for group in groups for clause in group["clauses"]}


def main(arguments: list[str]) -> int:
    """Write the table, or compare it with the document."""
    text = rendered(extracted(Path(arguments[0]).read_text("utf-8")))
    target = Path(__file__).parent / "requirements" / _TABLE
    if "--check" not in arguments:
        target.write_text(text, "utf-8")
        return 0
    if target.read_text("utf-8") == text:
        return 0
    sys.stderr.write(f"{target.name} is not that of {arguments[0]}, run `make docs`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
