"""Remedies of the command line: a failure names the option or the words that mend it, and the state it leaves."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator

import pytest
from cli_scene import Cli, break_uploads, failed
from fake_file_gateway import FakeFile, FakeGateway
from openshell_files._core.requests import SandboxAddress
from openshell_files._known_errors import error_from_reason
from openshell_files.cli.exit_codes import ExitCode
from openshell_files.cli.output.wording import Where, failure_words
from openshell_files.errors import local_file_error
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MAX_CHUNK_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason


@pytest.mark.parametrize(
    ("words", "status", "remedy"),
    [
        (["download", "demo", "f", "nodir/"], ExitCode.LOCAL_FILE, "directory nodir, or give --parents"),
        (["download", "demo", "f", "no/dir/g"], ExitCode.LOCAL_FILE, "directory no/dir, or give --parents"),
        (["upload", "demo", "missing/"], ExitCode.USAGE, "names no file"),
    ],
    ids=str,
)
def test_a_directory_on_this_side(
    cli: Cli, gateway: FakeGateway, words: list[str], status: ExitCode, remedy: str
) -> None:
    gateway.files["f"] = FakeFile(b"content")
    (cli.home / "here").mkdir()
    failed(cli(*words), status, remedy)
    assert remedy.split("`", maxsplit=1)[0] in str(cli(*words, "--json").json["error"])


def test_a_missing_directory_is_made_as_the_remedy_promises(cli: Cli, gateway: FakeGateway) -> None:
    gateway.files["f"] = FakeFile(b"content")
    assert cli("download", "demo", "f", "nodir/", "--parents").status == 0
    assert (cli.home / "nodir" / "f").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("uploading", "remedy"), [(True, "End DEST with `/`"), (False, "leave options out that are for files")]
)
def test_a_directory_in_the_sandbox(remedy: str, *, uploading: bool) -> None:
    where = Where("demo", by_id=False, workspace="w", endpoint="gw:1", path="data", uploading=uploading)
    assert remedy in failure_words(error_from_reason(Reason.IS_A_DIRECTORY, "data is a directory"), where)


def test_a_file_that_became_a_directory() -> None:
    where = Where("demo", by_id=False, workspace="w", endpoint="gw:1", path="data", uploading=True)
    error = local_file_error(IsADirectoryError(errno.EISDIR, "Is a directory"), "data", "cannot read")
    assert "Give the directory itself as LOCAL" in failure_words(error, where)


BY_NAME = SandboxAddress(name="demo", workspace="w")
BY_ID = SandboxAddress(id="demo")


@pytest.mark.parametrize(
    ("address", "message", "added"),
    [
        (BY_NAME, "there is no sandbox 'demo' in the workspace 'w'", ""),
        (BY_ID, "there is no sandbox with the id 'demo'", ""),
        (BY_NAME, "sandbox 'demo' in workspace 'w' is stopped", ""),
        (BY_NAME, "the sandbox is in a demo", ": sandbox 'demo' in workspace 'w'"),
        (BY_ID, "sandbox not found", ": sandbox id demo"),
    ],
)
@pytest.mark.parametrize("reason", [Reason.SANDBOX_NOT_FOUND, Reason.SANDBOX_NOT_READY], ids=lambda r: r.name)
def test_a_sandbox_is_named_once(reason: Reason, address: SandboxAddress, message: str, added: str) -> None:
    error = error_from_reason(reason, message)
    address.name_in(error)
    assert error.message == f"{message}{added}"


def test_an_upload_id_that_is_unknown(cli: Cli, gateway: FakeGateway) -> None:
    """The user named one upload: another id than the meant one sends nothing."""
    (cli.home / "f").write_bytes(bytes(3 * MAX_CHUNK_BYTES))
    command = ("upload", "demo", "f", "x", "--upload-id", "typing-error")
    failed(cli(*command), ExitCode.NOT_FOUND, "--upload-id: ", "Leave --upload-id out to start a new upload")
    error = cli(*command, "--json").json["error"]
    assert (error["reason"], error["exit_code"]) == ("UPLOAD_UNKNOWN", ExitCode.NOT_FOUND)
    assert "openshell-files uploads" in error["fix"]
    assert not gateway.streams(methods.UPLOAD_FILE)
    assert "x" not in gateway.files


def test_a_stored_upload_survives_an_unknown_upload_id(cli: Cli, gateway: FakeGateway) -> None:
    (cli.home / "f").write_bytes(bytes(3 * MAX_CHUNK_BYTES))
    break_uploads(gateway, after=2)
    failed(cli("upload", "demo", "f", "x", "--attempts", "1"), ExitCode.UNAVAILABLE, "--resume")
    failed(cli("upload", "demo", "f", "x", "--upload-id", "typing-error"), ExitCode.NOT_FOUND)
    assert cli("upload", "demo", "f", "x", "--resume", "--json").json["resumed_from"] == 2 * MAX_CHUNK_BYTES


def test_no_uploads_are_told_to_people(cli: Cli) -> None:
    listed = cli("uploads", "demo")
    assert (listed.status, listed.out) == (0, "")
    assert listed.err == (
        "openshell-files: note: you have no unfinished uploads in sandbox demo in workspace default\n"
    )
    as_json = cli("uploads", "demo", "--json")
    assert (as_json.json["uploads"], as_json.err) == ([], "")


STATE = "Nothing was changed here; the same command downloads it from the beginning."


@pytest.mark.parametrize("messages", [0, 1, 2], ids=["at once", "behind the header", "behind content"])
def test_a_download_that_is_cut_short_tells_the_state_of_the_local_file(
    cli: Cli, gateway: FakeGateway, messages: int
) -> None:
    gateway.files["f"] = FakeFile(bytes(3 * MAX_CHUNK_BYTES))
    (cli.home / "g").write_bytes(b"old")

    def cut(
        _number: int, honest: Iterator[files_pb2.DownloadFileResponse]
    ) -> Iterator[files_pb2.DownloadFileResponse]:
        yield from itertools.islice(honest, messages)
        raise TransferError(Reason.RELAY_LOST, "the relay broke")

    gateway.on_download = cut
    command = ("download", "demo", "f", "g", "--attempts", "1")
    failed(cli(*command), ExitCode.UNAVAILABLE, STATE)
    assert (cli.home / "g").read_bytes() == b"old"
    assert [path.name for path in cli.home.iterdir() if path.is_file()] == ["g"]
    gateway.on_download = None
    assert cli(*command).status == 0
    assert (cli.home / "g").stat().st_size == 3 * MAX_CHUNK_BYTES


def test_a_cut_download_to_standard_output_is_incomplete(cli: Cli, gateway: FakeGateway) -> None:
    gateway.files["f"] = FakeFile(bytes(3 * MAX_CHUNK_BYTES))

    def cut(
        _number: int, honest: Iterator[files_pb2.DownloadFileResponse]
    ) -> Iterator[files_pb2.DownloadFileResponse]:
        yield from itertools.islice(honest, 2)
        raise TransferError(Reason.RELAY_LOST, "the relay broke")

    gateway.on_download = cut
    outcome = cli.process("download", "demo", "f", "-", "--attempts", "1")
    assert outcome.status == ExitCode.UNAVAILABLE
    assert "The content on standard output is incomplete." in outcome.err
    assert STATE not in outcome.err


def test_a_refused_download_says_nothing_of_the_local_file(cli: Cli) -> None:
    outcome = cli("download", "demo", "missing", "g")
    failed(outcome, ExitCode.NOT_FOUND)
    assert "Nothing was changed" not in outcome.err
