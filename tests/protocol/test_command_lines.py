"""The three programs' command lines: help that cuts no name, and refusals in words of the command line."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import click
import pytest
import typer
from dev_command import command
from openshell_files.cli.app import HOMES, SUMMARIES
from openshell_files.cli.app import app as files
from openshell_files_gateway.cli import app as gateway
from openshell_files_process.command_help import help_text
from openshell_supervisor_sim.cli import app as supervisor

#: The objects of click, and of typer, which has click's interface.
PROGRAMS: dict[str, Any] = {
    "openshell-files": files,
    "openshell-files-gateway": typer.main.get_command(gateway),
    "openshell-supervisor-sim": typer.main.get_command(supervisor),
}


def commands() -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """Return program, words and object of every command."""
    for program, group in PROGRAMS.items():
        yield program, (), group
        with group.make_context(program, [], resilient_parsing=True) as context:
            for name in group.list_commands(context):
                yield program, (name,), group.get_command(context, name)


def options() -> Iterator[tuple[str, str, Any]]:
    """Return program, command and object of every option."""
    for program, words, subcommand in commands():
        for parameter in subcommand.params:
            if words and parameter.param_type_name == "option" and not parameter.is_flag:
                yield program, words[0], parameter


def run(*arguments: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "COLUMNS": str(columns), "LANG": "C.UTF-8"}
    return subprocess.run(
        [command(arguments[0]), *arguments[1:]],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def choices_of(parameter: Any) -> tuple[Any, ...]:
    """Return the values of an option that accepts only some."""
    kind = getattr(parameter, "type_descriptor", None) or parameter.type
    return getattr(kind, "choices", None) or ()


def typed(parameter: Any) -> set[str]:
    """Return the words of an option that a user types."""
    variable: str | None = parameter.envvar
    choices = choices_of(parameter)
    # A command that takes only some of the choices names those.
    values = (
        {parameter.metavar or f"<{'|'.join(str(getattr(c, 'value', c)) for c in choices)}>"}
        if choices
        else set[str]()
    )
    return {*parameter.opts, *parameter.secondary_opts, *([variable] if variable else []), *values}


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
@pytest.mark.parametrize(
    ("program", "words", "subcommand"),
    list(commands()),
    ids=str,
)
def test_help_cuts_no_word_that_is_typed(
    program: str, words: tuple[str, ...], subcommand: Any, columns: int
) -> None:
    context = subcommand.make_context(" ".join((program, *words)), [], resilient_parsing=True)
    shown = help_text(subcommand, context, columns)
    present = {word.rstrip(",;.]").lstrip("[") for word in shown.split()}
    named = [p for p in subcommand.params if p.param_type_name == "option" and not p.hidden]
    missing = {word for parameter in named for word in typed(parameter)} - present
    assert not missing
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    longest = max(len(word) for word in shown.split())
    # A name stands in a line with the word for its value; only a word wider than the terminal may pass its edge.
    wide = [line for line in shown.splitlines() if len(line) > max(columns, longest + 4)]
    assert all(line.lstrip().startswith("-") for line in wide), wide


@pytest.mark.parametrize(
    "words",
    [
        ["openshell-files"],
        ["openshell-files-gateway"],
        ["openshell-supervisor-sim"],
        ["openshell-files", "upload"],
        ["openshell-files-gateway", "serve"],
        ["openshell-supervisor-sim", "run"],
    ],
    ids=" ".join,
)
def test_both_options_of_help(words: list[str]) -> None:
    short, long = (run(*words, option, columns=40) for option in ("-h", "--help"))
    assert (short.returncode, short.stderr) == (0, "")
    assert short.stdout == long.stdout
    assert short.stdout.startswith(f"Usage: {words[0]}")


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_version(program: str) -> None:
    shown = run(program, "--version")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.fullmatch(rf"{program} \d+\.\d+\.\d+\n", shown.stdout)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_command_line_without_a_command_is_answered_with_help(program: str) -> None:
    shown = run(program)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr.startswith(f"Usage: {program} [OPTIONS] COMMAND")


BAD = ["zz", "-1", "0x1", "nan", "9" * 40, ""]


def refused(parameter: Any, value: str) -> bool:
    """Return whether an option must refuse a value; a server's configuration checks numbers without bounds."""
    if isinstance(parameter, click.Option):
        # Each number has a least value, a whole one also a largest.
        bounds = parameter.type
        return isinstance(bounds, click.Choice | click.IntRange) or (
            isinstance(bounds, click.FloatRange) and value != BAD[4]
        )
    kind = parameter.type_descriptor
    whole = "int" in str(kind.annotation)
    if not kind.choices and not whole and "float" not in str(kind.annotation):
        return False
    unbounded = whole and not kind.choices
    if value == "-1":
        return not (unbounded and kind.parameter_info.min is None)
    return not (value == BAD[4] and not kind.choices and kind.parameter_info.max is None)


CHECKED = [
    (program, name, parameter, value)
    for program, name, parameter in options()
    for value in BAD
    if refused(parameter, value)
]

#: Words of the libraries below typer.
FOREIGN = re.compile(r"Value error|Input should|pydantic|Traceback|unable to parse|valid integer|<class")


@pytest.mark.parametrize(
    ("program", "name", "parameter", "value"),
    CHECKED,
    ids=[f"{program} {name} {parameter.opts[0]}={value}" for program, name, parameter, value in CHECKED],
)
def test_a_refusal_names_option_value_and_accepted_values(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    name: str,
    parameter: Any,
    value: str,
) -> None:
    """In the process, since there are hundreds of cases."""
    option = parameter.opts[0]
    monkeypatch.setenv("OPENSHELL_FILES_ENDPOINT", "127.0.0.1:1")
    words = {"abort": ["demo", "u"], "uploads": ["demo"]}.get(name, ["demo", "x"])
    if program != "openshell-files":
        words = []
    message = refusal(capsys, monkeypatch, program, [name, f"{option}={value}", *words])
    assert option in message, message
    assert ascii(value) in message, message
    assert "must be" in message
    assert not FOREIGN.search(message), message
    for choice in choices_of(parameter):
        assert str(getattr(choice, "value", choice)) in message


@pytest.mark.parametrize(("program", "words", "subcommand"), list(commands())[1:11], ids=str)
def test_the_summary_of_a_command_is_its_help(program: str, words: tuple[str, ...], subcommand: Any) -> None:
    """`openshell-files --help` does not import the commands, and has a copy of their help."""
    assert program == "openshell-files"
    assert SUMMARIES[words[0]] == " ".join(subcommand.help.split())


def test_every_command_has_a_summary() -> None:
    assert list(SUMMARIES) == list(HOMES)


def refusal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, program: str, words: list[str]
) -> str:
    """Return the line about a wrong command line."""
    monkeypatch.setattr("sys.argv", [program, *words])
    if program == "openshell-files":
        from openshell_files.cli.app import run as run_files  # noqa: PLC0415 - beside `run` of this module

        assert run_files("NO_TRACEBACK") == 2
    else:
        from openshell_files_gateway.cli import main as run_gateway  # noqa: PLC0415 - both are called main
        from openshell_supervisor_sim.cli import main as run_supervisor  # noqa: PLC0415 - as above

        with pytest.raises(SystemExit) as ended:
            (run_gateway if "gateway" in program else run_supervisor)()
        assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message
