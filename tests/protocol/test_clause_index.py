"""Every clause of docs/protocol.md has a test that names it, and no test names one that does not exist."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from clause_index import (
    INDEX,
    PROTOCOL,
    TESTS,
    UNTESTED,
    clauses_in,
    defined_clauses,
    holders,
    rendered,
    unknown,
)

DEFINED = defined_clauses(PROTOCOL.read_text(encoding="utf-8"))
HOLDERS = holders(TESTS)
#: The clauses that are items of a list; those of a table are rows.
CLAUSES = {
    clause: " ".join(text.split())
    for clause, text in re.findall(
        r"^- \*\*([A-Z]{3}-\d+)\*\* (.+(?:\n  .+)*)", PROTOCOL.read_text(encoding="utf-8"), re.MULTILINE
    )
}


def test_clauses_are_numbered_once_and_without_gaps() -> None:
    assert [clause for clause, count in Counter(DEFINED).items() if count > 1] == []
    families: dict[str, list[int]] = {}
    for clause in DEFINED:
        family, _, number = clause.partition("-")
        families.setdefault(family, []).append(int(number))
    for family, numbers in families.items():
        assert sorted(numbers) == list(range(1, len(numbers) + 1)), family


@pytest.mark.parametrize(("clause", "text"), sorted(CLAUSES.items()))
def test_a_clause_is_one_rule(clause: str, text: str) -> None:
    """At most two sentences and sixty words, so that a test can say which rule it holds."""
    sentences = re.findall(r"\.(?= [A-Z`]|$)", text)
    assert 1 <= len(sentences) <= 2, clause
    assert len(text.split()) <= 60, clause


def test_every_clause_is_named_by_a_test() -> None:
    missing = [clause for clause in DEFINED if clause not in HOLDERS and clause not in UNTESTED]
    assert missing == [], f"no test names {', '.join(missing)}"


def test_every_clause_that_is_named_exists() -> None:
    wrong = unknown(HOLDERS, DEFINED)
    shown = [
        f"{clause} in {holder.path}::{holder.name}" for clause in sorted(wrong) for holder in wrong[clause]
    ]
    assert shown == []


def test_what_is_said_to_be_untested_is() -> None:
    """An entry that is stale, or of a clause that is gone, would hide the next one."""
    stale = [clause for clause in UNTESTED if clause in HOLDERS or clause not in DEFINED]
    assert stale == []
    assert all(UNTESTED.values())


def test_the_index_is_up_to_date() -> None:
    assert INDEX.read_text(encoding="utf-8") == rendered(), (
        "docs/clauses.md is old: python tests/clause_index.py > docs/clauses.md"
    )


def test_the_index_links_to_files() -> None:
    text = INDEX.read_text(encoding="utf-8")
    for link in set(re.findall(r"\]\(([^)]+)\)", text)):
        assert (INDEX.parent / link).is_file(), link


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("UPL-3: a digest", ["UPL-3"]),
        ("RSM-2 to RSM-4", ["RSM-2", "RSM-3", "RSM-4"]),
        ("FRM-1 to 3", ["FRM-1", "FRM-2", "FRM-3"]),
        ("the CRC-32C, a SHA-256 and X-RSM-1x", []),
    ],
)
def test_names_of_clauses(text: str, clauses: list[str]) -> None:
    assert sorted(set(clauses_in(text))) == clauses
