"""`--resume` and `abort`: unfinished uploads of the command line."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import pytest
from cli_scene import Cli, break_uploads, failed
from fake_file_gateway import FakeGateway, FakeUpload, Stall
from openshell_files.cli.exit_codes import ExitCode
from openshell_files_protocol.limits import MAX_CHUNK_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2


def test_resume_by_another_process(cli: Cli, gateway: FakeGateway, big: Path) -> None:
    """RSM-3: the store has the upload's id; hours later another process resumes it."""
    break_uploads(gateway, after=2)
    first = cli.process("upload", "demo", big, "x", "--attempts", "1")
    failed(first, ExitCode.UNAVAILABLE, "relay broke")
    (entry,) = (cli.home / "state/openshell-files/uploads").iterdir()
    assert entry.stat().st_mode & 0o777 == 0o600
    assert "token" not in json.loads(entry.read_text())
    second = cli.process("upload", "demo", big, "x", "--resume", "--json")
    assert second.json["resumed_from"] == 2 * MAX_CHUNK_BYTES
    assert gateway.files["x"].content == big.read_bytes()
    assert not entry.exists(), "forgotten when it is done"


def test_a_resume_that_starts_over_is_in_the_json(cli: Cli, gateway: FakeGateway, big: Path) -> None:
    break_uploads(gateway, after=2)
    assert cli("upload", "demo", big, "x", "--attempts", "1").status == ExitCode.UNAVAILABLE
    gateway.uploads.clear()
    forgotten = cli("upload", "demo", big, "x", "--resume", "--json")
    assert (forgotten.json["started_over"], forgotten.json["resumed_from"]) == (True, 0)
    break_uploads(gateway, after=2, streams=4)
    assert cli("upload", "demo", big, "y", "--attempts", "1").status == ExitCode.UNAVAILABLE
    assert cli("upload", "demo", big, "y", "--resume", "--json").json["started_over"] is False


def test_resume_by_id(cli: Cli, gateway: FakeGateway, big: Path) -> None:
    break_uploads(gateway, after=2)
    first = cli("upload", "demo", big, "x", "--attempts", "1", "--json")
    assert first.json["error"]["upload_id"] == "upload-1"
    listed = cli("uploads", "demo")
    assert "upload-1  receiving" in listed.out
    second = cli("upload", "demo", big, "x", "--upload-id", "upload-1", "--json")
    assert second.json["resumed_from"] == 2 * MAX_CHUNK_BYTES


def test_without_resume_it_begins_anew(cli: Cli, gateway: FakeGateway, big: Path) -> None:
    break_uploads(gateway, after=2)
    cli("upload", "demo", big, "x", "--attempts", "1")
    assert cli("upload", "demo", big, "x", "--json").json["resumed_from"] == 0
    assert cli("upload", "demo", big, "y", "--resume", "--json").json["resumed_from"] == 0


def test_state_that_cannot_be_kept_is_only_a_note(cli: Cli, gateway: FakeGateway, big: Path) -> None:
    (cli.home / "state").write_text("in the way")
    done = cli("upload", "demo", big, "x")
    assert done.status == 0
    assert "note: cannot store the upload" in done.err
    assert gateway.files["x"].content == big.read_bytes()


def test_abort(cli: Cli, gateway: FakeGateway, big: Path) -> None:
    break_uploads(gateway, after=2)
    cli("upload", "demo", big, "x", "--attempts", "1")
    assert cli("abort", "demo", "upload-1").out == "upload-1 is aborted\n"
    failed(cli("abort", "demo", "other"), ExitCode.NOT_FOUND, "UPLOAD_UNKNOWN")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_interrupted_upload_says_how_to_go_on(
    cli: Cli, gateway: FakeGateway, big: Path, number: signal.Signals, status: int
) -> None:
    reached = threading.Event()

    def hook(stream: int, upload: FakeUpload, _request: files_pb2.UploadFileRequest) -> None:
        if stream == 1 and len(upload.staged) >= MAX_CHUNK_BYTES:
            reached.set()
            raise Stall

    gateway.on_upload_message = hook
    process = cli.start("upload", "demo", big, "x")
    assert reached.wait(30)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert out == b""
    assert err.count(b"\n") == 1
    assert b"--resume" in err
    resumed = cli("upload", "demo", big, "x", "--resume", "--json")
    assert resumed.json["resumed_from"] == MAX_CHUNK_BYTES


def stall_after_the_first_chunk(gateway: FakeGateway) -> threading.Event:
    """Let uploads stand still; the event says that one does."""
    reached = threading.Event()

    def hook(stream: int, upload: FakeUpload, _request: files_pb2.UploadFileRequest) -> None:
        if stream == 1 and len(upload.staged) >= MAX_CHUNK_BYTES:
            reached.set()
            raise Stall

    gateway.on_upload_message = hook
    return reached


def test_an_interrupted_upload_is_named_for_programs(cli: Cli, gateway: FakeGateway, big: Path) -> None:
    reached = stall_after_the_first_chunk(gateway)
    process = cli.start("upload", "demo", big, "x", "--json")
    assert reached.wait(30)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert err == b""
    error = json.loads(out)["error"]
    assert (error["reason"], error["upload_id"]) == ("INTERRUPTED", "upload-1")
    assert "--resume" in error["fix"]


def test_what_a_person_can_do_is_the_same_for_programs(cli: Cli, gateway: FakeGateway, big: Path) -> None:
    """All of it: more time, and going on with what is there."""
    stall_after_the_first_chunk(gateway)
    error = cli("upload", "demo", big, "x", "--timeout", "1", "--json").json["error"]
    assert (error["reason"], error["upload_id"]) == ("TIMEOUT", "upload-1")
    assert "--timeout" in error["fix"]
    assert "--resume" in error["fix"]
