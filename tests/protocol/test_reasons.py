"""The error table, the page written from it, and the clauses that use it."""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import pytest
from openshell_files_protocol import error_docs
from openshell_files_protocol.pb.openshell.v1 import directories_pb2, files_pb2
from openshell_files_protocol.reasons import Blame, Code, Reason, Retry, Row, reason_named
from vector_cases import Errors, read

DOCS = Path(__file__).resolve().parents[2] / "docs"

every_reason = pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.name)


def test_no_two_rows_are_equal() -> None:
    """Python makes the second of two equal members another name of the first."""
    aliases = {name: reason.name for name, reason in Reason.__members__.items() if name != reason.name}
    assert aliases == {}


def test_a_second_equal_row_would_be_seen() -> None:
    """The check above is worth something: equal rows do become one member."""
    row = Reason.DISK_FULL.row
    assert Row(row.code, row.retry, row.blame, row.meaning, row.fix) == row
    assert len({reason.row for reason in Reason}) == len(Reason.__members__)


@every_reason
def test_every_row_explains_itself(reason: Reason) -> None:
    for text in (reason.row.meaning, reason.row.fix):
        assert re.fullmatch(r"[A-Z`].*\S\.", text)
        # The page is a table.
        assert "|" not in text
        assert "\n" not in text


@every_reason
def test_every_name_is_one_that_error_info_allows(reason: Reason) -> None:
    """google.rpc.ErrorInfo: at most 63 characters, upper snake case."""
    assert re.fullmatch(r"[A-Z][A-Z0-9_]+[A-Z0-9]", reason.name)
    assert len(reason.name) <= 63


@every_reason
def test_a_reason_is_found_by_its_name(reason: Reason) -> None:
    assert reason_named(reason.name) is reason


@pytest.mark.parametrize("name", ["", "row", "NO_SUCH_REASON", "internal", "__class__"])
def test_an_unknown_name_is_no_reason(name: str) -> None:
    assert reason_named(name) is None


def test_codes_are_grpcs() -> None:
    theirs = {code.name: code.value[0] for code in grpc.StatusCode if code is not grpc.StatusCode.OK}
    assert {code.name: code.value for code in Code} == theirs


@every_reason
def test_what_no_client_can_cure_is_not_retried(reason: Reason) -> None:
    """A request that is wrong, or a caller who is not allowed, stays so."""
    row = reason.row
    final = {Code.INVALID_ARGUMENT, Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.UNIMPLEMENTED}
    if row.code in final:
        assert row.retry is Retry.NEVER
    if row.code is Code.UNAVAILABLE:
        assert row.retry in {Retry.AGAIN, Retry.LATER}
        assert row.blame is not Blame.CALLER


def test_vectors() -> None:
    """Code and retry class of every reason; a change is a change of the protocol."""
    expected = [(row.reason, row.code, row.retry) for row in read(Errors).reasons]
    assert [(one.name, one.row.code.name, one.row.retry.value) for one in Reason] == expected


def test_the_page_is_up_to_date() -> None:
    assert (DOCS / "errors.md").read_text("utf-8") == error_docs.markdown()


@every_reason
def test_the_page_has_every_reason(reason: Reason) -> None:
    rows = [line for line in error_docs.markdown().splitlines() if line.startswith(f"| `{reason.name}` |")]
    assert len(rows) == 1
    cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
    assert cells == [
        f"`{reason.name}`",
        reason.row.code.name,
        reason.row.blame.value,
        reason.row.retry.value,
        reason.row.meaning,
        reason.row.fix,
    ]


@pytest.mark.parametrize("retry", list(Retry), ids=lambda retry: retry.value)
def test_the_page_explains_every_retry_class(retry: Retry) -> None:
    assert re.search(rf"\*\*{retry.value}:?\*\*:? ", error_docs.markdown())


def test_the_clauses_name_no_reason_that_the_table_lacks() -> None:
    """docs/protocol.md: every capitalised name in code marks is a reason or an enum value."""
    named = set(re.findall(r"`([A-Z][A-Z]+(?:_[A-Z]+)+)`", (DOCS / "protocol.md").read_text("utf-8")))
    assert len(named) > 20
    enum_values = {
        value.name
        for file in (files_pb2, directories_pb2)
        for enum in file.DESCRIPTOR.enum_types_by_name.values()
        for value in enum.values
    }
    assert named - set(Reason.__members__) - enum_values == set()
