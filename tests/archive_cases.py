"""The vectors in `tests/vectors/archives`: archives, most of them hostile, and what comes of unpacking them.

The types are the source of the JSON schema beside the vectors:

    python tests/archive_cases.py > tests/vectors/archives/schema.json

The archives themselves are made by `archive_vectors.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, TypeAdapter
from tree_cases import Name, There
from vector_cases import U64, Bytes, Case, Strict

ARCHIVES: Final = Path(__file__).parent / "vectors" / "archives"


class Limits(Strict):
    """Of the agent."""

    max_entries: U64 = "1000"
    max_bytes: U64 = "17179869184"
    max_ratio: U64 = "1000"


class Problem(Strict):
    """ArchiveProblem."""

    path: Name
    reason: str


class Outcome(Strict):
    """What the answer has, or why there is none.

    `files` is everything that is below the directory afterwards, also after a `reason`; null if that does not matter.
    """

    reason: str | None = None
    entries: U64 | None = None
    problems: tuple[Problem, ...] = ()
    files: list[There] | None = None


class ArchiveCase(Case):
    """An archive. `before` is below the directory at the start.

    `folding` is the outcome where the file system ignores case and Unicode normalisation, if it is another one.
    """

    limits: Limits = Limits()
    before: tuple[There, ...] = ()
    archive: Bytes
    outcome: Outcome
    folding: Outcome | None = None


class ArchiveVectors(Strict):
    """A file of archives."""

    schema_: Literal["schema.json"] = Field(alias="$schema")
    about: str
    archives: list[ArchiveCase]


def read_archives() -> list[ArchiveCase]:
    """Return the archives of all files.

    Raises:
        pydantic.ValidationError: a file does not fit the schema.
    """
    return [
        case
        for path in sorted(ARCHIVES.glob("*.json"))
        if path.name != "schema.json"
        for case in ArchiveVectors.model_validate_json(path.read_text("utf-8")).archives
    ]


def schema() -> dict[str, Any]:
    """Return the JSON schema of the files."""
    made = TypeAdapter[Any](ArchiveVectors).json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "OpenShell archive vectors",
    } | made


if __name__ == "__main__":
    sys.stdout.write(json.dumps(schema(), indent=1) + "\n")
