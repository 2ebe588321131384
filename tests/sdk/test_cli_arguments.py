"""No traceback for any argument or environment, whatever the command."""

from __future__ import annotations

import os
import subprocess
import sys
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


#: Values of variables that the completion and protobuf read, by the words of the command line.
SURROUNDINGS: list[tuple[dict[str, str], list[str], str]] = [
    *(
        ({"_OPENSHELL_FILES_COMPLETE": value}, ["upload", *COMMANDS["upload"]], "would only complete words")
        for value in ("foo", "bash_complete", "zsh_complete", "fish_complete", "bash_source", "tcsh_complete")
    ),
    ({"_OPENSHELL_FILES_COMPLETE": "foo"}, [], "is no instruction"),
    ({"_OPENSHELL_FILES_COMPLETE": "tcsh_complete"}, [], "is no instruction"),
    ({"_OPENSHELL_FILES_COMPLETE": "bash_explain"}, [], "is no instruction"),
    ({"_OPENSHELL_FILES_COMPLETE": "bash_complete"}, [], "but not COMP_WORDS and COMP_CWORD"),
    ({"_OPENSHELL_FILES_COMPLETE": "zsh_complete", "COMP_WORDS": "x"}, [], "but not COMP_CWORD"),
    (
        {"_OPENSHELL_FILES_COMPLETE": "bash_complete", "COMP_WORDS": "x", "COMP_CWORD": "-"},
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
    ("shell", "words", "current", "out"),
    [
        ("bash", "openshell-files upl", "1", "plain,upload"),
        ("bash", "openshell-files upload --dig", "2", "plain,--digest"),
        ("bash", "openshell-files upload --durability f", "3", "plain,fsync"),
        ("bash", "openshell-files upload demo a", "3", "file,a"),
        ("zsh", "openshell-files upl", "1", "upload"),
        ("powershell", "openshell-files upl", "1", "upload"),
        ("fish", "openshell-files upl", "upl", "plain,upload"),
    ],
)
def test_a_shell_that_completes(stocked: Cli, shell: str, words: str, current: str, out: str) -> None:
    stocked.env |= {
        "_OPENSHELL_FILES_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": current,
    }
    outcome = stocked.process()
    assert (outcome.status, outcome.err) == (0, "")
    assert any(line.startswith(out) for line in outcome.out.splitlines()), outcome.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_the_script_of_a_shell(stocked: Cli, shell: str) -> None:
    stocked.env["_OPENSHELL_FILES_COMPLETE"] = f"{shell}_source"
    outcome = stocked.process()
    assert (outcome.status, outcome.err) == (0, "")
    assert f"{shell}_complete" in outcome.out


def test_bash_completes_by_the_script_that_is_installed(stocked: Cli) -> None:
    """In a real shell, with the command on its path."""
    own = stocked.home / "bin/openshell-files"
    own.parent.mkdir()
    own.write_text(f"#!{sys.executable}\nfrom openshell_files.cli import main\nmain()\n")
    own.chmod(0o755)
    stocked.env["PATH"] = f"{own.parent}:{stocked.env['PATH']}"

    def bash(script: str) -> str:
        done = subprocess.run(
            ["bash", "--norc", "-c", script],
            env=stocked.env, cwd=stocked.home, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    for _ in range(2):
        # `:` keeps the shell there as the parent that is looked for.
        assert "bash completion installed" in bash("openshell-files --install-completion; :")
    start_up = (stocked.home / ".bashrc").read_text()
    assert start_up.count("source ") == 1
    completed = bash(
        f"{start_up}\nCOMP_WORDS=(openshell-files upl) COMP_CWORD=1\n"
        "_openshell_files_completion openshell-files\necho ${COMPREPLY[*]}"
    )
    assert completed.split() == ["upload", "uploads"]
    assert (
        bash("openshell-files --show-completion; :").strip()
        in (stocked.home / ".bash_completions/openshell-files.sh").read_text()
    )


@pytest.mark.parametrize(
    ("shell", "status", "said"),
    [
        ("zsh", 0, ".zfunc/_openshell-files"),
        ("fish", 0, ".config/fish/completions/openshell-files.fish"),
        ("pwsh", ExitCode.USAGE, "--show-completion to $PROFILE"),
        ("tcsh", ExitCode.USAGE, "and not for tcsh"),
        ("", ExitCode.USAGE, "run it in a shell"),
    ],
)
def test_where_completion_is_installed(stocked: Cli, shell: str, status: int, said: str) -> None:
    program = f"""
import shellingham
def detect_shell():
    if not {shell!r}:
        raise shellingham.ShellDetectionFailure
    return {shell!r}, "/bin/{shell}"
shellingham.detect_shell = detect_shell
from openshell_files.cli import main
main()
"""
    outcome = stocked.programmed(program, "--install-completion")
    assert outcome.status == status, outcome
    assert said in (outcome.err if status else outcome.out)
    if not status:
        assert "_OPENSHELL_FILES_COMPLETE" in (stocked.home / said).read_text()


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
from openshell_files.cli import state_commands
def broken(*args):
    raise KeyError("surprise")
state_commands.file_words = broken
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
