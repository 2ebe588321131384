"""Messages of the command line: the subject of an error, and its fix."""

from __future__ import annotations

import fcntl
import re
from dataclasses import replace

import pytest
from cli_scene import Cli, break_uploads, failed
from fake_file_gateway import FakeFile, FakeGateway
from openshell_files._error_mapping import error_from_status
from openshell_files._known_errors import error_from_reason
from openshell_files.cli.exit_codes import ExitCode
from openshell_files.cli.output.progress_bar import Line, shortened
from openshell_files.cli.output.results_in_words import seconds_words, size_words
from openshell_files.cli.output.wording import Retries, Where, failure_words
from openshell_files.cli.transfer.resume_store import ResumeStore
from openshell_files.errors import ErrorFacts, FilesError
from openshell_files.results import Progress
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MAX_CHUNK_BYTES
from openshell_files_protocol.reasons import Reason

UP = Where("demo", by_id=False, workspace="w", endpoint="gw:1", path="a/b", uploading=True)
DOWN = Where("demo", by_id=False, workspace="w", endpoint="gw:1", path="a/b")

#: What only a programmer of this SDK would understand.
PYTHON = re.compile(r"\w\(|\bNone\b|\w=\w|\bTrue\b|[a-z]+_[a-z]+|Error\b|`authorization")


@pytest.mark.parametrize("where", [UP, DOWN], ids=["upload", "download"])
@pytest.mark.parametrize("reason", Reason, ids=lambda r: r.name)
def test_no_fix_speaks_to_programmers(reason: Reason, where: Where) -> None:
    words = failure_words(error_from_reason(reason, "as it happened"), where)
    assert not PYTHON.search(words.replace(reason.name, "")), words
    assert "ask for parents" not in words


@pytest.mark.parametrize(
    ("reason", "where", "said"),
    [
        (Reason.SANDBOX_NOT_FOUND, UP, "sandbox demo in workspace w: gone"),
        (Reason.SUPERVISOR_NOT_CONNECTED, DOWN, "sandbox demo in workspace w: gone"),
        (Reason.TOKEN_MISSING, DOWN, "OPENSHELL_FILES_TOKEN, or give --token-file"),
        (Reason.TOKEN_EXPIRED, DOWN, "gateway gw:1: gone"),
        (Reason.SCOPE_REQUIRED, DOWN, 'OPENSHELL_FILES_OIDC_SCOPE ("sandbox:read sandbox:write")'),
        (Reason.PARENT_NOT_FOUND, UP, "--parents"),
        (Reason.LEAF_IS_LINK, UP, "--replace-link"),
        (Reason.LEAF_IS_LINK, DOWN, "--follow"),
        (Reason.FILE_NOT_FOUND, DOWN, "a/b: gone"),
        (Reason.TOO_MANY_UPLOADS, UP, "openshell-files abort"),
    ],
)
def test_subjects_and_fixes(reason: Reason, where: Where, said: str) -> None:
    assert said in failure_words(error_from_reason(reason, "gone"), where)


def test_a_download_is_not_told_to_make_parents() -> None:
    assert "--parents" not in failure_words(error_from_reason(Reason.PARENT_NOT_FOUND, "gone"), DOWN)


def test_sizes_and_times() -> None:
    assert [size_words(n) for n in (0, 999, 1000, 999_999, 1_500_000, 2**40)] == [
        "0 B", "999 B", "1.0 kB", "1.0 MB", "1.5 MB", "1.1 TB",
    ]  # fmt: skip
    assert [seconds_words(s) for s in (0.004, 12.34, 75, 3725)] == ["0.00 s", "12.3 s", "1:15", "1:02:05"]


@pytest.mark.parametrize("width", [1, 2, 5, 10, 20, 30, 39, 40, 60, 80, 200])
def test_the_line_fits_any_terminal(width: int) -> None:
    line = Line("датасет-数据.bin", UP, width, 0.0)
    line.update(Progress(0, 10_000_000), 0.0)
    line.update(Progress(4_000_000, 10_000_000), 1.0)
    shown = line.text(1.0)
    assert shortened(shown, max(1, width - 1)) == shown
    if width >= 20:
        assert "40%" in shown
        assert "?" not in shown
    if width >= 80:
        assert "4.0 MB of 10.0 MB  4.0 MB/s  2 s left" in shown
        assert "датасет-数据.bin" in shown, "the bar shrinks before the name"
        assert "[" in shown
    if width >= 20:
        assert "датасет" in shown


def test_the_line_says_what_is_waited_for_after_two_seconds() -> None:
    line = Line("", DOWN, 80, 0.0)
    assert line.text(1.9) == ""
    assert line.text(2.0) == "waiting for sandbox demo in workspace w (2 s)"
    line.update(Progress(5, 10, attempt=3), 4.0)
    assert "waiting" not in line.text(5.0)
    assert line.text(7.0) == "waiting for sandbox demo in workspace w (try 3, 3 s)"


@pytest.mark.parametrize(
    ("reason", "peer"),
    [
        ("UNAVAILABLE", "gateway gw:1"),
        ("GATEWAY_SHUTTING_DOWN", "gateway gw:1"),
        ("ISSUER_UNAVAILABLE", "gateway gw:1"),
        ("SUPERVISOR_NOT_CONNECTED", "sandbox demo in workspace w"),
        ("RELAY_LOST", "sandbox demo in workspace w"),
    ],
)
def test_the_line_names_the_missing_peer_and_counts_the_tries(reason: str, peer: str) -> None:
    """Until content moves again."""
    error = (
        error_from_status(14, "Connection refused", ())
        if reason == "UNAVAILABLE"
        else error_from_reason(Reason[reason], "gone")
    )
    where = replace(UP, retries=Retries())
    line = Line("", where, 80, 0.0)
    line.update(Progress(0, 10, attempt=1), 0.0)
    for number in (2, 3, 7):
        where.retries.note(error, number)
        assert line.text(number) == f"waiting for {peer} (try {number}, {number} s)"
    line.update(Progress(5, 10, attempt=2), 8.0)
    assert line.text(11.0) == "waiting for sandbox demo in workspace w (try 2, 3 s)"
    line.update(Progress(10, 10, attempt=2), 12.0)
    assert "verifying" in line.text(15.0)
    where.retries.note(error, 2)
    assert line.text(16.0).startswith(f"waiting for {peer} (try 2, ")


def test_every_retry_reaches_the_line(
    cli: Cli, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a call without content, of an upload and of a download."""
    noted = list[tuple[str, int]]()

    def note(_retries: Retries, error: FilesError, number: int) -> None:
        noted.append((error.reason, number))

    monkeypatch.setattr(Retries, "note", note)
    (cli.home / "f").write_bytes(b"content")
    for method, words in {
        methods.WRITE_FILE: ["upload", "demo", "f", "x"],
        methods.STAT_FILE: ["stat", "demo", "x"],
        methods.DOWNLOAD_FILE: ["download", "demo", "x", "g"],
    }.items():
        noted.clear()
        gateway.failures[method].extend([TransferError(Reason.RELAY_LOST, "gone")] * 2)
        assert cli(*words).status == 0
        assert noted == [("RELAY_LOST", 2), ("RELAY_LOST", 3)]


@pytest.mark.parametrize("where", [UP, DOWN], ids=["upload", "download"])
def test_all_sent_is_not_done(where: Where) -> None:
    """What is left is the sandbox's work, and no time is known for it."""
    line = Line("model.bin", where, 80, 0.0)
    line.update(Progress(0, 10_000_000), 0.0)
    line.update(Progress(10_000_000, 10_000_000, attempt=1), 1.0)
    for moment in (1.0, 5.0):
        shown = line.text(moment)
        assert "0 s left" not in shown
        assert ("verifying in the sandbox" in shown) == where.uploading
    assert ("waiting" in line.text(5.0)) != where.uploading


@pytest.mark.parametrize(
    ("details", "encrypted", "said"),
    [
        ("x: SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED: self signed", True, "--tls-ca"),
        ("x: WRONG_VERSION_NUMBER: Tls handshake failed", True, "http://"),
        ("x: Connection refused", False, "nothing listens there"),
        ("Socket closed", False, "https://"),
        ("DNS resolution failed for x", False, "name is not known"),
    ],
)
def test_a_gateway_that_cannot_be_reached(details: str, encrypted: bool, said: str) -> None:  # noqa: FBT001 - a table
    where = Where("demo", by_id=False, workspace="w", endpoint="gw:1", encrypted=encrypted)
    words = failure_words(error_from_status(14, details, ()), where)
    assert said in words
    assert words.startswith("gateway gw:1: ")


def test_resume_that_starts_over_says_why(cli: Cli, gateway: FakeGateway) -> None:
    path = cli.home / "f"
    path.write_bytes(bytes(3 * MAX_CHUNK_BYTES))
    assert "no unfinished upload" in cli("upload", "demo", "f", "x", "--resume").err
    break_uploads(gateway, after=2, streams=2)
    failed(cli("upload", "demo", "f", "x", "--attempts", "1"), ExitCode.UNAVAILABLE, "--resume")
    gateway.on_upload_message = None
    path.write_bytes(b"\1" * 3 * MAX_CHUNK_BYTES)
    again = cli("upload", "demo", "f", "x", "--resume")
    assert again.status == 0
    assert "could not be resumed" in again.err
    assert "since it began with another modified_time; all was sent again" in again.err


def test_resume_with_another_digest_names_it(cli: Cli, gateway: FakeGateway) -> None:
    """DIG-7: neither the file nor the destination changed."""
    (cli.home / "f").write_bytes(bytes(3 * MAX_CHUNK_BYTES))
    break_uploads(gateway, after=2, streams=2)
    failed(cli("upload", "demo", "f", "x", "--attempts", "1"), ExitCode.UNAVAILABLE, "--resume")
    gateway.on_upload_message = None
    again = cli("upload", "demo", "f", "x", "--resume", "--digest", "sha256")
    assert again.status == 0
    assert (
        "could not be resumed, since its digest is blake3, and the option digest accepts only sha256"
        in again.err
    )


def test_resume_of_an_upload_that_nobody_knows(cli: Cli, gateway: FakeGateway) -> None:
    """RSM-7: told by a refusal; the file is sent from its beginning, and the command says why."""
    path = cli.home / "f"
    path.write_bytes(bytes(3 * MAX_CHUNK_BYTES))
    break_uploads(gateway, after=2, streams=2)
    failed(cli("upload", "demo", "f", "x", "--attempts", "1"), ExitCode.UNAVAILABLE, "--resume")
    (lost,) = gateway.uploads
    gateway.on_upload_message = None
    gateway.uploads.clear()
    again = cli("upload", "demo", "f", "x", "--resume")
    assert again.status == 0
    assert f"upload {lost} could not be resumed, since the sandbox does not know it" in again.err
    assert gateway.files["x"].content == path.read_bytes()


def test_an_upload_begun_anew_says_what_resume_would_do_and_frees_the_old(
    cli: Cli, gateway: FakeGateway
) -> None:
    (cli.home / "f").write_bytes(bytes(3 * MAX_CHUNK_BYTES))
    hook_streams = len(gateway.upload_messages) + 1
    break_uploads(gateway, after=2, streams=hook_streams)
    failed(cli("upload", "demo", "f", "x", "--attempts", "1"), ExitCode.UNAVAILABLE)
    gateway.on_upload_message = None
    again = cli("upload", "demo", "f", "x")
    assert again.status == 0
    assert "--resume would resume" in again.err
    assert cli("uploads", "demo", "--json").json["uploads"] == []


def interrupted_upload(cli: Cli, gateway: FakeGateway) -> str:
    """Leave an upload unfinished, and return its id."""
    (cli.home / "f").write_bytes(bytes(3 * MAX_CHUNK_BYTES))
    break_uploads(gateway, after=2, streams=len(gateway.upload_messages) + 1)
    failed(cli("upload", "demo", "f", "x", "--attempts", "1"), ExitCode.UNAVAILABLE)
    gateway.on_upload_message = None
    (listed,) = cli("uploads", "demo", "--json").json["uploads"]
    found: str = listed["upload_id"]
    return found


def test_an_upload_that_was_given_up_is_forgotten(cli: Cli, gateway: FakeGateway) -> None:
    assert cli("abort", "demo", interrupted_upload(cli, gateway)).status == 0
    assert cli("upload", "demo", "f", "x").err == ""


def test_an_upload_that_another_process_sends_is_left_alone(cli: Cli, gateway: FakeGateway) -> None:
    """The command neither offers to resume it nor frees it."""
    upload_id = interrupted_upload(cli, gateway)
    (entry,) = (cli.home / "state/openshell-files/uploads").glob("*.json")
    with entry.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert cli("upload", "demo", "f", "x").err == ""
    assert [one["upload_id"] for one in cli("uploads", "demo", "--json").json["uploads"]] == [upload_id]


def test_an_upload_is_held_while_it_runs(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(cli.home / "state"))
    mine, others = (ResumeStore("gw:1", "w", "demo", "x", "f") for _ in range(2))
    assert not others.is_running()
    for upload_id in ("one", "two"):
        mine.save(upload_id)
        assert others.is_running()
    mine.release()
    assert not others.is_running()


def test_modes_are_octal_beside_the_number(cli: Cli, gateway: FakeGateway) -> None:
    gateway.files["x"] = FakeFile(b"1", mode=0o640)
    for line in (cli("stat", "demo", "x", "--json"), cli("download", "demo", "x", "got", "--json")):
        assert (line.json["mode"], line.json["mode_octal"]) == (0o640, "0640")


def test_usage_is_that_of_manual_pages(cli: Cli) -> None:
    assert cli("--version").out.startswith("openshell-files ")
    shown = cli("upload", "--help").out
    assert "upload [OPTIONS] NAME LOCAL... [DEST]" in shown
    assert "<bool>" not in shown
    assert "{" not in shown
    assert cli().err.strip() != "openshell-files: error:"


def test_a_token_error_names_the_variable(cli: Cli, gateway: FakeGateway) -> None:
    gateway.failures[methods.STAT_FILE].append(TransferError(Reason.TOKEN_MISSING, "no token"))
    failed(cli("stat", "demo", "x"), ExitCode.NOT_AUTHENTICATED, "OPENSHELL_FILES_TOKEN", "--token-file")


def test_an_error_of_no_known_kind() -> None:
    assert failure_words(FilesError("odd", ErrorFacts("ODD")), DOWN) == "a/b: odd [ODD]"


@pytest.mark.parametrize("name", ["x", "in", "index", "a.b", "(", "sand"])
def test_a_file_is_named_even_if_its_name_is_inside_a_word(name: str) -> None:
    error = error_from_reason(Reason.FILE_NOT_FOUND, "no index of sandboxes", path=name)
    words = failure_words(error, DOWN)
    assert words.startswith("no index" if name == "index" else f"{name}: no index")
