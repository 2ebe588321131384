"""The environment of commands: starts empty, so that no variable of the supervisor leaks."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Final

_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAME: Final = re.compile("[A-Za-z_][A-Za-z0-9_]*")


def command_environment(*, home: str, user: str, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a command whose request sets no variable.

    Args:
        home: the working directory, as commands see it.
        user: name of the user that runs them.
        extra: the sandbox's own variables; they override the others.
    """
    return {
        "PATH": f"{os.path.dirname(sys.executable)}:{_SYSTEM_PATH}",
        "HOME": home,
        "USER": user,
        "LOGNAME": user,
        "LANG": "C.UTF-8",
        **extra,
    }


def parse_variables(texts: Iterable[str]) -> dict[str, str]:
    """Parse ``NAME=VALUE`` texts. Raises: ValueError: a text has another form."""
    variables: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not _NAME.fullmatch(name):
            # The message must not contain the value, which may be a secret.
            raise ValueError(f"{name!r} is not a variable with a value; use NAME=VALUE")
        if "\0" in value:
            raise ValueError(f"the value of {name} contains a NUL character")
        variables[name] = value
    return variables
