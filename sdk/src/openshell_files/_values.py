"""What a value has to be, whoever asks for it: the words of every refusal name the argument and what is allowed.

A value of another type is a `TypeError`. A value of the right type that cannot
be is an `InvalidRequest`, which is a `ValueError` as well.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from enum import Enum
from pathlib import PurePath, PurePosixPath
from typing import Final, NoReturn, TypeVar, cast

from openshell_files_protocol.errors import FieldViolation
from openshell_files_protocol.reasons import Reason

from openshell_files._error_mapping import error_from_reason

_Choice = TypeVar("_Choice", bound=Enum)

#: Largest size or position of a file.
LARGEST_SIZE: Final = (1 << 63) - 1

#: Type, permission and set-id bits, as `os.stat` gives them together.
_MOST_MODE_BITS: Final = 0o177777

#: A century. More is meant as no limit, which None says.
LONGEST_SECONDS: Final = 3_155_760_000.0


def wrong_type(name: str, wanted: str, value: object) -> NoReturn:
    """Refuse a value of another type.

    Raises:
        TypeError: always.
    """
    raise TypeError(f"{name}: give {wanted}, not {type(value).__name__}")


def wrong_value(name: str, why: str, *, path: str | None = None) -> NoReturn:
    """Refuse a value of the right type.

    Args:
        name: of the argument.
        why: what is wrong with it, and what is allowed.
        path: the path, if the value is one.

    Raises:
        InvalidRequest: always; `InvalidPath` for a path.
    """
    reason = Reason.INVALID_REQUEST if path is None else Reason.INVALID_PATH
    violation = FieldViolation(name, why)
    raise error_from_reason(reason, f"{name}: {why}", field_violations=(violation,), path=path or "")


def text(name: str, value: object, *, empty: bool = True) -> str:
    """Check text that goes into a message."""
    if not isinstance(value, str):
        wrong_type(name, "a str", value)
    _check_utf8(name, value)
    if not value and not empty:
        wrong_value(name, "must not be empty")
    return value


def _check_utf8(name: str, value: str, *, path: bool = False) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        shown = ascii(value)
        wrong_value(
            name, f"not valid Unicode, which UTF-8 cannot carry: {shown}", path=shown if path else None
        )


def flag(name: str, value: object) -> bool:
    """Check a choice of two."""
    if not isinstance(value, bool):
        wrong_type(name, "True or False", value)
    return value


def number(name: str, value: object, *, least: int = 0, most: int = LARGEST_SIZE) -> int:
    """Check a whole number; whatever is one by `__index__` will do, a bool will not."""
    if isinstance(value, bool):
        wrong_type(name, "an int", value)
    try:
        whole = operator.index(cast("int", value))
    except TypeError:
        wrong_type(name, "an int", value)
    if whole < 0 <= least:
        wrong_value(name, f"must not be negative, and is {whole}")
    if whole < least:
        wrong_value(name, f"must be at least {least}, and is {whole}")
    if whole > most:
        wrong_value(
            name, f"must be from {least} to {most}, and is {whole if abs(whole) < 1 << 80 else 'huge'}"
        )
    return whole


def mode(name: str, value: object) -> int | None:
    """Check permission bits; those of the file's type may be there too."""
    return None if value is None else number(name, value, most=_MOST_MODE_BITS)


def seconds(name: str, value: object, *, zero: bool = False) -> float:
    """Check a time span, in seconds.

    Args:
        name: of the argument.
        value: of the caller.
        zero: whether no time at all is a time.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        wrong_type(name, "a number of seconds", value)
    if math.isnan(value) or value < 0 or (value == 0 and not zero):
        wrong_value(name, f"must {'not be negative' if zero else 'be positive'}, and is {value:g}")
    if value > LONGEST_SECONDS:
        wrong_value(name, f"must be at most {LONGEST_SECONDS:g} seconds, a century")
    return float(value)


def time_limit(name: str, value: object) -> float | None:
    """Check a time limit that there need not be."""
    if value is None:
        return None
    if isinstance(value, float) and value > LONGEST_SECONDS:
        wrong_value(name, "give None for no limit")
    return seconds(name, value)


def choice(name: str, value: object, kind: type[_Choice]) -> _Choice:
    """Check one of an enumeration, as its member or as its text."""
    allowed = " or ".join(f"{kind.__name__}.{member.name}" for member in kind)
    if isinstance(value, kind):
        return value
    if not isinstance(value, str):
        wrong_type(name, allowed, value)
    try:
        return kind(value)
    except ValueError:
        wrong_value(name, f"give {allowed}, not {value[:100]!a}")


def local_path(name: str, value: object) -> str:
    """Check a path on this side, a `str` or an `os.PathLike` of one."""
    found = value
    if not isinstance(value, str) and (convert := getattr(type(value), "__fspath__", None)) is not None:
        found = cast("Callable[[object], object]", convert)(value)
    if not isinstance(found, str):
        wrong_type(name, "a str or an os.PathLike[str]", value)
    if not found:
        wrong_value(name, "must not be empty")
    if "\0" in found:
        wrong_value(name, f"must not have a NUL: {found!a}")
    return found


def remote_path(name: str, value: object) -> str:
    """Check a path in a sandbox, and write it as the protocol does (PTH-2, ADR 0026).

    What means the same on every disk is simplified: `./x`, `a//b`, `a/./b`,
    and `..` at the root. `a/../b` is refused: where `a` is a link, it is
    another file than `b`.
    """
    if isinstance(value, PurePath) and not isinstance(value, PurePosixPath):
        wrong_type(name, "a str or a PurePosixPath", value)
    if not isinstance(value, str | PurePosixPath):
        wrong_type(name, "a str or a PurePosixPath", value)
    path = str(value)
    if not path:
        wrong_value(name, "must not be empty", path=path)
    _check_utf8(name, path, path=True)
    if "\0" in path:
        wrong_value(name, f"must not have a NUL: {path!a}", path=path)
    absolute = path.startswith("/")
    names = list[str]()
    for component in path.split("/"):
        if component in {"", "."} or (component == ".." and absolute and not names):
            continue
        if component == "..":
            wrong_value(
                name,
                f"{path!a} goes up; where that leads depends on links in the sandbox, so name the file directly",
                path=path,
            )
        names.append(component)
    if not names:
        return "/" if absolute else "."
    # A trailing slash means a directory; the server has the words for that.
    end = "/" if path.endswith(("/", "/.")) else ""
    return "/" * absolute + "/".join(names) + end
