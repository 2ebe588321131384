"""Request of a shell's completion: variables of the environment, which typer reads before the command line.

A variable that is left in the environment must not turn a command into a
completion that does nothing and succeeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from openshell_files.cli.connecting import UsageMistake

#: Makes typer complete a command line instead of carrying it out.
VARIABLE: Final = "_OPENSHELL_FILES_COMPLETE"

#: The command line to complete, in the script of every shell but bash.
_LINE: Final = "_TYPER_COMPLETE_ARGS"

#: Variables that the script of each shell sets besides.
_SHELLS: Final[Mapping[str, Sequence[str]]] = {
    "bash": ("COMP_WORDS", "COMP_CWORD"),
    "zsh": (_LINE,),
    "fish": (_LINE, "_TYPER_COMPLETE_FISH_ACTION"),
    "powershell": (_LINE,),
    "pwsh": (_LINE,),
}


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
    instruction, _, shell = environment[VARIABLE].partition("_")
    if instruction not in {"complete", "source"} or shell not in _SHELLS:
        raise UsageMistake(f"{given}, which is no instruction: {unset}")
    if instruction == "source":
        return
    missing = [name for name in _SHELLS[shell] if name not in environment]
    if missing:
        raise UsageMistake(f"{given}, but not {' and '.join(missing)}: {unset}")
    if shell == "bash" and not environment["COMP_CWORD"].isdecimal():
        raise UsageMistake(f"{given}, but COMP_CWORD is no number: {unset}")
