"""Checks what callers give to the public methods, before anything else happens.

`checked` finds the rule of each argument by its name, so a name means the same
in every method and in both flavours. A parameter without a rule is a bug that
shows when the class is made.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar, cast

from openshell_files import _values as values
from openshell_files._values import wrong_type, wrong_value
from openshell_files.auth import ClientCredentials, OidcAuth
from openshell_files.options import Condition, Durability, LeafLink, RetryPolicy, TlsConfig

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: A rule: name, value, and whether the method may await. Returns the value to go on with.
_Rule = Callable[[str, object, bool], object]

_DIGESTS: Final = ("auto", "sha256", "blake3")


def checked(method: Callable[_P, _T]) -> Callable[_P, _T]:
    """Check every argument of a method by the rule for its name.

    Raises:
        TypeError: a parameter of the method has no rule.
    """
    signature = inspect.signature(method)
    may_await = inspect.iscoroutinefunction(method)
    rules = dict[str, _Rule]()
    for name in list(signature.parameters)[1:]:
        rule = _SPECIAL.get((method.__name__, name)) or _RULES.get(name)
        if rule is None:
            raise TypeError(f"{method.__qualname__}: {name} has no rule in {__name__}")
        rules[name] = rule

    def bound(args: tuple[object, ...], kwargs: Mapping[str, object]) -> inspect.BoundArguments:
        given = signature.bind(*args, **kwargs)
        for name, value in given.arguments.items():
            if name in rules:
                given.arguments[name] = rules[name](name, value, may_await)
        return given

    if may_await:
        awaited = cast("Callable[..., Awaitable[object]]", method)

        @wraps(method)
        async def asynchronous(*args: object, **kwargs: object) -> object:
            given = bound(args, kwargs)
            return await awaited(*given.args, **given.kwargs)

        return cast("Callable[_P, _T]", asynchronous)

    @wraps(method)
    def blocking(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        given = bound(args, kwargs)
        return method(*given.args, **given.kwargs)

    return blocking


def _source(name: str, value: object, may_await: bool) -> object:  # noqa: FBT001 - a rule
    """Check content: what can be told before the first byte is read."""
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


def _digest(name: str, value: object, _: bool) -> object:  # noqa: FBT001 - a rule
    allowed = " or ".join(f'"{word}"' for word in _DIGESTS)
    if not isinstance(value, str):
        wrong_type(name, allowed, value)
    if value not in _DIGESTS:
        wrong_value(name, f"give {allowed}, not {value[:100]!a}")
    return value


def _digest_or_flag(name: str, value: object, among: bool) -> object:  # noqa: FBT001 - a rule
    return value if isinstance(value, bool) else _digest(name, value, among)


def _condition(name: str, value: object, _: bool) -> object:  # noqa: FBT001 - a rule
    if value is not None and not isinstance(value, Condition):
        wrong_type(
            name, "Condition.absent(), .present(), .digest(digest) or .version(version), or None", value
        )
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
    """Make a rule of a check that does not care about the flavour."""
    return lambda name, value, _: check(name, value)


def _optional(check: Callable[[str, object], object]) -> _Rule:
    return lambda name, value, _: None if value is None else check(name, value)


def _file_mode(name: str, value: object, _: bool) -> object:  # noqa: FBT001 - a rule
    allowed = '"rb", "wb" or "xb"'
    if not isinstance(value, str):
        wrong_type(name, allowed, value)
    if value not in {"rb", "wb", "xb"}:
        wrong_value(name, f"give {allowed}, not {value[:20]!a}; for text wrap the file in io.TextIOWrapper")
    return value


def _leaf_link(other: LeafLink | None = None) -> _Rule:
    """Make the rule of a method that refuses or follows links, and perhaps does another thing."""

    def rule(name: str, value: object, _: bool) -> object:  # noqa: FBT001 - a rule
        found = values.choice(name, value, LeafLink)
        allowed = [LeafLink.REFUSE, LeafLink.FOLLOW, *([] if other is None else [other])]
        if found not in allowed:
            use = "uploads" if found is LeafLink.REPLACE else "stat"
            names = " or ".join(f"LeafLink.{link.name}" for link in allowed)
            wrong_value(name, f"{LeafLink(found).name} is only for {use}: give {names}")
        return found

    return rule


def _whatever(_name: str, value: object, _: bool) -> object:  # noqa: FBT001 - a rule
    """Leave a value to the one place that reads it."""
    return value


def _id(name: str, value: object, _: bool) -> object:  # noqa: FBT001 - a rule
    return values.text(name, value, empty=False)


_RULES: Final[Mapping[str, _Rule]] = {
    "allow_changes": _plain(values.flag),
    "allow_insecure_token": _plain(values.flag),
    "auth": _auth,
    "client": _whatever,
    "condition": _condition,
    "connection": _whatever,
    "data": _data,
    "digest": _digest,
    "durability": _plain(lambda name, value: values.choice(name, value, Durability)),
    "endpoint": _whatever,
    "fsync": _plain(values.flag),
    "idle_timeout": _plain(values.seconds),
    "if_version": _plain(values.text),
    "keep_read_only": _plain(values.flag),
    "leaf_link": _leaf_link(LeafLink.REPLACE),
    "length": _optional(values.number),
    "local": _plain(values.local_path),
    "max_bytes": _optional(values.number),
    "mode": _plain(values.mode),
    # The calendar's limits are the protocol's, which the request knows.
    "modified_ns": _optional(lambda name, value: values.number(name, value, least=-(1 << 70), most=1 << 70)),
    "offset": _plain(values.number),
    "parents": _plain(values.flag),
    "preserve_mode": _plain(values.flag),
    "permissions": _plain(values.mode),
    "preserve_mtime": _plain(values.flag),
    "progress": _progress,
    "remote": _plain(values.remote_path),
    "retry": _instance(RetryPolicy),
    "sink": _sink,
    "skip_identical": _plain(values.flag),
    "source": _source,
    "tail": _optional(lambda name, value: values.number(name, value, least=1)),
    "timeout": _plain(values.time_limit),
    "tls": _instance(TlsConfig),
    "upload_id": _plain(values.text),
    "workspace": _plain(values.text),
}

#: The same name with another meaning in one method.
_SPECIAL: Final[Mapping[tuple[str, str], _Rule]] = {
    ("open", "mode"): _file_mode,
    ("stat", "digest"): _digest_or_flag,
    ("stat", "leaf_link"): _leaf_link(LeafLink.NOFOLLOW),
    **{
        (method, "leaf_link"): _leaf_link()
        for method in ("download_path", "download", "iter_download", "read_bytes")
    },
    ("upload_status", "upload_id"): _id,
    ("abort_upload", "upload_id"): _id,
    ("__init__", "timeout"): _plain(values.seconds),
    ("_use", "timeout"): _plain(values.seconds),
}
