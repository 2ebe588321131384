"""The exceptions: every reason has a class, every status has one, and nothing is lost on the way."""

from __future__ import annotations

import pickle

import pytest
from fake_file_gateway import details_of
from openshell_files import errors
from openshell_files._core.borrowed_channel_errors import owners_failure
from openshell_files._error_mapping import CLASS_BY_CODE, error_from_status
from openshell_files._known_errors import CLASS_BY_REASON
from openshell_files.cli import exit_codes
from openshell_files.cli.exit_codes import ExitCode, exit_code
from openshell_files.errors import CredentialsError, ErrorFacts, FilesError
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Code, Reason, Retry
from vector_cases import Errors, StatusCase, named, read

BUILTINS = {
    Reason.FILE_NOT_FOUND: FileNotFoundError,
    Reason.PARENT_NOT_FOUND: FileNotFoundError,
    Reason.IS_A_DIRECTORY: IsADirectoryError,
    Reason.NOT_A_DIRECTORY: NotADirectoryError,
    Reason.FILE_EXISTS: FileExistsError,
    Reason.ACCESS_DENIED: PermissionError,
    Reason.PATH_FORBIDDEN: PermissionError,
    Reason.ROLE_REQUIRED: PermissionError,
    Reason.TRANSFER_IDLE: TimeoutError,
    Reason.RELAY_LOST: ConnectionError,
    Reason.DISK_FULL: OSError,
    Reason.INVALID_PATH: ValueError,
    Reason.ARCHIVE_UNSUPPORTED: NotImplementedError,
    Reason.ARCHIVE_INVALID: ValueError,
    Reason.SANDBOX_NOT_FOUND: LookupError,
}


def received(error: TransferError) -> FilesError:
    return error_from_status(
        int(error.code), error.message, [("x", "y"), ("grpc-status-details-bin", details_of(error))]
    )


@pytest.mark.parametrize("reason", Reason, ids=lambda r: r.name)
def test_every_reason(reason: Reason) -> None:
    """The mapping is total, and keeps code, retry class and advice of the table."""
    error = received(TransferError(reason, "this happened", {"k": "v"}))
    assert type(error) is CLASS_BY_REASON[reason]
    assert (error.reason, error.code, error.retry) == (reason.name, reason.row.code, reason.row.retry)
    assert error.fix == reason.row.fix
    assert error.metadata == {"k": "v"}
    assert str(error) == f"{reason.name}: this happened"
    assert isinstance(error, BUILTINS.get(reason, FilesError))


def test_tables_are_total() -> None:
    assert CLASS_BY_REASON.keys() == set(Reason)
    assert CLASS_BY_CODE.keys() == set(Code)


@pytest.mark.parametrize("code", Code, ids=lambda c: c.name)
def test_every_status_without_details(code: Code) -> None:
    error = error_from_status(int(code), "words", ())
    assert (error.code, error.reason) == (code, code.name)
    assert isinstance(error, CLASS_BY_CODE[code][0])


def test_unknown_status() -> None:
    assert error_from_status(99, "", ()).code is Code.UNKNOWN


@pytest.mark.parametrize("case", read(Errors).statuses, ids=named)
def test_vectors(case: StatusCase) -> None:
    """What is ours is read; what cannot be believed is left out, and the code itself counts."""
    trailing: list[tuple[str, str | bytes]] = [
        ("x", "y"),
        ("grpc-status-details-bin", bytes.fromhex(case.details)),
    ]
    code = Code[case.code]
    error = error_from_status(int(code), case.message, trailing)
    assert (error.code, error.reason, error.retry.value) == (code, case.reason, case.retry)
    assert error.retry_delay == case.retry_delay
    assert [violation.field for violation in error.field_violations] == case.fields
    assert error.metadata == case.metadata
    assert error.fix == (Reason[case.reason].row.fix if case.of_table else CLASS_BY_CODE[code][2])


def test_details_that_are_text() -> None:
    """gRPC gives a key that ends in -bin as bytes; a proxy may not."""
    error = error_from_status(5, "x", [("grpc-status-details-bin", "text")])
    assert (error.reason, error.fix) == ("NOT_FOUND", CLASS_BY_CODE[Code.NOT_FOUND][2])


@pytest.mark.parametrize("words", ["Received RST_STREAM with error code 2", "Internal error from Core"])
def test_broken_stream_is_not_a_bug(words: str) -> None:
    error = error_from_status(13, words, ())
    assert isinstance(error, errors.Unavailable)
    assert error.retry is Retry.LATER


def test_pickle() -> None:
    """Errors cross process borders whole."""
    error = received(TransferError(Reason.FILE_NOT_FOUND, "gone", {"a": "b"}))
    error.about("x")
    error.upload_id, error.staged = "u", 5
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.message, copy.facts, copy.path) == (type(error), "gone", error.facts, "x")
    assert (copy.upload_id, copy.staged, copy.filename, copy.errno) == ("u", 5, "x", 2)


def classes(parent: type[FilesError]) -> list[type[FilesError]]:
    return [parent, *(c for child in parent.__subclasses__() for c in classes(child))]


@pytest.mark.parametrize("kind", classes(FilesError)[1:], ids=lambda c: c.__name__)
def test_every_class_can_be_raised_and_has_an_exit_code(kind: type[FilesError]) -> None:
    with pytest.raises(FilesError, match="words") as caught:
        raise kind("words", ErrorFacts("REASON"), path="p")
    assert exit_code(caught.value) not in {ExitCode.OK, ExitCode.INTERRUPTED, ExitCode.TERMINATED}
    if isinstance(caught.value, OSError):
        assert caught.value.filename == "p"


def test_exit_codes_are_documented() -> None:
    documented = {
        line.split("|")[1].strip() for line in (exit_codes.__doc__ or "").splitlines() if line[:1] == "|"
    }
    assert {str(int(code)) for code in ExitCode} <= documented


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), MemoryError),
        (RuntimeError("can't start new thread"), RuntimeError),
        (RuntimeError("the owner's own"), CredentialsError),
    ],
    ids=str,
)
def test_a_call_without_memory_or_threads_does_not_lack_a_token(
    error: Exception, kind: type[Exception]
) -> None:
    made = owners_failure(error)
    assert type(made) is kind
    assert made is not error
