"""A signal at any moment: one line, the status that shells expect, and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import openshell_files
import pytest
from cli_scene import Cli, break_uploads
from fake_file_gateway import FakeFile, FakeGateway
from openshell_files.cli.output.report import failure_fields
from openshell_files.cli.transfer.download_command import left_behind
from sdk_flavours import big_content

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}

#: Sends a signal to itself when a module is about to be imported.
AT_IMPORT = """
import os, signal, sys
module, number = sys.argv[1], int(sys.argv[2])
del sys.argv[1:3]
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), number)
sys.meta_path.insert(0, Finder())
from openshell_files.cli import main
main()
"""

#: The same when a function of the command is called.
AT_CALL = """
import os, signal, sys
module, name, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
del sys.argv[1:4]
import importlib
home = importlib.import_module(module)
honest = getattr(home, name)
def struck(*args, **kwargs):
    os.kill(os.getpid(), number)
    return honest(*args, **kwargs)
setattr(home, name, struck)
from openshell_files.cli import main
main()
"""


@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("openshell_files.cli.app", signal.SIGINT),
        ("click", signal.SIGTERM),
        ("grpc", signal.SIGINT),
        ("google.protobuf.descriptor_pool", signal.SIGHUP),
        ("httpx", signal.SIGINT),
        ("openshell_files._sync.sandbox", signal.SIGTERM),
        ("openshell_files.cli.output.wording", signal.SIGHUP),
    ],
)
def test_while_modules_are_imported(cli: Cli, module: str, number: signal.Signals) -> None:
    (cli.home / "a").write_bytes(b"1")
    if module == "httpx":
        # Only an issuer needs it.
        del cli.env["OPENSHELL_FILES_TOKEN"]
        cli.env["OPENSHELL_FILES_OIDC_ISSUER"] = "https://issuer.invalid"
    ended = cli.programmed(AT_IMPORT, module, str(int(number)), "upload", "demo", "a")
    assert ended.status == SIGNALS[number], ended
    assert ended.err.count("\n") == 1
    assert ended.err.endswith("; nothing was changed\n")
    assert ended.out == ""


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_while_modules_for_a_directory_are_imported(
    cli: Cli, gateway: FakeGateway, number: signal.Signals
) -> None:
    """They are imported after a file may have been sent. The import goes on, and the command says what is done."""
    (cli.home / "a").write_bytes(b"1")
    (cli.home / "d").mkdir()
    module = "openshell_files._sync.trees.transfers"
    program = AT_IMPORT.replace(
        "os.kill(os.getpid(), number)", 'os.kill(os.getpid(), number); os.write(2, b"goes on; ")'
    )
    ended = cli.programmed(program, module, str(int(number)), "upload", "demo", "a", "d", "./")
    assert ended.status == SIGNALS[number], ended
    assert ended.err.startswith("goes on; ")
    assert ended.err.count("\n") == 1, ended
    assert "nothing was changed" in ended.err
    assert "(1 of 2 files were moved before)" in ended.err
    assert gateway.files["a"].content == b"1"


def test_while_modules_are_imported_for_a_script(cli: Cli) -> None:
    ended = cli.programmed(AT_IMPORT, "grpc", str(int(signal.SIGTERM)), "stat", "demo", "a", "--json")
    assert (ended.status, ended.err) == (143, "")
    assert ended.json["error"]["message"] == "terminated; nothing was changed"


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_a_signal_at_any_moment_has_the_fields_of_every_failure(cli: Cli, number: signal.Signals) -> None:
    """Those that are told while modules are imported are written without any of them."""
    told = (str(int(number)), "stat", "demo", "a", "--json")
    early = cli.programmed(AT_IMPORT, "grpc", *told).json
    later = cli.programmed(AT_CALL, "openshell_files.cli.transfer.destinations", "remote_path", *told).json
    assert early == later == {"ok": False, "error": later["error"]}
    assert later["error"] == failure_fields(later["error"]["message"], SIGNALS[number], None, "")


def test_while_modules_are_imported_for_standard_output(cli: Cli) -> None:
    """A script takes what is there for the file's content."""
    told = ("download", "demo", "a", "-", "--json")
    ended = cli.programmed(AT_IMPORT, "grpc", str(int(signal.SIGTERM)), *told)
    assert (ended.status, ended.out) == (143, "")
    assert '"message": "terminated; nothing was changed"' in ended.err


@pytest.mark.parametrize(
    ("module", "function", "number"),
    [
        ("openshell_files.cli.transfer.destinations", "uploads", signal.SIGINT),
        ("openshell_files.cli.transfer.upload_command", "_condition", signal.SIGTERM),
        ("openshell_files.cli.transfer.upload_command", "ResumeStore", signal.SIGHUP),
        ("openshell_files.cli.transfer.upload_command", "progress_bar", signal.SIGINT),
    ],
)
def test_before_anything_is_sent(
    cli: Cli, gateway: FakeGateway, module: str, function: str, number: signal.Signals
) -> None:
    (cli.home / "a").write_bytes(b"1")
    ended = cli.programmed(AT_CALL, module, function, str(int(number)), "upload", "demo", "a", "x")
    assert ended.status == SIGNALS[number], ended
    assert ended.err.count("\n") == 1, ended.err
    assert "nothing was" in ended.err
    assert not gateway.files


@pytest.mark.parametrize(
    ("function", "number"),
    [("upload_fields", signal.SIGINT), ("upload_words", signal.SIGTERM), ("upload_words", signal.SIGHUP)],
)
def test_after_the_outcome_is_known(
    cli: Cli, gateway: FakeGateway, function: str, number: signal.Signals
) -> None:
    """What is published is reported as published."""
    (cli.home / "a").write_bytes(b"1")
    ended = cli.programmed(
        AT_CALL,
        "openshell_files.cli.transfer.upload_command",
        function,
        str(int(number)),
        "upload",
        "demo",
        "a",
        "x",
    )
    assert (ended.status, ended.err) == (0, ""), ended
    assert "a -> /x" in ended.out
    assert gateway.files["x"].content == b"1"


#: The signal comes as a function returns, on its so-manieth call.
AT_RETURN = """
import os, signal, sys
module, name, number, call = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
del sys.argv[1:5]
import importlib
home = importlib.import_module(module)
*outer, name = name.split(".")
for part in outer:
    home = getattr(home, part)
honest = getattr(home, name)
calls = 0
def struck(*args, **kwargs):
    global calls
    calls += 1
    done = honest(*args, **kwargs)
    if calls == call:
        os.kill(os.getpid(), number)
    return done
setattr(home, name, struck)
from openshell_files.cli import main
main()
"""

NOT_KNOWN = "whether the file was published is unknown; check with `openshell-files stat`"
_DOWNLOAD, _UPLOAD = (
    "openshell_files.cli.transfer.download_command",
    "openshell_files.cli.transfer.upload_command",
)


#: Where a download is struck as a function returns, and whether its file is in place by then.
CUT_SHORT = [
    (_DOWNLOAD, "left_behind", False),
    ("os", "fchmod", False),
    ("os", "replace", True),
    ("openshell_files._local.target_file", "TargetFile.publish", True),
    ("openshell_files._local.target_file", "TargetFile.close", True),
    ("openshell_files._sync.sandbox", "SandboxFiles.download_path", True),
]


@pytest.mark.parametrize(
    ("number", "module", "function", "in_place"),
    [
        # Each place with one signal, and each signal at one place; the rest in the long run.
        pytest.param(
            number, *place,
            marks=() if number is signal.SIGTERM or place[1] == "replace" else pytest.mark.long,
            id=f"{number.name}-{place[1]}",
        )
        for number in SIGNALS
        for place in CUT_SHORT
    ],
)  # fmt: skip
def test_a_download_that_is_cut_short_says_what_is_in_place(
    cli: Cli, gateway: FakeGateway, module: str, function: str, number: signal.Signals, *, in_place: bool
) -> None:
    gateway.files["x"] = FakeFile(b"new")
    (cli.home / "x").write_bytes(b"old")
    ended = cli.programmed(AT_RETURN, module, function, str(int(number)), "1", "download", "demo", "x")
    assert ended.status == SIGNALS[number], ended
    assert (cli.home / "x").read_bytes() == (b"new" if in_place else b"old")
    assert ended.err.endswith("; x is in place and whole\n" if in_place else "; nothing was changed here\n")


@pytest.mark.parametrize(
    ("module", "function", "call", "words", "done"),
    [
        (_DOWNLOAD, "left_behind", 1, "nothing was changed here (0 of 2 files were moved before)", 0),
        (_DOWNLOAD, "download_words", 1, "here/x is in place and whole (1 of 2 files were moved before)", 1),
        (_DOWNLOAD, "left_behind", 2, "nothing was changed here (1 of 2 files were moved before)", 1),
        ("os", "replace", 2, "here/y is in place and whole (1 of 2 files were moved before)", 1),
    ],
)
def test_several_downloads_that_are_cut_short(
    cli: Cli, gateway: FakeGateway, module: str, function: str, call: int, words: str, done: int
) -> None:
    (cli.home / "here").mkdir()
    gateway.files |= {"x": FakeFile(b"1"), "y": FakeFile(b"2")}
    told = (str(int(signal.SIGTERM)), str(call), "download", "demo", "x", "y", "here/")
    ended = cli.programmed(AT_RETURN, module, function, *told)
    assert (ended.status, ended.err) == (143, f"openshell-files: error: terminated; {words}\n")
    assert ended.out.count("\n") == done - (function == "download_words")


@pytest.mark.parametrize(
    ("module", "function", "call", "words"),
    [
        (_UPLOAD, "ResumeStore", 1, "nothing was published (0 of 2 files were moved before)"),
        (_UPLOAD, "UploadMemory.finished", 1, "the file was published (0 of 2 files were moved before)"),
        (_UPLOAD, "upload_words", 1, "the file was published (1 of 2 files were moved before)"),
        (_UPLOAD, "ResumeStore", 2, "nothing was published (1 of 2 files were moved before)"),
        (
            "openshell_files._sync.sandbox",
            "SandboxFiles.upload_path",
            2,
            f"{NOT_KNOWN} (1 of 2 files were moved before)",
        ),
    ],
)
def test_several_uploads_that_are_cut_short(
    cli: Cli, module: str, function: str, call: int, words: str
) -> None:
    (cli.home / "a").write_bytes(b"1")
    (cli.home / "b").write_bytes(b"2")
    told = (str(int(signal.SIGTERM)), str(call), "upload", "demo", "a", "b", "x/")
    ended = cli.programmed(AT_RETURN, module, function, *told)
    assert (ended.status, ended.err) == (143, f"openshell-files: error: terminated; {words}\n")


def test_a_large_upload_that_was_published_is_never_called_unpublished(
    cli: Cli, gateway: FakeGateway
) -> None:
    """Its id is known, so nothing is guessed from its size."""
    (cli.home / "a").write_bytes(big_content())
    told = (str(int(signal.SIGTERM)), "1", "upload", "demo", "a", "x")
    ended = cli.programmed(AT_RETURN, "openshell_files._sync.sandbox", "SandboxFiles.upload_path", *told)
    assert gateway.files["x"].content == big_content()
    assert NOT_KNOWN in ended.err


def test_an_abort_that_is_cut_short_does_not_claim_that_nothing_changed(
    cli: Cli, gateway: FakeGateway
) -> None:
    (cli.home / "a").write_bytes(big_content())
    break_uploads(gateway, after=2, streams=100)
    assert cli("upload", "demo", "a", "x", "--attempts", "1").status == 10
    told = (str(int(signal.SIGTERM)), "1", "abort", "demo", "upload-1")
    ended = cli.programmed(AT_RETURN, "openshell_files._sync.rpc", "Rpc.abort_upload", *told)
    assert ended.status == 143, ended
    assert "whether it was aborted is unknown" in ended.err
    assert cli("uploads", "demo", "--json").json["uploads"] == []


@pytest.mark.parametrize("option", [(), ("--json",)], ids=["words", "json"])
def test_a_new_upload_is_named_when_it_is_cut_short(cli: Cli, option: tuple[str, ...]) -> None:
    """By its id; how much of it is staged is known again when the sandbox is asked."""
    (cli.home / "a").write_bytes(big_content())
    told = (str(int(signal.SIGINT)), "1", "upload", "demo", "a", "x", *option)
    ended = cli.programmed(
        AT_RETURN, "openshell_files.cli.transfer.upload_memory", "UploadMemory._touching", *told
    )
    message = "upload upload-1 can be resumed; repeat the command with --resume"
    if option:
        error = ended.json["error"]
        assert (error["upload_id"], error["staged"]) == ("upload-1", None)
        assert message in error["message"]
    else:
        assert message in ended.err
    assert cli("upload", "demo", "a", "x", "--resume").status == 0


@pytest.mark.parametrize("option", [("--resume",), ("--upload-id", "upload-1")], ids=lambda o: o[0])
@pytest.mark.parametrize(
    ("module", "function", "call"),
    [(_UPLOAD, "UploadMemory.begin", 1), ("openshell_files._sync.rpc", "Rpc.get_upload", 2)],
)
def test_an_upload_that_is_known_is_named_before_it_is_seen_again(
    cli: Cli, gateway: FakeGateway, option: tuple[str, ...], module: str, function: str, call: int
) -> None:
    """The upload is unchanged, so the next command can resume it."""
    (cli.home / "a").write_bytes(big_content())
    break_uploads(gateway, after=2, streams=100)
    broken = cli("upload", "demo", "a", "x", "--attempts", "1", "--json").json["error"]
    assert broken["upload_id"] == "upload-1"
    staged = cli("uploads", "demo", "--json").json["uploads"][0]["staged"]
    told = (str(int(signal.SIGINT)), str(call), "upload", "demo", "a", "x", "--json", *option)
    error = cli.programmed(AT_RETURN, module, function, *told).json["error"]
    assert (error["exit_code"], error["upload_id"], error["staged"]) == (130, "upload-1", staged)
    assert "upload upload-1 can be resumed" in error["message"]
    assert error["fix"]
    gateway.on_upload_message = None
    assert cli("upload", "demo", "a", "x", "--resume", "--json").json["resumed_from"] == staged


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_that_is_ignored_stays_ignored(cli: Cli, number: signal.Signals) -> None:
    """As `nohup` and a shell's background jobs want it."""
    (cli.home / "a").write_bytes(b"1")
    program = f"import signal; signal.signal({int(number)}, signal.SIG_IGN)\n{AT_CALL}"
    done = cli.programmed(
        program,
        "openshell_files.cli.transfer.destinations",
        "uploads",
        str(int(number)),
        "upload",
        "demo",
        "a",
        "x",
    )
    assert done.status == 0, done


def test_a_signal_lost_in_a_finalizer_is_delivered_again(cli: Cli, gateway: FakeGateway) -> None:
    """Python cannot raise where it frees an object; it would print a traceback and continue."""
    program = """
import os, signal
from openshell_files.cli import process
from openshell_files.cli import app
from openshell_files.cli.transfer import destinations
class Freed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass
def struck(*args):
    Freed()
    signal.pause()
destinations.uploads = struck
process.main()
"""
    (cli.home / "a").write_bytes(b"1")
    ended = cli.programmed(program, "upload", "demo", "a", "x")
    assert ended.status == 143, ended
    assert ended.err == "openshell-files: error: terminated; nothing was changed\n"
    assert not gateway.files


def test_cleaning_up_that_hangs_is_cut_short(cli: Cli) -> None:
    """SIGTERM ends the command within a limit, whatever it waits for."""
    program = """
import os, signal, threading
from openshell_files.cli import leaving
leaving.LEAVING_SECONDS = 0.2
from openshell_files.cli import process
from openshell_files.cli.transfer import destinations
def struck(*args):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    finally:
        threading.Event().wait()
destinations.uploads = struck
process.main()
"""
    ended = cli.programmed(program, "upload", "demo", "a", "x", seconds=20)
    assert ended.status == 143, ended
    assert "cut short" in ended.err


def test_the_package_imports_a_name_when_it_is_used() -> None:
    """The command line is a part of it, and handles signals before gRPC is imported."""
    homes: dict[str, str] = vars(openshell_files)["_HOMES"]
    assert sorted(homes) == sorted(openshell_files.__all__)
    for name in openshell_files.__all__:
        assert getattr(openshell_files, name) is not None
    program = "import sys, openshell_files.cli; sys.exit('grpc' in sys.modules or 'click' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_what_is_left_of_a_download_that_is_cut_short(tmp_path: Path) -> None:
    """A FIFO and a device keep what was written into them, as standard output does."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/null")
    (tmp_path / "old").write_bytes(b"old")
    for name in ("fifo", "link"):
        path = str(tmp_path / name)
        assert left_behind(path) == f"the content of {path} is incomplete"
    assert left_behind("-") == "the content on standard output is incomplete"
    for name in ("old", "new"):
        assert left_behind(str(tmp_path / name)) == "nothing was changed here"
