"""`upload --extract` and `download --archive`: words, options that do not fit, reports."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cli_scene import Cli
from fake_file_gateway import FakeFile, FakeGateway
from openshell_files.cli.exit_codes import ExitCode
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

PROBLEMS = files_pb2.ArchiveResult(
    entries=30,
    placed_entries=5,
    files=3,
    content_bytes=77,
    problems=[
        files_pb2.ArchiveProblem(path=b"a\xff\x1b", reason="INVALID_PATH", message=f"no {n}.")
        for n in range(22)
    ],
    more_problems=3,
)


@pytest.fixture(autouse=True)
def home(cli: Cli) -> Path:
    (cli.home / "x.tar").write_bytes(b"archive")
    (cli.home / "dir").mkdir()
    return cli.home


UPLOADS = [
    (("x.tar", "into", "--mode", "600"), "--mode: does not fit --extract"),
    (("x.tar", "into", "--no-preserve-mtime"), "--no-preserve-mtime"),
    (("x.tar", "into", "--if-absent"), "--if-absent"),
    (("x.tar", "into", "--if-match-version", "v"), "--if-match-version"),
    (("x.tar", "into", "--follow"), "--follow"),
    (("x.tar", "into", "--replace-link"), "--replace-link"),
    (("x.tar", "into", "--keep-read-only"), "--keep-read-only"),
    (("x.tar", "into", "--skip-identical"), "--skip-identical"),
    (("x.tar", "into", "--digest", "sha256"), "--digest"),
    (("x.tar", "into", "--resume"), "--resume"),
    (("x.tar", "into", "--upload-id", "u"), "--upload-id"),
    (("x.tar", "into", "--delete"), "--delete"),
    (("x.tar", "into", "--dry-run"), "--dry-run"),
    (("x.tar", "into", "--exclude", "a"), "--exclude"),
    (("x.tar", "into", "--atomic"), "--atomic"),
    (("x.tar",), "give LOCAL, the archive, and DEST"),
    (("x.tar", "y.tar", "into"), "give LOCAL, the archive, and DEST"),
    (("x.tar", ""), "DEST: must not be empty"),
    (("dir", "into"), "'dir' is a directory, and no archive"),
]


@pytest.mark.parametrize(("words", "told"), UPLOADS)
def test_what_does_not_fit_extract(cli: Cli, gateway: FakeGateway, words: tuple[str, ...], told: str) -> None:
    done = cli("upload", "demo", *words, "--extract")
    assert done.status == ExitCode.USAGE
    assert told in done.err
    assert not gateway.calls


DOWNLOADS = [
    (("d", "x.tar", "--mode", "600"), "--mode: does not fit --archive"),
    (("d", "x.tar", "--preserve-mode"), "--preserve-mode"),
    (("d", "x.tar", "--offset", "1"), "--offset"),
    (("d", "x.tar", "--length", "1"), "--length"),
    (("d", "x.tar", "--tail", "1"), "--tail"),
    (("d", "x.tar", "--if-version", "v"), "--if-version"),
    (("d", "x.tar", "--digest", "sha256"), "--digest"),
    (("d", "x.tar", "--include", "a"), "--include"),
    (("d", "x.tar", "--checksum"), "--checksum"),
    (("d", "x.tar", "--durability", "rename"), "--durability"),
    (("d",), "give SRC, the directory, and DEST"),
    (("d", "e", "x.tar"), "give SRC, the directory, and DEST"),
    (("d", "dir"), "'dir' is a directory; give the name of the archive's file"),
    (("d", "new/"), "'new/' is a directory"),
    (("", "x.tar"), "must not be empty"),
]


@pytest.mark.parametrize(("words", "told"), DOWNLOADS)
def test_what_does_not_fit_archive(cli: Cli, gateway: FakeGateway, words: tuple[str, ...], told: str) -> None:
    done = cli("download", "demo", *words, "--archive")
    assert done.status == ExitCode.USAGE
    assert told in done.err
    assert not gateway.calls


@pytest.mark.parametrize("words", [("x.tar", "into/"), ("x.tar", "--to", "into/")])
def test_an_upload(cli: Cli, gateway: FakeGateway, words: tuple[str, ...]) -> None:
    """`/` at the end of DEST changes nothing: it is the directory itself."""
    gateway.archive = files_pb2.ArchiveResult(entries=3, placed_entries=3, files=2, content_bytes=1500)
    done = cli("upload", "demo", *words, "--extract", "--parents", "--durability", "rename")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("unpacked 3 entries (1.5 kB) of x.tar into demo:/into")
    [metadata] = [messages[0].metadata for messages in gateway.upload_messages]
    assert metadata.is_archive
    assert metadata.parents == files_pb2.PARENT_POLICY_CREATE
    assert metadata.durability == files_pb2.DURABILITY_RENAME


def test_standard_input(cli: Cli, gateway: FakeGateway) -> None:
    done = cli.process("upload", "demo", "-", "into", "--extract", stdin=b"archive")
    assert done.status == 0, done
    assert gateway.files["into"].content == b"archive"


def test_problems(cli: Cli, gateway: FakeGateway) -> None:
    """Each is a line, as far as a person reads; control characters are escaped, and the status is 17."""
    gateway.archive = PROBLEMS
    done = cli("upload", "demo", "x.tar", "into", "--extract")
    assert done.status == ExitCode.PARTIAL
    lines = done.err.splitlines()
    assert len(lines) == 22
    assert "no 0 [INVALID_PATH]" in lines[0]
    assert "\\x1b" in lines[0]
    assert lines[20].endswith("and 5 more; --json lists the first 1000")
    assert "unpacked 5 entries" in lines[21]
    assert "25 failed" in lines[21]
    assert "[PARTIAL]" in lines[21]
    as_json = cli("upload", "demo", "x.tar", "into", "--extract", "--json")
    fields = json.loads(as_json.out)
    assert (fields["ok"], fields["complete"], fields["failed"], fields["more_problems"]) == (
        False,
        False,
        25,
        3,
    )
    assert base64.b64decode(fields["problems"][0]["path_base64"]) == b"a\xff\x1b"
    assert (len(fields["problems"]), fields["error"]["exit_code"]) == (22, ExitCode.PARTIAL)


def test_a_download(cli: Cli, gateway: FakeGateway) -> None:
    gateway.files["d"] = FakeFile(b"archive")
    gateway.archive = files_pb2.ArchiveResult(entries=1, placed_entries=1)
    done = cli("download", "demo", "d", "new/y.tar", "--archive", "--parents", "--allow-changes")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("packed 1 entry (0 B) of demo:/d into new/y.tar")
    assert (cli.home / "new/y.tar").read_bytes() == b"archive"
    [request] = gateway.method_calls("/openshell.v1.OpenShell/DownloadFile")
    assert isinstance(request, files_pb2.DownloadFileRequest)
    assert request.on_change == files_pb2.CHANGE_POLICY_ALLOW


def test_standard_output_has_the_archive_alone(cli: Cli, gateway: FakeGateway) -> None:
    gateway.files["d"] = FakeFile(b"archive")
    gateway.archive = PROBLEMS
    done = cli.process("download", "demo", "d", "-", "--archive")
    assert (done.status, done.out) == (ExitCode.PARTIAL, "archive")
    assert "packed 5 entries" in done.err


@pytest.mark.parametrize(
    ("reason", "status", "told"),
    [
        (Reason.ARCHIVE_UNSUPPORTED, ExitCode.UNSUPPORTED, "upload_tree"),
        (Reason.ARCHIVE_INVALID, ExitCode.DAMAGED, "Send a tar archive with its end"),
        (Reason.LEAF_IS_LINK, ExitCode.PATH_REFUSED, "Name the directory that the link leads to"),
    ],
)
def test_failures_name_the_remedy(
    cli: Cli, gateway: FakeGateway, reason: Reason, status: ExitCode, told: str
) -> None:
    def refuse(*_: object) -> None:
        raise TransferError(reason, "so it is")

    gateway.on_upload_message = refuse
    done = cli("upload", "demo", "x.tar", "into", "--extract")
    assert done.status == status, done
    assert told in done.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("y.tar", "--max-bytes", "3"), "[MAX_BYTES_EXCEEDED]. Raise --max-bytes.\n"),
        (("nodir/y.tar",), "Create the directory nodir, or give --parents.\n"),
    ],
)
def test_remedies_are_options_of_archives(
    cli: Cli, gateway: FakeGateway, words: tuple[str, ...], told: str
) -> None:
    gateway.files["d"] = FakeFile(b"archive")
    gateway.archive = PROBLEMS
    done = cli("download", "demo", "d", *words, "--archive")
    assert done.status
    assert done.err.endswith(told)
