"""Completion of command lines by a shell: its requests, which are variables of the environment, and its script.

A variable that is left in the environment must not turn a command into a
completion that does nothing and succeeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from openshell_files.cli.mistakes import UsageMistake

if TYPE_CHECKING:
    from click.shell_completion import ShellComplete

#: Asks for the completion of a command line, or for the script of a shell.
VARIABLE: Final = "_OPENSHELL_FILES_COMPLETE"

_SHELLS: Final = ("bash", "zsh", "fish", "powershell")

#: Variables that the script of each shell sets besides: the command line, and the word to complete.
_WORDS: Final = ("COMP_WORDS", "COMP_CWORD")


def is_completion(environment: Mapping[str, str]) -> bool:
    """Return whether the environment asks for a completion."""
    return bool(environment.get(VARIABLE))


def check_completion(environment: Mapping[str, str], words: Sequence[str]) -> None:
    """Check that a request of a completion is a shell's.

    Args:
        environment: of the process.
        words: the command line; a shell gives none.

    Raises:
        UsageMistake: it is not, so nothing is carried out.
    """
    if not is_completion(environment):
        return
    given = f"{VARIABLE} is set to {environment[VARIABLE]!a}"
    unset = f"unset {VARIABLE}, which only the scripts of --install-completion set"
    if words:
        raise UsageMistake(f"{given}, so this command would only complete words and do nothing: {unset}")
    shell, _, instruction = environment[VARIABLE].partition("_")
    if instruction not in {"complete", "source"} or shell not in _SHELLS:
        raise UsageMistake(f"{given}, which is no instruction: {unset}")
    if instruction == "source":
        return
    missing = [name for name in _WORDS if name not in environment]
    if missing:
        raise UsageMistake(f"{given}, but not {' and '.join(missing)}: {unset}")
    # That of fish is the word itself.
    if shell != "fish" and not environment["COMP_CWORD"].isdecimal():
        raise UsageMistake(f"{given}, but COMP_CWORD is no number: {unset}")


def answer(app: click.Command, program: str, environment: Mapping[str, str]) -> int:
    """Answer a checked request on standard output, and return the exit status."""
    # A command needs nothing of it.
    from click.shell_completion import shell_complete  # noqa: PLC0415 - see above

    return shell_complete(app, {}, program, VARIABLE, environment[VARIABLE])


def show(context: click.Context, _option: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's callbacks take the value
    """Print the script of the current shell, and exit."""
    if wanted and not context.resilient_parsing:
        click.echo(_script(_shell("--show-completion"), context))
        context.exit()


def install(context: click.Context, _option: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - as above
    """Write the script of the current shell to where it is read, and exit."""
    if not wanted or context.resilient_parsing:
        return
    shell = _shell("--install-completion")
    program = context.find_root().info_name or ""
    home = Path.home()
    place, start, line = {
        "bash": (
            home / f".bash_completions/{program}.sh",
            home / ".bashrc",
            f"source '{home}/.bash_completions/{program}.sh'",
        ),
        "zsh": (
            home / f".zfunc/_{program}",
            home / ".zshrc",
            "fpath+=~/.zfunc; autoload -Uz compinit; compinit",
        ),
        "fish": (home / f".config/fish/completions/{program}.fish", None, ""),
    }.get(shell, (None, None, ""))
    if place is None:
        raise UsageMistake(
            f"--install-completion: the profile of {shell} has no fixed place; append the output of "
            "--show-completion to $PROFILE"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"{_script(shell, context)}\n")
    if start is not None:
        _add_line(start, line)
    click.echo(f"{shell} completion installed in {place}")
    click.echo("Completion will take effect once you restart the terminal")
    context.exit()


def _script(shell: str, context: click.Context) -> str:
    root = context.find_root()
    return _completion(shell)(root.command, {}, root.info_name or "", VARIABLE).source().strip()


def _completion(shell: str) -> type[ShellComplete]:
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - see `answer`

    found = get_completion_class(shell)
    if found is None:
        raise UsageMistake(f"there is no completion for {shell}")
    return found


def _shell(option: str) -> str:
    """Return the shell that runs this command.

    Raises:
        UsageMistake: it is unknown, or has no completion.
    """
    # Only these two options look for the shell.
    import shellingham  # type: ignore[import-untyped]  # noqa: PLC0415 - see above

    known = ", ".join(_SHELLS)
    try:
        name: str = shellingham.detect_shell()[0]  # pyright: ignore[reportUnknownMemberType]
    except shellingham.ShellDetectionFailure:
        raise UsageMistake(f"{option}: run it in a shell; completion is for {known}") from None
    shell = "powershell" if name == "pwsh" else name
    if shell not in _SHELLS:
        raise UsageMistake(f"{option}: completion is for {known}, and not for {shell}")
    return shell


def _add_line(file: Path, line: str) -> None:
    """Append a line to a start-up file, unless it is there."""
    text = file.read_text() if file.exists() else ""
    if line not in text.splitlines():
        file.write_text(f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{line}\n")
