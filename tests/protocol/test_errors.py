"""The exception that carries a row."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from types import MappingProxyType

import pytest
from openshell_files_protocol.errors import FieldViolation, TransferError, invalid
from openshell_files_protocol.reasons import Code, Reason


def test_it_says_reason_and_message() -> None:
    error = TransferError(Reason.DISK_FULL, "/data: 0 bytes free")
    assert str(error) == "DISK_FULL: /data: 0 bytes free"
    assert error.args == ("/data: 0 bytes free",)
    assert error.code is Code.RESOURCE_EXHAUSTED


def test_facts_of_one_error_are_not_anothers() -> None:
    first, second = TransferError(Reason.INTERNAL, ""), TransferError(Reason.INTERNAL, "")
    assert first.metadata == {}
    assert first.metadata is not second.metadata


def test_a_bad_field_is_named() -> None:
    error = invalid("metadata.mode", "has bits beyond 07777")
    assert error.reason is Reason.INVALID_REQUEST
    assert error.message == "metadata.mode: has bits beyond 07777"
    assert error.field_violations == (FieldViolation("metadata.mode", "has bits beyond 07777"),)
    assert invalid("metadata.remote_path", "is empty", Reason.INVALID_PATH).reason is Reason.INVALID_PATH


def _pickled(error: TransferError) -> TransferError:
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, TransferError)
    return again


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, _pickled])
def test_it_can_be_copied_and_sent_to_another_process(
    duplicate: Callable[[TransferError], TransferError],
) -> None:
    error = TransferError(
        Reason.OFFSET_MISMATCH,
        "expected 5",
        metadata=MappingProxyType({"expected_offset": "5"}),
        field_violations=(FieldViolation("data.offset", "is 7"),),
        retry_delay=1.5,
    )
    again = duplicate(error)
    assert again is not error
    assert again == error
    assert str(again) == str(error)
    assert (again.metadata, again.field_violations, again.retry_delay) == (
        {"expected_offset": "5"},
        error.field_violations,
        1.5,
    )


def test_equal_errors_have_equal_hashes() -> None:
    """Whatever collects exceptions in a set can collect these."""
    first, second = TransferError(Reason.INTERNAL, "x"), TransferError(Reason.INTERNAL, "x")
    assert first == second
    assert len({first, second, TransferError(Reason.INTERNAL, "y")}) == 2


def test_it_can_be_raised_chained_and_annotated() -> None:
    cause = ValueError("cause")
    with pytest.raises(TransferError, match="INTERNAL: x") as caught:
        raise TransferError(Reason.INTERNAL, "x") from cause
    caught.value.add_note("note")
    assert caught.value.__cause__ is cause
    assert caught.value.__notes__ == ["note"]
