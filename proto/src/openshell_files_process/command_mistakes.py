"""Messages about a wrong command line: they name the option, its value and the accepted values.

typer checks values with a library whose messages speak of its own types. The objects are typer's, which
this distribution does not import.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

#: Exit status for wrong usage.
WRONG_USAGE: Final = 2

_NOT_GIVEN: Final = object()


def mistake_words(mistake: Any) -> str:  # noqa: ANN401 - typer's exception
    """Return an exception of typer in words, in one line.

    Args:
        mistake: typer's exception for a wrong command line.
    """
    parameter, value = getattr(mistake, "param", None), _refused_value(mistake)
    if parameter is None or value is _NOT_GIVEN:
        return " ".join(mistake.format_message().split())
    return f"{_name(parameter)}: must be {accepted_words(parameter)}, and is {value!a}"


def accepted_words(parameter: Any) -> str:  # noqa: ANN401 - typer's parameter
    """Return the values that a parameter accepts, as in "a whole number, at least 1"."""
    kind = parameter.type_descriptor
    if kind.choices is not None:
        return f"one of {', '.join(_written(choice) for choice in kind.choices)}"
    annotation = str(kind.annotation)
    number = "a whole number" if "int" in annotation else "a number" if "float" in annotation else ""
    if not number:
        return "a value that it takes"
    if "timeout" in (parameter.name or ""):
        number += " of seconds"
    limits = kind.parameter_info
    if limits.min is not None and limits.max is not None:
        return f"{number} from {limits.min} to {limits.max}"
    return number if limits.min is None else f"{number}, at least {limits.min}"


def run_command(
    app: Callable[..., object], program: str, mistakes: type[Exception], aborted: type[Exception]
) -> int:
    """Run the command line of a server.

    Args:
        app: typer's application.
        program: its name.
        mistakes: typer's exception for a wrong command line.
        aborted: typer's exception after SIGINT.

    Returns:
        The exit status.
    """
    try:
        status = app(prog_name=program, standalone_mode=False)
    except mistakes as mistake:
        if type(mistake).__name__ == "NoArgsIsHelpError":
            print(str(mistake), file=sys.stderr)
            return WRONG_USAGE
        context = getattr(mistake, "ctx", None)
        path = program if context is None else context.command_path
        print(f"{program}: {mistake_words(mistake).rstrip('.')}. See `{path} --help`.", file=sys.stderr)
        return WRONG_USAGE
    except aborted:
        return 1
    return status if isinstance(status, int) else 0


def _refused_value(mistake: Any) -> object:  # noqa: ANN401 - typer's exception
    """Return the value that the checks of typer refused; `_NOT_GIVEN` for another mistake."""
    errors = getattr(mistake.__cause__, "errors", None)
    found: Any = errors() if callable(errors) else None
    return found[0].get("input", _NOT_GIVEN) if found else _NOT_GIVEN


def _name(parameter: Any) -> str:  # noqa: ANN401 - typer's parameter
    longest: str = max(parameter.opts, key=len, default="") if parameter.param_type_name == "option" else ""
    return longest or str(parameter.display_name_raw)


def _written(choice: object) -> str:
    return str(choice.value if isinstance(choice, Enum) else choice)
