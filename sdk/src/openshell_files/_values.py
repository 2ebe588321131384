"""Checks of single values; each refusal names the argument and the allowed values.

A value of another type is a `TypeError`. A wrong value of the right type is
an `InvalidRequest`, which is a `ValueError` as well.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import PurePath, PurePosixPath
from typing import Final, NoReturn, TypeVar, cast

from openshell_files_protocol.errors import FieldViolation
from openshell_files_protocol.reasons import Reason

from openshell_files._known_errors import error_from_reason

_Choice = TypeVar("_Choice", bound=Enum)
_T = TypeVar("_T")

#: Largest size or position of a file.
LARGEST_SIZE: Final = (1 << 63) - 1

#: Permission, set-id and sticky bits.
_MOST_MODE_BITS: Final = 0o7777

#: Type bits of a regular file, as in `os.stat_result.st_mode`.
_REGULAR_FILE: Final = 0o100000

#: The same of a directory.
_DIRECTORY: Final = 0o040000

#: A century. A caller who means no limit gives None.
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
        why: the fault, and the allowed values.
        path: the value, if it is a path.

    Raises:
        InvalidRequest: always; `InvalidPath` for a path.
    """
    reason = Reason.INVALID_REQUEST if path is None else Reason.INVALID_PATH
    violation = FieldViolation(name, why)
    raise error_from_reason(reason, f"{name}: {why}", field_violations=(violation,), path=path or "")


def text(name: str, value: object, *, empty: bool = True) -> str:
    """Check text that a message carries."""
    if not isinstance(value, str):
        wrong_type(name, "a str", value)
    _check_utf8(name, value)
    if not value and not empty:
        wrong_value(name, "must not be empty")
    return value


def _check_utf8(name: str, value: str, *, path: bool = False, any_bytes: bool = False) -> None:
    try:
        value.encode("utf-8", "surrogateescape" if any_bytes else "strict")
    except UnicodeEncodeError:
        shown = ascii(value)
        wrong_value(
            name, f"must be valid Unicode, which UTF-8 can carry: {shown}", path=shown if path else None
        )


def flag(name: str, value: object) -> bool:
    """Check a bool."""
    if not isinstance(value, bool):
        wrong_type(name, "True or False", value)
    return value


def number(name: str, value: object, *, least: int = 0, most: int = LARGEST_SIZE) -> int:
    """Check an integer, or an object with `__index__`, but no bool."""
    if isinstance(value, bool):
        wrong_type(name, "an int", value)
    try:
        whole = operator.index(cast("int", value))
    except TypeError:
        wrong_type(name, "an int", value)
    if whole < 0 <= least:
        wrong_value(name, f"must not be negative, and is {_shown(whole)}")
    if whole < least:
        wrong_value(name, f"must be at least {least}, and is {_shown(whole)}")
    if whole > most:
        wrong_value(name, f"must be from {least} to {most}, and is {_shown(whole)}")
    return whole


def _shown(value: float) -> str:
    """Return a number for a message. Python refuses to print or convert an integer of thousands of digits."""
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 80 else "huge"
    return f"{value:g}"


def optional(check: Callable[..., _T], **limits: int) -> Callable[[str, object], _T | None]:
    """Return a check that takes None as well."""
    return lambda name, value: None if value is None else check(name, value, **limits)


def word(name: str, value: object, allowed: Sequence[str]) -> str:
    """Check a choice of words."""
    if isinstance(value, str) and value in allowed:
        return value
    wanted = " or ".join(f'"{each}"' for each in allowed)
    if not isinstance(value, str):
        wrong_type(name, wanted, value)
    wrong_value(name, f"give {wanted}, not {value[:100]!a}")


def mode(name: str, value: object) -> int | None:
    """Check permission bits, with or without the type bits of a regular file (UPL-47)."""
    if value is None:
        return None
    bits = number(name, value, most=_REGULAR_FILE | _MOST_MODE_BITS)
    if bits & ~_MOST_MODE_BITS not in {0, _REGULAR_FILE}:
        wrong_value(name, f"{bits:#o} has type bits of no regular file: give permission bits, such as 0o644")
    return bits


def directory_mode(name: str, value: object) -> int | None:
    """Check permission bits of a directory, with or without its type bits (DIR-15)."""
    if value is None:
        return None
    bits = number(name, value, most=_DIRECTORY | _MOST_MODE_BITS)
    if bits & ~_MOST_MODE_BITS not in {0, _DIRECTORY}:
        wrong_value(name, f"{bits:#o} has type bits of no directory: give permission bits, such as 0o755")
    return bits


def seconds(name: str, value: object, *, zero: bool = False) -> float:
    """Check a time span, in seconds.

    Args:
        name: of the argument.
        value: the argument.
        zero: allow 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        wrong_type(name, "a number of seconds", value)
    # Compared first: `math.isnan` overflows at large integers. NaN compares as neither.
    if not (value > 0 or (zero and value == 0)):
        wrong_value(name, f"must {'not be negative' if zero else 'be positive'}, and is {_shown(value)}")
    if value > LONGEST_SECONDS:
        wrong_value(name, f"must be at most {LONGEST_SECONDS:g} seconds, a century")
    return float(value)


def time_limit(name: str, value: object) -> float | None:
    """Check a time limit, or None for no limit."""
    if value is None:
        return None
    if isinstance(value, float) and value > LONGEST_SECONDS:
        wrong_value(name, "give None for no limit")
    return seconds(name, value)


def choice(name: str, value: object, kind: type[_Choice]) -> _Choice:
    """Check a member of an enumeration, or its text."""
    if isinstance(value, kind):
        return value
    allowed = " or ".join(f"{kind.__name__}.{member.name}" for member in kind)
    if not isinstance(value, str):
        wrong_type(name, allowed, value)
    try:
        return kind(value)
    except ValueError:
        wrong_value(name, f"give {allowed}, not {value[:100]!a}")


def local_path(name: str, value: object) -> str:
    """Check a local path, a `str` or an `os.PathLike[str]`."""
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


def any_remote_path(name: str, value: object) -> str:
    """Check a path in a sandbox that may have bytes that are not UTF-8, as surrogates; see `remote_path`."""
    return remote_path(name, value, any_bytes=True)


def remote_path(name: str, value: object, *, any_bytes: bool = False) -> str:
    """Check a path in a sandbox, and return it in the protocol's form (PTH-2, ADR 0026).

    Parts that mean the same on every disk are simplified: `./x`, `a//b`,
    `a/./b`, and `..` at the root. `a/../b` is refused: if `a` is a link, it
    names another file than `b`.

    Args:
        name: of the argument.
        value: the path.
        any_bytes: the message carries bytes, which surrogates of `os.fsdecode` stand for.
    """
    if isinstance(value, PurePath) and not isinstance(value, PurePosixPath):
        wrong_type(name, "a str or a PurePosixPath", value)
    if not isinstance(value, str | PurePosixPath):
        wrong_type(name, "a str or a PurePosixPath", value)
    path = str(value)
    if not path:
        wrong_value(name, "must not be empty", path=path)
    _check_utf8(name, path, path=True, any_bytes=any_bytes)
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
                f"{path!a} has a `..`, whose target depends on links in the sandbox: name the file directly",
                path=path,
            )
        names.append(component)
    if not names:
        return "/" if absolute else "."
    # A trailing slash means a directory; the server refuses it with its reason.
    end = "/" if path.endswith(("/", "/.")) else ""
    return "/" * absolute + "/".join(names) + end
