"""The vectors fit their schema, and every list of them is read by a test."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from vector_cases import KINDS, VECTORS, Vectors, file_of, read, schema


def test_the_schema_is_up_to_date() -> None:
    written = json.loads((VECTORS / "schema.json").read_text("utf-8"))
    assert written == schema(), "python tests/vector_cases.py > tests/vectors/schema.json"


def test_every_file_has_a_kind() -> None:
    files = {path.name for path in VECTORS.glob("*.json")} - {"schema.json"}
    assert files == set(map(file_of, KINDS))
    for kind in KINDS:
        assert read(kind).about


def lists_of(kind: type[Vectors]) -> list[str]:
    """Return the fields that hold cases."""
    return [name for name, field in kind.model_fields.items() if str(field.annotation).startswith("list")]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_names_are_given_once(kind: type[Vectors]) -> None:
    written = json.loads((VECTORS / file_of(kind)).read_text("utf-8"))
    for field in lists_of(kind):
        assert written[field], field
        names = Counter(case.get("name") for case in written[field])
        assert None in names or max(names.values()) == 1, field


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_list_is_read_by_a_test(kind: type[Vectors]) -> None:
    sources = [path.read_text("utf-8") for path in VECTORS.parent.rglob("test_*.py")]
    for name in lists_of(kind):
        assert any(f"read({kind.__name__}).{name}" in source for source in sources), name
