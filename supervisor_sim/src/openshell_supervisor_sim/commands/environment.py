"""The environment of commands: made from nothing, so that nothing of the supervisor's leaks."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Final

_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAME: Final = re.compile("[A-Za-z_][A-Za-z0-9_]*")


def command_environment(*, home: str, user: str, extra: Mapping[str, str]) -> dict[str, str]:
    """Return what every command gets, unless its request says otherwise.

    Args:
        home: the working directory, as commands see it.
        user: name of the user that they run as.
        extra: the sandbox's own variables; they win.
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
    """Parse ``NAME=VALUE`` texts.

    Raises:
        ValueError: one of them is not.
    """
    variables: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not _NAME.fullmatch(name):
            # The value may be a secret and is not repeated.
            raise ValueError(f"{name!r} is not the name of a variable with a value; use NAME=VALUE")
        if "\0" in value:
            raise ValueError(f"the value of {name} holds a NUL character")
        variables[name] = value
    return variables
