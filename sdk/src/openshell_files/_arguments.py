"""Checks the arguments of the public methods before anything else happens.

`checked` finds the rule of each argument by its name, so a name means the same
in every method and in both flavours. Fields of an option group are checked by
the group. A parameter without a rule raises when the class is made.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from dataclasses import fields
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar, cast

from openshell_files import _values as values
from openshell_files._values import wrong_type, wrong_value
from openshell_files.auth import ClientCredentials, OidcAuth
from openshell_files.options import (
    READ_RULES,
    STAT_RULES,
    WRITE_RULES,
    ReadOptions,
    RetryPolicy,
    TlsConfig,
    WriteOptions,
)
from openshell_files.tree_options import TreeOptions

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: A rule: name, value, and whether the method may await. Returns the value in its proper type.
_Rule = Callable[[str, object, bool], object]

#: Option groups by the name of the parameter that collects their fields, such as `**write`.
_GROUPS: Final[Mapping[str, type]] = {"write": WriteOptions, "read": ReadOptions, "tree": TreeOptions}


def checked(method: Callable[_P, _T]) -> Callable[_P, _T]:
    """Check every argument of a method by the rule for its name.

    The signature that `inspect` and `help` show names each field of the
    method's option group.

    Raises:
        TypeError: a parameter of the method has no rule.
    """
    written = inspect.signature(method)
    signature, group = _with_fields(written)
    may_await = inspect.iscoroutinefunction(method)
    rules = dict[str, _Rule]()
    for name in list(written.parameters)[1:]:
        rule = _SPECIAL.get((method.__name__, name)) or _RULES.get(name)
        if group is not None and name == "options":
            rule = _instance(group)
        elif group is not None and name in _GROUPS:
            continue
        if rule is None:
            raise TypeError(f"{method.__qualname__}: {name} has no rule in {__name__}")
        rules[name] = rule

    def bound(args: tuple[object, ...], kwargs: Mapping[str, object]) -> Mapping[str, Any]:
        given = signature.bind(*args, **kwargs).arguments
        for name, value in given.items():
            if name in rules:
                given[name] = rules[name](name, value, may_await)
        return given

    if may_await:
        awaited = cast("Callable[..., Awaitable[object]]", method)

        @wraps(method)
        async def asynchronous(*args: object, **kwargs: object) -> object:
            return await awaited(**bound(args, kwargs))

        return _shown(cast("Callable[_P, _T]", asynchronous), signature)

    @wraps(method)
    def blocking(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return cast("Callable[..., _T]", method)(**bound(args, kwargs))

    return _shown(blocking, signature)


def _with_fields(signature: inspect.Signature) -> tuple[inspect.Signature, type | None]:
    """Return a signature with the fields of its option group, and the group."""
    *others, last = signature.parameters.values()
    group = _GROUPS.get(last.name)
    if last.kind is not inspect.Parameter.VAR_KEYWORD or group is None:
        return signature, None
    named = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type
        )
        for field in fields(group)
        if field.name not in signature.parameters
    ]
    return signature.replace(parameters=[*others, *named]), group


def _shown(method: Callable[_P, _T], signature: inspect.Signature) -> Callable[_P, _T]:
    cast("Any", method).__signature__ = signature
    return method


def _source(name: str, value: object, may_await: bool) -> object:  # noqa: FBT001 - a rule
    """Check content as far as is possible before the first byte is read."""
    given = value
    if isinstance(value, bytes | bytearray):
        return value
    if isinstance(value, str):
        raise TypeError(f"{name}: a str is not content: encode it, or use upload_path for a file")
    if hasattr(type(value), "__fspath__") and not hasattr(value, "read"):
        raise TypeError(f"{name}: a path is not content: use upload_path")
    _check_file(name, value, "read", "readable")
    if hasattr(value, "read") or (may_await and isinstance(value, AsyncIterable)):
        return given
    if isinstance(value, AsyncIterable):
        raise TypeError(f"{name}: the blocking client cannot wait for an asynchronous iterable")
    try:
        view = memoryview(cast("Any", value))
    except TypeError:
        pass
    else:
        return view if view.c_contiguous else view.tobytes()
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        awaited = " or an asynchronous iterable" if may_await else ""
        wrong_type(name, f"bytes, a binary file or an iterable of bytes{awaited}", given)
    if isinstance(value, list | tuple):
        for index, piece in enumerate(cast("list[object]", value)):
            if not isinstance(piece, bytes | bytearray | memoryview):
                wrong_type(f"{name}[{index}]", "bytes", piece)
    return cast("object", value)


def _sink(name: str, value: object, may_await: bool) -> object:  # noqa: FBT001 - a rule
    if isinstance(value, str) or (hasattr(type(value), "__fspath__") and not hasattr(value, "write")):
        raise TypeError(f"{name}: a path takes no bytes: use download_path")
    if not callable(value):
        if not hasattr(value, "write"):
            wrong_type(name, "a binary file or a function that takes bytes", value)
        _check_file(name, value, "write", "writable")
        if inspect.iscoroutinefunction(cast("Any", value).write):
            raise TypeError(f"{name}: a file whose write is awaited: give its method `write`, not the file")
    elif inspect.iscoroutinefunction(value) and not may_await:
        raise TypeError(f"{name}: the blocking client cannot await what a function returns")
    return value


def _path_or_source(name: str, value: object, may_await: bool) -> object:  # noqa: FBT001 - a rule
    return values.local_path(name, value) if _is_path(value, "read") else _source(name, value, may_await)


def _path_or_sink(name: str, value: object, may_await: bool) -> object:  # noqa: FBT001 - a rule
    return values.local_path(name, value) if _is_path(value, "write") else _sink(name, value, may_await)


def _is_path(value: object, method: str) -> bool:
    return isinstance(value, str) or (hasattr(type(value), "__fspath__") and not hasattr(value, method))


def _check_file(name: str, value: object, method: str, able: str) -> None:
    """Refuse a file that is closed, in text mode, or open for the other direction."""
    if not hasattr(value, method):
        return
    if isinstance(value, io.TextIOBase) or (hasattr(value, "encoding") and hasattr(value, "errors")):
        raise TypeError(f"{name}: the file is in text mode: open it in binary mode")
    if getattr(value, "closed", False) is True:
        wrong_value(name, "the file is closed")
    can = getattr(value, able, None)
    if callable(can) and not inspect.iscoroutinefunction(can) and can() is False:
        wrong_value(name, f"the file is not {able}")


def _data(name: str, value: object, _: bool) -> object:  # noqa: FBT001 - a rule
    if not isinstance(value, bytes | bytearray | memoryview):
        wrong_type(name, "bytes, a bytearray or a memoryview", value)
    if isinstance(value, memoryview) and not value.c_contiguous:
        return value.tobytes()
    return cast("object", value)


def _progress(name: str, value: object, _: bool) -> object:  # noqa: FBT001 - a rule
    if value is not None and (not callable(value) or inspect.iscoroutinefunction(value)):
        wrong_type(name, "a plain function that takes a Progress", value)
    return value


def _auth(name: str, value: object, _: bool) -> object:  # noqa: FBT001 - a rule
    if value is not None and not isinstance(value, OidcAuth | ClientCredentials):
        wrong_type(name, "an OidcAuth, a ClientCredentials or None", value)
    return value


def _instance(kind: type) -> _Rule:
    def rule(name: str, value: object, _: bool) -> object:  # noqa: FBT001 - a rule
        if value is not None and not isinstance(value, kind):
            wrong_type(name, f"a {kind.__name__} or None", value)
        return value

    return rule


def _plain(check: Callable[[str, object], object]) -> _Rule:
    """Return a check as a rule of both flavours."""
    return lambda name, value, _: check(name, value)


def _file_mode(name: str, value: object, _: bool) -> object:  # noqa: FBT001 - a rule
    allowed = '"rb", "wb" or "xb"'
    if not isinstance(value, str):
        wrong_type(name, allowed, value)
    if value not in {"rb", "wb", "xb"}:
        wrong_value(name, f"give {allowed}, not {value[:20]!a}; for text wrap the file in io.TextIOWrapper")
    return value


def _unchecked(_name: str, value: object, _: bool) -> object:  # noqa: FBT001 - a rule
    """Leave the check to the code that reads the value."""
    return value


def _id(name: str, value: object, _: bool) -> object:  # noqa: FBT001 - a rule
    return values.text(name, value, empty=False)


_RULES: Final[Mapping[str, _Rule]] = {
    **{name: _plain(rule) for name, rule in {**WRITE_RULES, **READ_RULES}.items()},
    "allow_insecure_token": _plain(values.flag),
    "auth": _auth,
    "client": _unchecked,
    "connection": _unchecked,
    "data": _data,
    "destination": _plain(values.any_remote_path),
    "endpoint": _unchecked,
    "exist_ok": _plain(values.flag),
    "fsync": _plain(values.flag),
    "idle_timeout": _plain(values.seconds),
    "local": _plain(values.local_path),
    "missing_ok": _plain(values.flag),
    "path": _plain(values.any_remote_path),
    "permissions": _plain(values.mode),
    "preserve_mode": _plain(values.flag),
    "preserve_mtime": _plain(values.flag),
    "progress": _progress,
    "recursive": _plain(values.flag),
    "remote": _plain(values.remote_path),
    "replace": _plain(values.flag),
    "retry": _instance(RetryPolicy),
    "sink": _sink,
    "source": _source,
    "source_version": _plain(values.text),
    "timeout": _plain(values.time_limit),
    "tls": _instance(TlsConfig),
    "upload_id": _plain(values.text),
    "workspace": _plain(values.text),
}

#: Names that mean something else in one method.
_SPECIAL: Final[Mapping[tuple[str, str], _Rule]] = {
    ("open", "mode"): _file_mode,
    ("open", "leaf_link"): _plain(WRITE_RULES["leaf_link"]),
    ("make_directory", "mode"): _plain(values.directory_mode),
    ("move", "source"): _plain(values.any_remote_path),
    ("copy", "source"): _plain(values.any_remote_path),
    ("upload_archive", "source"): _path_or_source,
    ("download_archive", "source"): _plain(values.any_remote_path),
    ("download_archive", "sink"): _path_or_sink,
    ("upload_tree", "source"): _plain(values.local_path),
    ("download_tree", "source"): _plain(values.any_remote_path),
    ("download_tree", "destination"): _plain(values.local_path),
    ("copy", "leaf_link"): _plain(STAT_RULES["leaf_link"]),
    ("stat", "digest"): _plain(STAT_RULES["digest"]),
    ("stat", "leaf_link"): _plain(STAT_RULES["leaf_link"]),
    ("upload_status", "upload_id"): _id,
    ("abort_upload", "upload_id"): _id,
    ("__init__", "timeout"): _plain(values.seconds),
    ("_use", "timeout"): _plain(values.seconds),
}
