"""The clauses: their table is that of the document, and every case and exclusion names what exists."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import jsonschema
import pytest
from conformance.suite_tests.toys import toy
from openshell_files_conformance import coverage
from openshell_files_conformance.clauses import clauses, extracted, main, rendered
from openshell_files_conformance.registry import Env, HarnessError, case, fits, load_cases, matching
from openshell_files_conformance.vectors_data import value, vectors

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "tests/conformance/src/openshell_files_conformance"
PROTOCOL = ROOT / "docs/protocol.md"


def test_the_table_is_that_of_the_document() -> None:
    assert rendered(list(clauses().values())) == rendered(extracted(PROTOCOL.read_text("utf-8")))
    assert main([str(PROTOCOL), "--check"]) == 0


def test_a_clause_is_read_with_its_level_section_and_whole_sentence() -> None:
    document = """# A
## Part
- **ABC-1** A server MUST do
  what [this](there.md) says.
- **ABC-2** It is so.
Text between.
  - not of a clause
- **ABC-3** It SHOULD.
- **ABC-4** It MAY, and MUST.
| **ABC-5** | the answer | a file | RECEIVING | resumes |
"""
    found = {clause.id: clause for clause in extracted(document)}
    assert found["ABC-1"].text == "A server MUST do what this says."
    assert [clause.level for clause in found.values()] == ["MUST", "RULE", "SHOULD", "MUST", "RULE"]
    assert {clause.section for clause in found.values()} == {"Part"}
    assert found["ABC-5"].text.startswith("After the loss of the answer the sandbox has a file")
    assert [clause.binding for clause in found.values()] == [True, True, False, True, True]


def test_another_document_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "protocol.md"
    file.write_text(PROTOCOL.read_text("utf-8").replace("MUST refuse", "SHOULD refuse", 1))
    assert main([str(file), "--check"]) == 1


def test_every_case_can_be_loaded() -> None:
    """Loading compares clauses and dependencies with what exists."""
    for one in load_cases().values():
        assert one.id.startswith(f"{one.role}/")


@pytest.mark.parametrize(
    ("case_id", "clauses", "docstring"),
    [
        ("gateway/upload", ("UPL-5",), "Text."),
        ("gateway/upload/Offset", ("UPL-5",), "Text."),
        ("client/upload/offset", ("UPL-5",), "Text."),
        ("gateway/upload/offset", (), "Text."),
        ("gateway/upload/offset", ("UPL5",), "Text."),
        ("gateway/upload/offset", ("UPL-5", "UPL-5"), "Text."),
        ("gateway/upload/offset", ("UPL-5",), None),
    ],
)
def test_a_case_that_is_not_as_it_must_be_is_refused(
    case_id: str, clauses: tuple[str, ...], docstring: str | None
) -> None:
    async def body(_env: Env) -> None:
        pass

    body.__doc__ = docstring
    with pytest.raises(HarnessError):
        case(case_id, profile="core", clauses=clauses)(body)


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("gateway/toys/a", ["a"]),
        ("gateway/toys/a:holds", ["a"]),
        ("gateway/toys", ["a", "ab", "c"]),
        ("gateway/toys/", ["a", "ab", "c"]),
        ("gateway/toy", []),
        ("gateway/toys/a*", ["a", "ab"]),
        ("UPL-6", ["c"]),
        ("UPL-", []),
    ],
)
def test_patterns_choose_cases(pattern: str, chosen: list[str]) -> None:
    cases = [toy("a"), toy("ab"), toy("c", clauses=("UPL-5", "UPL-6"))]
    assert [one.id.rpartition("/")[2] for one in matching(cases, [pattern])] == chosen
    assert not fits(cases[0], "")


def test_the_quick_selection_names_every_clause_with_few_cases() -> None:
    cases = [
        toy("a", clauses=("UPL-5",)),
        toy("b", clauses=("UPL-6",)),
        toy("c", clauses=("UPL-5", "UPL-6")),
        toy("d", clauses=("UPL-7",), launch={"x": 1}),
        toy("e", clauses=("UPL-7",), timeout=60),
    ]
    assert [one.id.rpartition("/")[2] for one in coverage.quick(cases)] == ["c", "e"]
    everything = list(load_cases().values())
    chosen = coverage.quick(everything)
    assert {name for one in chosen for name in one.clauses} == {
        name for one in everything for name in one.clauses
    }


def test_gaps_are_found() -> None:
    cases = [toy("a", clauses=("UPL-5",))]
    problems = coverage.gaps(cases)
    assert any(problem.startswith("UPL-6 has neither") for problem in problems)
    assert not any(problem.startswith("UPL-5 ") for problem in problems)
    assert "| UPL-5 | MUST | `gateway/toys/a` |" in coverage.rendered(cases)


def test_the_suite_imports_nothing_of_what_it_judges() -> None:
    """The launch of the reference is in `adapters/`, outside of the package."""
    reference = {
        *("openshell_files", "openshell_files_disk", "openshell_files_gateway", "openshell_files_process"),
        *("openshell_files_protocol", "openshell_supervisor_sim", "openshell"),
    }
    for file in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.partition(".")[0] for name in names} & reference, file


@pytest.mark.parametrize("file", sorted((SOURCES / "vectors").glob("**/*.json")), ids=lambda file: file.stem)
def test_the_vectors_that_are_shipped_fit_their_schema(file: Path) -> None:
    if file.name == "schema.json":
        return
    name = file.relative_to(SOURCES / "vectors").with_suffix("").as_posix()
    schema = json.loads((file.parent / "schema.json").read_text("utf-8"))
    jsonschema.validate(vectors(name), schema)


def test_bytes_of_a_vector_are_text_or_parts() -> None:
    assert value("00ff") == b"\x00\xff"
    assert value([{"hex": "01", "times": 3}, {"hex": "02"}]) == b"\x01\x01\x01\x02"
