"""No traceback for any argument or environment, whatever the command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_scene import Cli, Outcome, failed
from fake_file_gateway import FakeFile, FakeGateway
from openshell_files.cli.exit_codes import ExitCode
from openshell_files_protocol.limits import MIB

#: Every command with valid arguments.
COMMANDS = {
    "upload": ["demo", "a", "y"],
    "download": ["demo", "x", "got"],
    "stat": ["demo", "x"],
    "uploads": ["demo"],
    "abort": ["demo", "u"],
}

ODD = ["", "\udcff", "a\x1b[2J", "é", "-", "/", "..", "x" * 500, "a\nb", "demo:x", "~", "*", "\u202e"]


@pytest.fixture
def stocked(cli: Cli, gateway: FakeGateway) -> Cli:
    (cli.home / "a").write_bytes(b"hello")
    gateway.files["x"] = FakeFile(b"hello")
    return cli


def in_order(status: int, err: str, out: str) -> None:
    """Nothing but one line, or none, and no status of a bug."""
    assert status != ExitCode.BUG, err
    assert "Traceback" not in err
    assert err.count("\n") <= 1
    assert "\x1b" not in err + out


@pytest.mark.parametrize("odd", ODD, ids=ascii)
@pytest.mark.parametrize("command", COMMANDS)
def test_odd_words(stocked: Cli, command: str, odd: str) -> None:
    words = COMMANDS[command]
    for position in range(len(words)):
        changed = [*words[:position], odd, *words[position + 1 :]]
        outcome = stocked(command, "--attempts", "1", "--", *changed)
        in_order(outcome.status, outcome.err, outcome.out)
        if odd == "\udcff" and (command, position) not in {("upload", 1), ("download", 2)}:
            assert outcome.status == ExitCode.USAGE, outcome
        as_json = stocked(command, "--attempts", "1", "--json", "--", *changed)
        assert as_json.status == outcome.status or "exist" in outcome.err


OPTIONS = {
    "upload": ["--mode", "--if-match-version", "--if-match-digest", "--upload-id", "--to", "--digest"],
    "download": ["--mode", "--offset", "--length", "--tail", "--if-version", "--max-bytes", "--digest"],
    "stat": ["--timeout"],
    "uploads": [
        "--endpoint", "--token", "--token-file", "--issuer", "--client-id", "--audience", "--scope",
        "--workspace", "--tls-ca", "--call-timeout", "--idle-timeout", "--attempts",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    "odd", ["", "\udcff", "nan", "inf", "-1", "0", "9" * 40, "é", "1e400", "zz", "0x1"], ids=ascii
)
@pytest.mark.parametrize("command", OPTIONS)
def test_odd_values_of_options(stocked: Cli, command: str, odd: str) -> None:
    for option in OPTIONS[command]:
        if option in {"--token-file", "--issuer"}:
            stocked.env.pop("OPENSHELL_FILES_TOKEN", None)
        outcome = stocked(command, "--attempts", "1", f"{option}={odd}", "--", *COMMANDS[command])
        in_order(outcome.status, outcome.err, outcome.out)
        if odd in {"nan", "inf"} and "timeout" in option:
            failed(outcome, ExitCode.USAGE, option, "finite" if odd == "inf" else "")


#: What odd surroundings set.
ENVIRONMENTS: list[dict[str, str]] = [
    {"HOME": ""},
    {"HOME": "/nonexistent", "XDG_STATE_HOME": ""},
    {"XDG_STATE_HOME": "relative"},
    {"XDG_STATE_HOME": "/dev/null"},
    {"TERM": "dumb"},
    {"TERM": ""},
    {"COLUMNS": "1"},
    {"COLUMNS": "0"},
    {"COLUMNS": "-5"},
    {"COLUMNS": "many"},
    {"LINES": "x"},
    {"LANG": "tlh"},
    {"TMPDIR": "/nonexistent"},
    {"NO_COLOR": "1"},
    {"FORCE_COLOR": "1"},
    {"OPENSHELL_FILES_WORKSPACE": "\udcff"},
    {"OPENSHELL_FILES_TOKEN": "\udcff"},
    {"OPENSHELL_FILES_TOKEN": ""},
    {"OPENSHELL_FILES_ENDPOINT": "\udcff"},
    {"OPENSHELL_FILES_ENDPOINT": ""},
    {"OPENSHELL_FILES_TLS_CA": "/nonexistent"},
    {"GRPC_VERBOSITY": "nonsense"},
]

#: What is read before the command is: by the interpreter, by modules as they are imported, and by gRPC.
READ_EARLY = ("LANG", "TERM", "GRPC_VERBOSITY")

WORDS = pytest.mark.parametrize(
    "words", [["upload", *COMMANDS["upload"]], ["upload", "--help"]], ids=["upload", "help"]
)


def _holds(outcome: Outcome, words: list[str]) -> None:
    assert "Traceback" not in outcome.err
    assert outcome.status != ExitCode.BUG
    if "--help" in words:
        assert outcome.status == 0


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=ascii)
@WORDS
def test_odd_environments(stocked: Cli, words: list[str], environment: dict[str, str]) -> None:
    stocked.env |= environment
    _holds(stocked(*words), words)


@pytest.mark.parametrize(
    "environment",
    [pytest.param(one, marks=() if set(one) & set(READ_EARLY) else pytest.mark.long) for one in ENVIRONMENTS],
    ids=ascii,
)
@WORDS
def test_odd_environments_of_a_process(stocked: Cli, words: list[str], environment: dict[str, str]) -> None:
    stocked.env |= environment
    _holds(stocked.process(*words), words)


#: Values of variables that typer and protobuf read, by the words of the command line.
SURROUNDINGS: list[tuple[dict[str, str], list[str], str]] = [
    *(
        ({"_OPENSHELL_FILES_COMPLETE": value}, ["upload", *COMMANDS["upload"]], "would only complete words")
        for value in ("foo", "complete_bash", "complete_zsh", "complete_fish", "source_bash", "complete_tcsh")
    ),
    ({"_OPENSHELL_FILES_COMPLETE": "foo"}, [], "is no instruction"),
    ({"_OPENSHELL_FILES_COMPLETE": "complete_tcsh"}, [], "is no instruction"),
    ({"_OPENSHELL_FILES_COMPLETE": "explain_bash"}, [], "is no instruction"),
    ({"_OPENSHELL_FILES_COMPLETE": "complete_bash"}, [], "but not COMP_WORDS and COMP_CWORD"),
    ({"_OPENSHELL_FILES_COMPLETE": "complete_zsh"}, [], "but not _TYPER_COMPLETE_ARGS"),
    (
        {"_OPENSHELL_FILES_COMPLETE": "complete_bash", "COMP_WORDS": "x", "COMP_CWORD": "-"},
        [],
        "is no number",
    ),
    *(
        (
            {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": value},
            ["upload", *COMMANDS["upload"]],
            "protobuf cannot load",
        )
        for value in ("zzz", "cpp", "", "\x1b[2J")
    ),
]


@pytest.mark.parametrize(("environment", "words", "said"), SURROUNDINGS, ids=lambda value: ascii(value)[:60])
def test_surroundings_that_prevent_a_command(
    stocked: Cli, gateway: FakeGateway, environment: dict[str, str], words: list[str], said: str
) -> None:
    """Nothing is carried out, and that is no success."""
    stocked.env |= environment
    failed(stocked.process(*words), ExitCode.USAGE, said, next(iter(environment)))
    if words:
        as_json = stocked.process(*words, "--json")
        assert (as_json.status, as_json.json["error"]["reason"]) == (ExitCode.USAGE, "USAGE")
    assert not gateway.calls


@pytest.mark.parametrize(
    ("environment", "status", "out"),
    [
        ({"_OPENSHELL_FILES_COMPLETE": "complete_bash", "COMP_WORDS": "openshell-files upl", "COMP_CWORD": "1"}, 0, "upload"),
        ({"_OPENSHELL_FILES_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "openshell-files upl"}, 0, "upload"),
        ({"_OPENSHELL_FILES_COMPLETE": "source_bash"}, 0, "COMPREPLY"),
        *(
            (
                {
                    "_OPENSHELL_FILES_COMPLETE": "complete_fish",
                    "_TYPER_COMPLETE_ARGS": f"openshell-files {word}",
                    "_TYPER_COMPLETE_FISH_ACTION": "is-args",
                },
                status,
                "",
            )
            for word, status in (("upl", 0), ("nonsense", 1))
        ),
    ],
    ids=lambda value: ascii(value)[:60],
)  # fmt: skip
def test_a_shell_that_completes(stocked: Cli, environment: dict[str, str], status: int, out: str) -> None:
    stocked.env |= environment
    outcome = stocked.process()
    assert (outcome.status, outcome.err) == (status, "")
    assert out in outcome.out


@pytest.mark.parametrize("when", ["import openshell_files.cli.app", "pass"], ids=["working", "importing"])
@pytest.mark.parametrize("error", ['RuntimeError("can\'t start new thread")', "MemoryError()"])
def test_a_process_that_gets_no_more(stocked: Cli, gateway: FakeGateway, when: str, error: str) -> None:
    """As with a small `ulimit -v`: it is no matter of the token, and no bug."""
    program = f"""
import sys
from openshell_files.cli import main
{when}
class Refusing:
    def find_spec(self, name, path=None, target=None):
        raise {error}
if {when == "pass"}:
    sys.meta_path.insert(0, Refusing())
else:
    import threading
    def refuse(self):
        raise {error}
    threading.Thread.start = refuse
main()
"""
    (stocked.home / "a").write_bytes(bytes(MIB))
    outcome = stocked.programmed(program, "upload", "demo", "a", "y")
    failed(outcome, ExitCode.EXHAUSTED, "no more memory or threads", "ulimit")
    assert ("nothing was published" in outcome.err) == (when != "pass")
    assert "y" not in gateway.files


def test_a_user_without_a_home(stocked: Cli, gateway: FakeGateway, big: Path) -> None:
    """An unknown uid, as containers have it: the upload works, only `--resume` later does not."""
    del stocked.env["HOME"], stocked.env["XDG_STATE_HOME"]
    program = """
import os, pwd
def unknown(*args):
    raise KeyError("uid not found")
pwd.getpwuid = unknown
from openshell_files.cli import main
main()
"""
    done = stocked.programmed(program, "upload", "demo", big, "y")
    assert done.status == 0, done
    assert done.err == (
        "openshell-files: note: cannot store the upload: there is no home directory; set XDG_STATE_HOME\n"
    )
    assert gateway.files["y"].content == big.read_bytes()


def test_a_working_directory_that_is_gone(stocked: Cli) -> None:
    gone = stocked.home / "gone"
    program = f"""
import os
os.mkdir({str(gone)!r})
os.chdir({str(gone)!r})
os.rmdir({str(gone)!r})
from openshell_files.cli import main
main()
"""
    done = stocked.programmed(program, "upload", "demo", stocked.home / "a", "y")
    in_order(done.status, done.err, done.out)
    looked = stocked.programmed(program, "stat", "demo", "x")
    assert looked.status in {0, ExitCode.NOT_FOUND}


@pytest.mark.parametrize("kind", ["directory", "missing", "empty", "binary", "huge", "spaces", "device"])
def test_token_files(stocked: Cli, kind: str) -> None:
    del stocked.env["OPENSHELL_FILES_TOKEN"]
    path = stocked.home / "token"
    match kind:
        case "directory":
            path.mkdir()
        case "empty":
            path.write_bytes(b"")
        case "binary":
            path.write_bytes(os.urandom(100))
        case "huge":
            path.write_bytes(b"t" * 1_000_000)
        case "spaces":
            path.write_bytes(b"a b")
        case "device":
            path = Path("/dev/zero")
        case _:
            pass
    outcome = stocked("stat", "demo", "x", "--token-file", path)
    failed(outcome, ExitCode.NOT_AUTHENTICATED)
    for word in ("Error:", "Errno", "codec"):
        assert word not in outcome.err, "a person reads this"


@pytest.mark.parametrize(
    ("variables", "options", "said"),
    [
        ({}, ["--token-file", "t"], None),
        ({"OPENSHELL_FILES_TOKEN_FILE": "gone"}, ["--token", "t"], None),
        ({"OPENSHELL_FILES_OIDC_ISSUER": "https://issuer.example"}, ["--token", "t"], None),
        ({}, ["--token", "t", "--token-file", "t"], "give one of --token, --token-file"),
        (
            {"OPENSHELL_FILES_TOKEN_FILE": "t"},
            [],
            "set one of OPENSHELL_FILES_TOKEN, OPENSHELL_FILES_TOKEN_FILE",
        ),
        (
            {"OPENSHELL_FILES_TLS_CA": "t"},
            ["--endpoint", "http://localhost:1"],
            "OPENSHELL_FILES_TLS_CA and --endpoint with http://",
        ),
        ({"OPENSHELL_FILES_TLS_CERT": "t"}, [], "OPENSHELL_FILES_TLS_CERT and --tls-key"),
    ],
)
def test_an_option_wins_over_the_variable_of_another(
    stocked: Cli, variables: dict[str, str], options: list[str], said: str | None
) -> None:
    """And what contradicts is named as it was given."""
    (stocked.home / "t").write_text("token")
    stocked.env |= variables
    outcome = stocked("stat", "demo", "x", *options)
    if said is None:
        assert outcome.status == 0, outcome
    else:
        failed(outcome, ExitCode.USAGE, said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stat", "demo"], "Usage: openshell-files stat [OPTIONS] NAME PATH"),
        (["stat", "demo", "x", "y"], "Usage: openshell-files stat [OPTIONS] NAME PATH"),
        (["download", "demo:a"], "openshell-files download demo a"),
        (["stat", "demo:a"], "openshell-files stat demo a"),
        (["copy"], "`openshell-files --help`"),
        (["stat", "demo", "x", "--nonsense"], "`openshell-files stat --help`"),
        (["stat", "demo", "x", "--timeout", "soon"], "`openshell-files stat --help`"),
        (["upload", "demo", "a", "--mode", "u+x"], "'u+x' is no octal number from 000 to 777"),
        (["upload", "demo", "a", "--mode", "6_4_4"], "no octal number"),
        (["upload", "demo", "a", "--mode", "\u0666\u0664\u0664"], "no octal number"),
        (["stat", "demo", "x", "--endpoint", "ftp://x"], "there is no scheme ftp://"),
        (["stat", "demo", "x", "--endpoint", "http://u:p@h"], "a user name or password"),
        (["stat", "demo", "x", "--endpoint", "http://h:1/path"], "'/path' behind the host"),
    ],
)
def test_a_usage_error_says_how_to_mend_it(stocked: Cli, arguments: list[str], said: str) -> None:
    """In one line, and in the fields that every other error has."""
    failed(stocked(*arguments), ExitCode.USAGE, said)
    error = stocked(*arguments, "--json").json["error"]
    assert (error["reason"], error["retry"]) == ("USAGE", "never")
    assert error["fix"]
    assert "u:p" not in error["message"]


def test_a_missing_source_is_no_lack_of_space(stocked: Cli) -> None:
    outcome = stocked("upload", "demo", "missing", "y")
    failed(outcome, ExitCode.LOCAL_FILE, "Check the local path")
    assert "space" not in outcome.err


def test_a_bug_is_one_line(stocked: Cli) -> None:
    program = """
from openshell_files.cli import app
def broken(*args):
    raise KeyError("surprise")
app.file_words = broken
from openshell_files.cli import main
main()
"""
    done = stocked.programmed(program, "stat", "demo", "x")
    assert done.status == ExitCode.BUG
    assert done.err.count("\n") == 1
    assert "KeyError" in done.err
    stocked.env["OPENSHELL_FILES_TRACEBACK"] = "1"
    assert "Traceback" in stocked.programmed(program, "stat", "demo", "x").err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["upload", "demo", "a", "--upload-id", ""], "--upload-id"),
        (["upload", "demo", "a", "--timeout", "1e308"], "--timeout"),
        (["stat", "demo", "a", "--call-timeout", "3155760001"], "--call-timeout"),
        (["stat", "demo", "a", "--attempts", "9" * 40], "--attempts: must be a whole number from 1 to "),
        (["download", "demo", "a", "--length", "9" * 40], "--length: must be a whole number from 0 to "),
    ],
)
def test_a_value_that_cannot_be_meant(
    cli: Cli, gateway: FakeGateway, arguments: list[str], named: str
) -> None:
    """An empty variable of a script, and more seconds than a clock has: named as they were written."""
    (cli.home / "a").write_bytes(b"1")
    ended = cli(*arguments)
    assert ended.status == 2
    assert named in ended.err
    assert "None" not in ended.err
    assert not gateway.calls
