"""A report that cannot be written does not change what happened; the exit status tells."""

from __future__ import annotations

import json
import os

import pytest
from cli_scene import Cli, failed
from fake_file_gateway import FakeFile, FakeGateway
from openshell_files.cli.exit_codes import ExitCode

NAME = "é.txt"


@pytest.fixture
def stocked(cli: Cli, gateway: FakeGateway) -> Cli:
    (cli.home / NAME).write_bytes(b"hello")
    gateway.files["x"] = FakeFile(b"hello")
    return cli


def no_traceback(err: str) -> None:
    assert "Traceback" not in err
    assert "Exception ignored" not in err


#: What each command needs besides its name.
COMMANDS = {
    "upload": ["demo", NAME, "y"],
    "download": ["demo", "x", "got"],
    "stat": ["demo", "x"],
    "uploads": ["demo", "--json"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("json_line", [[], ["--json"]], ids=["words", "json"])
@pytest.mark.parametrize("redirect", [">&-", ">/dev/full"])
def test_done_but_not_reported(stocked: Cli, command: str, redirect: str, json_line: list[str]) -> None:
    arguments = [*COMMANDS[command], *json_line]
    outcome = stocked.redirected(redirect, command, *arguments)
    assert outcome.status == ExitCode.REPORT_LOST, outcome
    no_traceback(outcome.err)
    assert outcome.err.startswith("openshell-files: error: done, but the report could not be written")
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""
    if command == "download":
        assert (stocked.home / "got").read_bytes() == b"hello"


def test_published_but_not_reported_is_published(stocked: Cli, gateway: FakeGateway) -> None:
    assert stocked.redirected(">/dev/full", "upload", "demo", NAME, "y").status == ExitCode.REPORT_LOST
    assert gateway.files["y"].content == b"hello"
    # Nothing was to be reported.
    assert stocked.redirected(">/dev/full", "upload", "demo", NAME, "y", "-q").status == 0


@pytest.mark.parametrize("redirect", [">&-", ">/dev/full", "2>&-", "2>/dev/full", ">&- 2>&- <&-"])
@pytest.mark.parametrize("json_line", [[], ["--json"]], ids=["words", "json"])
def test_a_failure_keeps_its_status(stocked: Cli, redirect: str, json_line: list[str]) -> None:
    outcome = stocked.redirected(redirect, "stat", "demo", "missing", *json_line)
    assert outcome.status == ExitCode.NOT_FOUND
    no_traceback(outcome.err)
    if "2>" not in redirect:
        assert "missing" in outcome.err, "what standard output does not take is told in words"


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", "<&-", "2>&- <&-"])
def test_what_is_not_needed_may_be_missing(stocked: Cli, gateway: FakeGateway, redirect: str) -> None:
    outcome = stocked.redirected(redirect, "upload", "demo", NAME, "y", "--json")
    assert outcome.status == 0
    assert json.loads(outcome.out)["ok"]
    assert gateway.files["y"].content == b"hello"


def test_content_to_a_closed_standard_output_is_a_failure(stocked: Cli) -> None:
    outcome = stocked.redirected(">&-", "download", "demo", "x", "-")
    assert outcome.status == ExitCode.LOCAL_FILE
    assert "standard output" in outcome.err
    assert "<stdout>" not in outcome.err
    full = stocked.redirected(">/dev/full", "download", "demo", "x", "-")
    assert full.status == ExitCode.LOCAL_FILE
    assert "No space left" in full.err


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "got"])
@pytest.mark.parametrize(
    "redirect",
    ["| cat >got", "2>&1 | cat >got", ">got", ">got 2>&1"],
    ids=["pipe", "both", "file", "both in one"],
)
def test_nothing_but_content_is_in_the_content(stocked: Cli, name: str, redirect: str) -> None:
    """Any name of standard output is `-`: the report is not content, even if standard error is the same file."""
    if name == "got" and "|" in redirect:
        pytest.skip("a pipe has not the name of a file")
    done = stocked.shell(f'"$@" {redirect}', "download", "demo", "x", name)
    assert (done.status, (stocked.home / "got").read_bytes()) == (0, b"hello"), done


@pytest.mark.parametrize("redirect", [">fifo", ">fifo 2>&1"], ids=["apart", "both in one"])
def test_a_fifo_that_is_standard_output(stocked: Cli, redirect: str) -> None:
    os.mkfifo(stocked.home / "fifo")
    done = stocked.shell(
        f'cat fifo >got & "$@" {redirect}; status=$?; wait; exit $status', "download", "demo", "x", "fifo"
    )
    assert (done.status, (stocked.home / "got").read_bytes()) == (0, b"hello"), done


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_a_report_for_programs_is_not_in_the_content(stocked: Cli, name: str) -> None:
    both = stocked.shell('"$@" >got 2>&1; test $? = 2', "download", "demo", "x", name, "--json")
    assert both.status == 0
    assert b"are one file" in (stocked.home / "got").read_bytes()
    apart = stocked.shell('"$@" >got', "download", "demo", "x", name, "--json")
    assert json.loads(apart.err)["ok"]
    assert (stocked.home / "got").read_bytes() == b"hello"


@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"])
@pytest.mark.parametrize("way", ['cat f | "$@"', '"$@" <f'], ids=["pipe", "file"])
def test_any_name_of_standard_input(stocked: Cli, gateway: FakeGateway, name: str, way: str) -> None:
    (stocked.home / "f").write_bytes(b"from stdin")
    assert stocked.shell(way, "upload", "demo", name, "y").status == 0
    assert gateway.files["y"].content == b"from stdin"
    failed(stocked.shell(way, "upload", "demo", name), ExitCode.USAGE, "standard input has no name")


def test_a_file_that_is_also_standard_input_is_a_file(stocked: Cli, gateway: FakeGateway) -> None:
    (stocked.home / "f").write_bytes(b"all of it")
    (stocked.home / "f").chmod(0o751)
    assert stocked.shell('{ read line; "$@"; } <f', "upload", "demo", "f", "y").status == 0
    assert (gateway.files["y"].content, gateway.files["y"].mode) == (b"all of it", 0o751)


def test_content_from_a_closed_standard_input_is_a_failure(stocked: Cli, gateway: FakeGateway) -> None:
    outcome = stocked.redirected("<&-", "upload", "demo", "-", "y")
    assert outcome.status == ExitCode.LOCAL_FILE, outcome
    assert "Bad file descriptor" in outcome.err
    no_traceback(outcome.err)
    assert "y" not in gateway.files


@pytest.mark.parametrize(
    ("redirect", "words", "fix"),
    [
        ("<&-", ("upload", "demo", "-", "y"), "as in `< FILE`"),
        (">&-", ("download", "demo", "x", "-"), "as in `> FILE`"),
    ],
)
def test_a_closed_standard_stream_names_the_fix(
    stocked: Cli, redirect: str, words: tuple[str, ...], fix: str
) -> None:
    """To people and to programs alike."""
    line = stocked.redirected(redirect, *words).err
    failure = stocked.redirected(redirect, *words, "--json")
    error = json.loads(failure.err if "download" in words else failure.out)["error"]
    assert fix in error["fix"]
    assert line.endswith(f"[LOCAL_FILE]. {error['fix']}\n")


def test_the_words_beside_content_are_for_people(stocked: Cli) -> None:
    """Who pipes content on has it; only the JSON line is an answer that must not be lost."""
    done = stocked.redirected("2>/dev/full", "download", "demo", "x", "-")
    assert (done.status, done.out) == (0, "hello")
    asked = stocked.redirected("2>/dev/full", "download", "demo", "x", "-", "--json")
    assert (asked.status, asked.out) == (ExitCode.REPORT_LOST, "hello")


def test_a_reader_that_ends_early(stocked: Cli, gateway: FakeGateway) -> None:
    """A pipe that is closed is no lack of space."""
    gateway.files["big"] = FakeFile(bytes(8 * 1024 * 1024))
    outcome = stocked.redirected("| head -c 10", "download", "demo", "big", "-")
    assert "space" not in outcome.err
    assert "The program that reads the pipe closed it early" in outcome.err
    no_traceback(outcome.err)


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"LC_ALL": "POSIX"},
        {"LANG": "xx_YY.nonsense"},
        {"PYTHONIOENCODING": "utf-16"},
    ],
    ids=str,
)
def test_an_encoding_without_the_letter(
    stocked: Cli, gateway: FakeGateway, environment: dict[str, str]
) -> None:
    done = stocked.redirected("", "upload", "demo", NAME, "z", environment=environment)
    assert done.status == 0, done
    assert gateway.files["z"].content == b"hello"
    missing = stocked.redirected("", "stat", "demo", "ü", environment=environment)
    assert missing.status == ExitCode.NOT_FOUND
    help_ = stocked.redirected("", "upload", "--help", environment=environment)
    assert help_.status == 0


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["upload", "--help"], ["--show-completion"]]
)
@pytest.mark.parametrize("redirect", [">&-", ">/dev/full"])
def test_help_that_cannot_be_shown(stocked: Cli, redirect: str, arguments: list[str]) -> None:
    outcome = stocked.redirected(redirect, *arguments)
    assert outcome.status in {ExitCode.REPORT_LOST, ExitCode.USAGE}
    no_traceback(outcome.err)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["upload", "--help"]])
def test_help_whose_reader_leaves(stocked: Cli, arguments: list[str]) -> None:
    """It has read what it wanted, and that is no failure."""
    program = """
import os
reading, writing = os.pipe()
os.close(reading)
os.dup2(writing, 1)
from openshell_files.cli import main
main()
"""
    outcome = stocked.programmed(program, *arguments)
    assert (outcome.status, outcome.err) == (0, "")
