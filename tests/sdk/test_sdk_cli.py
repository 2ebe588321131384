"""The command line: exit status, one line of text or JSON, and the files that it leaves."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

import pytest
from cli_scene import COMMAND, Cli, failed
from digest_values import BLAKE3, SHA256, words_of
from fake_file_gateway import FakeFile, FakeGateway, Stall
from openshell_files.cli.exit_codes import ExitCode
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from sdk_flavours import big_content


def test_up_and_down(cli: Cli, gateway: FakeGateway) -> None:
    (cli.home / "a.txt").write_bytes(b"hello")
    up = cli.process("upload", "demo", "a.txt")
    assert (up.status, up.err) == (0, "")
    digest = words_of(b"hello")
    pace = r"in \d+\.\d\d s, [0-9.]+ k?B/s"
    assert re.fullmatch(rf"a\.txt -> /a\.txt \(5 bytes {pace}, {digest}\)\n", up.out)
    assert gateway.files["a.txt"].content == b"hello"
    assert gateway.tokens == ["Bearer token"]
    down = cli.process("download", "demo", "a.txt", "b.txt")
    assert (down.status, down.err) == (0, "")
    assert (cli.home / "b.txt").read_bytes() == b"hello"
    assert cli("upload", "demo", "a.txt", "-q").out == ""


def test_json(cli: Cli) -> None:
    (cli.home / "a").write_bytes(b"hello")
    up = cli("upload", "demo", "a", "x", "--json")
    assert (up.status, up.err) == (0, "")
    assert {"path", "size", "digest", "bytes_sent", "seconds", "resumed_from", "attempts"} <= up.json.keys()
    assert (up.json["ok"], up.json["size"], up.json["bytes_sent"]) == (True, 5, 5)
    down = cli("download", "demo", "x", "b", "--json")
    assert {
        "path",
        "size",
        "digest",
        "bytes_received",
        "seconds",
        "resumed_from",
        "attempts",
    } <= down.json.keys()
    assert cli("uploads", "demo", "--json").json == {"ok": True, "uploads": []}


@pytest.mark.parametrize(("choice", "algorithm"), [("auto", BLAKE3), ("blake3", BLAKE3), ("sha256", SHA256)])
def test_the_digest(cli: Cli, choice: str, algorithm: files_pb2.DigestAlgorithm.ValueType) -> None:
    """DIG-2: every command takes `--digest`, and says which digest it is, to programs and to people."""
    (cli.home / "a").write_bytes(b"hello")
    expected = words_of(b"hello", algorithm)
    for command in (["upload", "demo", "a", "x"], ["download", "demo", "x", "b"], ["stat", "demo", "x"]):
        assert cli(*command, "--digest", choice, "--json").json["digest"] == expected
        assert expected in cli(*command, "--digest", choice).out
        failed(cli(*command, "--digest", "md5"), ExitCode.USAGE, "md5")
    assert cli("stat", "demo", "x", "--json").json["digest"] is None
    assert cli("upload", "demo", "a", "x", "--if-match-digest", expected).status == 0
    failed(
        cli("upload", "demo", "a", "x", "--if-match-digest", words_of(b"other")),
        ExitCode.CONDITION,
        "CONDITION_FAILED",
    )


@pytest.mark.parametrize(
    ("local", "dest", "remote"),
    [
        ("d/a.txt", [], "a.txt"),
        ("d/a.txt", ["/data/"], "/data/a.txt"),
        ("d/a.txt", ["/there"], "/there"),
        ("d/a.txt", ["b"], "b"),
    ],
)
def test_upload_destinations(
    cli: Cli, gateway: FakeGateway, local: str, dest: list[str], remote: str
) -> None:
    """PTH-1: the command line decides what "into" means, and sends a file's path."""
    (cli.home / "d").mkdir()
    (cli.home / local).write_bytes(b"1")
    assert cli("upload", "demo", local, *dest).status == 0
    assert list(gateway.files) == [remote]


@pytest.mark.parametrize(
    ("dest", "local"), [([], "x.bin"), (["."], "x.bin"), (["dir"], "dir/x.bin"), (["new"], "new")]
)
def test_download_destinations(cli: Cli, gateway: FakeGateway, dest: list[str], local: str) -> None:
    gateway.files["/out/x.bin"] = FakeFile(b"1")
    (cli.home / "dir").mkdir()
    assert cli("download", "demo", "/out/x.bin", *dest).status == 0
    assert (cli.home / local).read_bytes() == b"1"


def test_download_parents(cli: Cli, gateway: FakeGateway) -> None:
    gateway.files["x"] = FakeFile(b"1")
    failed(cli("download", "demo", "x", "no/dir/"), ExitCode.LOCAL_FILE, "no/dir/x")
    assert cli("download", "demo", "x", "no/dir/", "--parents").status == 0
    assert (cli.home / "no/dir/x").read_bytes() == b"1"


def test_standard_streams(cli: Cli) -> None:
    content = big_content()
    up = cli.process("upload", "demo", "-", "x", "--json", stdin=content)
    assert up.json["size"] == len(content)
    done = subprocess.run(
        [*COMMAND, "download", "demo", "x", "-", "--json"],
        env=cli.env,
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == content
    assert json.loads(done.stderr)["bytes_received"] == len(content)
    failed(cli("upload", "demo", "-"), ExitCode.USAGE, "DEST")


def test_options_reach_the_wire(cli: Cli, gateway: FakeGateway) -> None:
    (cli.home / "a").write_bytes(b"1")
    args = ["--parents", "--mode", "0600", "--if-absent", "--replace-link", "--durability", "rename"]
    assert cli("upload", "demo", "a", "x", *args, "--no-preserve-mtime", "--workspace", "w").status == 0
    metadata = gateway.upload_messages[0][0].metadata
    assert metadata.parents == files_pb2.PARENT_POLICY_CREATE
    assert metadata.mode == 0o600
    assert metadata.condition.HasField("absent")
    assert metadata.leaf_link == files_pb2.LEAF_LINK_POLICY_REPLACE
    assert metadata.durability == files_pb2.DURABILITY_RENAME
    assert metadata.workspace == "w"
    assert not metadata.HasField("modified_time")
    assert cli("upload", "sb-1", "a", "y", "--by-id", "--follow", "--if-match-version", "v").status == 8
    metadata = gateway.upload_messages[1][0].metadata
    assert (metadata.sandbox_id, metadata.condition.version) == ("sb-1", "v")
    assert not metadata.keep_read_only
    for source in ("a", "-"):
        assert cli("upload", "demo", source, "z", "--keep-read-only").status == 0
        assert gateway.upload_messages[-1][0].metadata.keep_read_only


@pytest.mark.parametrize(
    ("option", "policy"),
    [
        ([], files_pb2.LEAF_LINK_POLICY_REFUSE),
        (["--follow"], files_pb2.LEAF_LINK_POLICY_FOLLOW),
        (["-P"], files_pb2.LEAF_LINK_POLICY_NOFOLLOW),
        (["--no-dereference"], files_pb2.LEAF_LINK_POLICY_NOFOLLOW),
    ],
)
def test_stat_of_a_link(cli: Cli, gateway: FakeGateway, option: list[str], policy: int) -> None:
    info = files_pb2.FileInfo(path="/x", type=files_pb2.FILE_TYPE_SYMLINK, link_target=b"to\xff\n")
    gateway.files["x"] = FakeFile(b"")
    gateway.answers[methods.STAT_FILE] = files_pb2.StatFileResponse(file=info).SerializeToString()
    found = cli("stat", "demo", "x", *option)
    assert found.status == 0
    assert "target    to\\udcff\\n" in found.out.splitlines()
    assert cli("stat", "demo", "x", *option, "--json").json["link_target"] == "to\udcff\n"
    asked = cast("list[files_pb2.StatFileRequest]", gateway.method_calls(methods.STAT_FILE))
    assert {request.leaf_link for request in asked} == {policy}


@pytest.mark.parametrize(
    ("options", "mode"), [([], 0o750), (["--preserve-mode"], 0o777), (["--mode", "776"], 0o776)]
)
def test_modes_of_a_download(cli: Cli, gateway: FakeGateway, options: list[str], mode: int) -> None:
    gateway.files["x"] = FakeFile(b"1", mode=0o777)
    before = os.umask(0o027)
    try:
        assert cli("download", "demo", "x", "got", *options).status == 0
    finally:
        os.umask(before)
    assert (cli.home / "got").stat().st_mode & 0o777 == mode


REASONS = {
    Reason.FILE_NOT_FOUND: ExitCode.NOT_FOUND,
    Reason.SANDBOX_NOT_FOUND: ExitCode.NOT_FOUND,
    Reason.NOT_A_REGULAR_FILE: ExitCode.PATH_REFUSED,
    Reason.ACCESS_DENIED: ExitCode.NOT_PERMITTED,
    Reason.TOKEN_EXPIRED: ExitCode.NOT_AUTHENTICATED,
    Reason.FILE_CHANGED: ExitCode.CONDITION,
    Reason.DIGEST_MISMATCH: ExitCode.DAMAGED,
    Reason.RELAY_LOST: ExitCode.UNAVAILABLE,
    Reason.DISK_FULL: ExitCode.EXHAUSTED,
    Reason.TRANSFER_IDLE: ExitCode.TIME_LIMIT,
    Reason.INTERNAL: ExitCode.FAILED,
    Reason.FILES_UNSUPPORTED: ExitCode.UNSUPPORTED,
}

#: What an error is about, where that is not the file.
SUBJECTS = {
    Reason.SANDBOX_NOT_FOUND: "sandbox 'demo' in workspace 'default'",
    Reason.FILES_UNSUPPORTED: "sandbox demo in workspace default",
    Reason.TOKEN_EXPIRED: "gateway 127.0.0.1:",
}
#: Fixes that differ from those of the error table.
FIXES = {
    Reason.SANDBOX_NOT_FOUND: "--workspace",
    Reason.FILE_CHANGED: "--allow-changes",
}


@pytest.mark.parametrize("reason", REASONS, ids=lambda r: r.name)
def test_failures(cli: Cli, gateway: FakeGateway, reason: Reason) -> None:
    """One line, what and where and what to do, and a status of its own."""
    gateway.failures[methods.DOWNLOAD_FILE].extend([TransferError(reason, "as it happened")] * 2)
    outcome = cli("download", "demo", "f1", "out", "--attempts", "1")
    subject = SUBJECTS.get(reason, "f1")
    failed(
        outcome, REASONS[reason], subject, "as it happened", reason.name, FIXES.get(reason, reason.row.fix)
    )
    as_json = cli("download", "demo", "f1", "out", "--attempts", "1", "--json")
    assert (as_json.status, as_json.err) == (REASONS[reason], "")
    assert as_json.json["error"]["reason"] == reason.name
    assert not as_json.json["ok"]
    assert not (cli.home / "out").exists()


def test_a_finish_that_nobody_can_speak_for(cli: Cli, gateway: FakeGateway) -> None:
    """It is no time limit: to repeat it blindly would be wrong."""
    (cli.home / "f").write_bytes(b"hello")
    lost = TransferError(Reason.RELAY_LOST, "as it happened")

    def behind_the_rename(_number: int) -> None:
        raise lost

    gateway.after_publish = behind_the_rename
    gateway.failures[methods.GET_UPLOAD].extend([lost] * 20)
    gateway.failures[methods.START_UPLOAD].extend([lost] * 20)
    outcome = cli("upload", "demo", "f", "--attempts", "1")
    failed(outcome, ExitCode.OUTCOME_UNKNOWN, "OUTCOME_UNKNOWN", "openshell-files stat")
    assert f"{int(ExitCode.OUTCOME_UNKNOWN)} sent but perhaps" in " ".join(cli("--help").out.split())


def test_local_failures(cli: Cli) -> None:
    failed(cli("upload", "demo", "missing"), ExitCode.LOCAL_FILE, "missing", "No such file")


@pytest.mark.parametrize(
    "args",
    [
        ["upload", "demo"],
        ["upload", "demo", "a", "--nonsense"],
        ["nonsense"],
        ["upload", "demo", "a", "--mode", "9"],
        ["upload", "demo", "a", "--follow", "--replace-link"],
        ["upload", "demo", "a", "--if-absent", "--if-present"],
        ["upload", "demo", "a", "--if-match-digest", "00"],
        ["upload", "demo", "a", "--endpoint", "nowhere"],
        ["upload", "demo", "a", "--endpoint", "example.org:1"],
        ["upload", "demo", "a", "--token", "t", "--token-file", "t"],
        ["download", "demo", "x", "--tail", "5", "--offset", "1"],
        ["download", "demo", "x", "--mode", "600", "--preserve-mode"],
        ["stat", "demo", "x", "--follow", "--no-dereference"],
        ["stat", "demo", "x", "--digest", "-P"],
        ["download", "demo", "/"],
    ],
)
def test_usage(cli: Cli, args: list[str]) -> None:
    (cli.home / "a").write_bytes(b"1")
    failed(cli(*args), ExitCode.USAGE)
    as_json = cli(*args, "--json")
    assert as_json.status == 2
    assert as_json.json["error"]["exit_code"] == 2


def test_no_endpoint(cli: Cli) -> None:
    del cli.env["OPENSHELL_FILES_ENDPOINT"]
    failed(cli("uploads", "demo"), ExitCode.USAGE, "OPENSHELL_FILES_ENDPOINT")


def test_nobody_there(cli: Cli) -> None:
    cli.env["OPENSHELL_FILES_ENDPOINT"] = "127.0.0.1:1"
    failed(cli("uploads", "demo", "--attempts", "1"), ExitCode.UNAVAILABLE)


def test_token_file_is_read(cli: Cli, gateway: FakeGateway) -> None:
    del cli.env["OPENSHELL_FILES_TOKEN"]
    (cli.home / "t").write_text("from-file\n")
    assert cli("uploads", "demo", "--token-file", "t").status == 0
    assert gateway.tokens == ["Bearer from-file"]
    failed(cli("uploads", "demo", "--token-file", "gone"), ExitCode.NOT_AUTHENTICATED, "gone")


def test_names_cannot_steer_the_terminal(cli: Cli, gateway: FakeGateway) -> None:
    name = "evil\x1b[2J\nname"
    (cli.home / name).write_bytes(b"1")
    up = cli("upload", "demo", name)
    assert up.status == 0
    assert "evil\\x1b[2J\\nname" in up.out
    assert "\x1b" not in up.out
    gateway.failures[methods.DOWNLOAD_FILE].append(
        TransferError(Reason.FILE_NOT_FOUND, "no \x1b]0;owned\x07 file")
    )
    failed(cli("download", "demo", "x\x9b"), ExitCode.NOT_FOUND, "\\x1b]0;owned\\x07", "\\x9b")


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [
        (signal.SIGINT, 130, b"interrupted"),
        (signal.SIGTERM, 143, b"terminated"),
        (signal.SIGHUP, 129, b"hung up"),
    ],
)
def test_interrupted_download_leaves_nothing(
    cli: Cli, gateway: FakeGateway, number: signal.Signals, status: int, word: bytes
) -> None:
    gateway.files["x"] = FakeFile(big_content())
    (cli.home / "x").write_bytes(b"old")
    reached = threading.Event()

    def hook(
        _number: int, honest: Iterator[files_pb2.DownloadFileResponse]
    ) -> Iterable[files_pb2.DownloadFileResponse]:
        for index, message in enumerate(honest):
            if index == 5:
                reached.set()
                raise Stall
            yield message

    gateway.on_download = hook
    process = cli.start("download", "demo", "x")
    assert reached.wait(30)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert err == b"openshell-files: error: " + word + b"; nothing was changed here\n"
    assert (cli.home / "x").read_bytes() == b"old"
    assert [p.name for p in cli.home.iterdir() if p.name.endswith(".part")] == []


def test_progress_on_a_terminal(cli: Cli, gateway: FakeGateway, big: Path) -> None:
    """A bar on standard error if that is a terminal, and none otherwise."""
    leader, follower = pty.openpty()
    cli.env |= {"TERM": "xterm", "COLUMNS": "200"}
    process = cli.start("upload", "demo", big, "x", stderr=follower)
    os.close(follower)
    shown = b"".join(_until_closed(lambda: os.read(leader, 65536)))
    os.close(leader)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"big.bin" in shown
    assert b"MB of" in shown
    assert b"100%" in shown
    assert out.count(b"\n") == 1
    assert gateway.files["x"].content == big.read_bytes()


def _until_closed(read: Callable[[], bytes]) -> Iterator[bytes]:
    while True:
        try:
            data = read()
        except OSError:
            # The other end of a pseudo-terminal was closed.
            return
        if not data:
            return
        yield data


def test_help(cli: Cli) -> None:
    for args in ([], ["--help"], ["upload", "--help"]):
        done = cli(*args)
        assert done.status in {0, 2}
        assert "Usage" in done.out + done.err
