"""Finds the programs that are installed together with the gateway."""

from __future__ import annotations

import sys
from pathlib import Path


def command(name: str) -> str:
    """Return the path of a program that is installed beside this interpreter.

    Raises:
        FileNotFoundError: it is not installed there.
    """
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise FileNotFoundError(f"{name} is not installed beside {sys.executable}; run `make setup`")
    return str(path)
