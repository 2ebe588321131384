"""Wrong arguments: refused before anything is sent, by a TypeError or ValueError that names the argument."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import io
import tempfile
from array import array
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, ClassVar, cast

import openshell_files
import pytest
from fake_file_gateway import FakeFile, FakeGateway
from openshell_files import (
    AsyncFilesClient,
    AsyncSandboxFiles,
    Condition,
    FilesClient,
    LeafLink,
    OidcAuth,
    ReadOptions,
    RetryPolicy,
    SandboxFiles,
    TlsConfig,
    WriteOptions,
)
from openshell_files.errors import FileTooLarge, InvalidPath, InvalidRequest
from openshell_files.options import ReadArguments, WriteArguments
from openshell_files.tree_options import TreeArguments, TreeOptions
from openshell_files_protocol.limits import MIB
from sdk_flavours import BlockingView

NO_TEXT = [None, 1, b"x", ["x"]]
NO_FLAG = [None, 0, 1, "yes"]
#: Python converts no such integer to a float or to text.
HUGE = 10**5000
NO_NUMBER = [True, "1", 1.0, b"1", -1, 1 << 63, -(1 << 70), 1 << 200, HUGE, -HUGE]
NO_TIME = [True, "1", b"1", 0, -1, -0.5, float("nan"), float("inf"), 1e300, 10**12, HUGE, -HUGE]
SURROGATE = "\udcff"
#: As `remote`, but for paths that may have bytes that are not UTF-8.
NO_PATH = [
    None,
    1,
    b"x",
    "",
    "a\0b",
    "\ud800",
    "..",
    "../x",
    "a/../b",
    PureWindowsPath("x"),
    PurePosixPath("a/../b"),
]
#: One pattern is no list of patterns. Wrong patterns in a list are in the tests of trees.
NO_PATTERNS = [None, 1, "*.py", b"*.py", {"*.py": 1}, [1], [b"*.py"]]
#: Type bits of a FIFO, a directory, a device, a link, a socket, and of nothing.
NO_FILE_TYPE = [0o10000, 0o40755, 0o60644, 0o120777, 0o140755, 0o170000, 0o110644]


class Closed(io.BytesIO):
    def __init__(self) -> None:
        super().__init__()
        self.close()


class WriteOnly(io.BytesIO):
    def readable(self) -> bool:
        return False


class ReadOnly(io.BytesIO):
    def writable(self) -> bool:
        return False


class WrappedText:
    """As `tempfile` wraps a text file: no child of `TextIOBase`."""

    encoding, errors = "utf-8", "strict"

    def read(self, _: int) -> str:
        return ""

    def write(self, _: str) -> int:
        return 0


class AwaitedFile:
    async def write(self, _: bytes) -> int:
        return 0


async def coroutine(_: object) -> None:
    """Nobody would await it."""


WRONG: dict[str, list[Any]] = {
    "local": [None, 1, b"x", "", "a\0b", object()],
    "remote": [None, 1, b"x", "", "a\0b", SURROGATE, "..", "../x", "a/../b", "a/..", "/x/../y", PureWindowsPath("x"),
               PurePosixPath("a/../b"), object()],
    "source": [None, 1, 1.5, True, "text", Path("x"), PurePosixPath("x"), {b"a": 1}, [1, 2], ["a"], (b"a", "b"), object(),
               io.StringIO("x"), WrappedText(), Closed(), WriteOnly(), coroutine],
    "data": [None, 1, "text", [b"x"], io.BytesIO(), Path("x")],
    "sink": [None, 1, "path", b"path", Path("x"), object(), io.StringIO(), WrappedText(), Closed(), ReadOnly(), AwaitedFile()],
    "mode": [True, "644", 0.5, -1, 0o200000, 1 << 64, HUGE, -HUGE, "rw", *NO_FILE_TYPE],
    "modified_ns": [True, "1", 1.5, 1 << 80, 10**30, -(10**30), HUGE, -HUGE],
    "preserve_mode": NO_FLAG,
    "preserve_mtime": NO_FLAG,
    "parents": NO_FLAG,
    "skip_identical": NO_FLAG,
    "fsync": NO_FLAG,
    "keep_read_only": NO_FLAG,
    "allow_changes": NO_FLAG,
    "leaf_link": [None, 1, "nofollow", "REFUSE", True, ""],
    "durability": [None, 1, "never", True],
    "condition": ["absent", True, 1, Condition, {"absent": True}],
    "digest": [None, 1, "md5", b"sha256", True],
    "upload_id": [*NO_TEXT, SURROGATE],
    "if_version": [*NO_TEXT, SURROGATE],
    "timeout": NO_TIME,
    "progress": [1, "bar", coroutine, object()],
    "offset": [None, *NO_NUMBER],
    "length": NO_NUMBER,
    "tail": [*NO_NUMBER, 0],
    "max_bytes": NO_NUMBER,
    "options": [1, True, "x", {"parents": True}, WriteOptions, RetryPolicy()],
    "path": NO_PATH,
    "destination": NO_PATH,
    "recursive": NO_FLAG,
    "exist_ok": NO_FLAG,
    "missing_ok": NO_FLAG,
    "replace": NO_FLAG,
    "source_version": [*NO_TEXT, SURROGATE],
    "include": NO_PATTERNS,
    "exclude": NO_PATTERNS,
    "gitignore": NO_FLAG,
    "delete": NO_FLAG,
    "checksum": NO_FLAG,
    "links": [None, 1, "nofollow", "KEEP", True, ""],
    "atomic": NO_FLAG,
    "dry_run": NO_FLAG,
}  # fmt: skip
#: In one method a value may be right that is wrong in others.
SPECIAL: dict[tuple[str, str], list[Any]] = {
    ("stat", "digest"): NO_FLAG,
    **{
        (method, "options"): [*WRONG["options"], ReadOptions()]
        for method in ("upload", "upload_path", "write_bytes")
    },
    **{
        (method, "options"): [*WRONG["options"], WriteOptions()]
        for method in ("download", "download_path", "iter_download", "read_bytes")
    },
    **{
        (method, "options"): [*WRONG["options"], ReadOptions(), WriteOptions()]
        for method in ("upload_tree", "download_tree")
    },
    # A path is right there.
    ("upload_archive", "source"): [
        value for value in WRONG["source"] if not isinstance(value, str | PurePath)
    ],
    ("download_archive", "source"): NO_PATH,
    ("download_archive", "sink"): [value for value in WRONG["sink"] if not isinstance(value, str | PurePath)],
    ("upload_tree", "source"): WRONG["local"],
    ("download_tree", "source"): NO_PATH,
    ("download_tree", "destination"): WRONG["local"],
    ("make_directory", "mode"): [True, "755", 0.5, -1, 0o200000, HUGE, -HUGE, 0o10000, 0o100644, 0o120777],
    ("move", "source"): NO_PATH,
    ("copy", "source"): NO_PATH,
    ("copy", "leaf_link"): [None, 1, "NOFOLLOW", True, "", LeafLink.REPLACE],
    ("stat", "leaf_link"): [None, 1, "NOFOLLOW", True, "", LeafLink.REPLACE],
    ("upload_status", "upload_id"): [*NO_TEXT, SURROGATE, ""],
    ("abort_upload", "upload_id"): [*NO_TEXT, SURROGATE, ""],
    ("download", "leaf_link"): [*WRONG["leaf_link"], LeafLink.REPLACE, "replace"],
    ("download_path", "leaf_link"): [*WRONG["leaf_link"], LeafLink.REPLACE],
    ("iter_download", "leaf_link"): [*WRONG["leaf_link"], LeafLink.REPLACE],
    ("read_bytes", "leaf_link"): [*WRONG["leaf_link"], LeafLink.REPLACE],
}
#: Right values of the parameters that have to be there.
RIGHT: dict[str, Any] = {
    "local": "/dev/null", "remote": "x", "source": b"", "data": b"", "sink": io.BytesIO(), "upload_id": "u",
    "path": "x", "destination": "y",
}  # fmt: skip
METHODS = [
    name
    for name, _ in inspect.getmembers(SandboxFiles, inspect.isfunction)
    if not name.startswith("_") and name != "open"
]


def rows() -> list[Any]:
    found = list[Any]()
    for method in METHODS:
        for name in list(inspect.signature(getattr(SandboxFiles, method)).parameters)[1:]:
            for index, value in enumerate(SPECIAL.get((method, name), WRONG[name])):
                found.append(pytest.param(method, name, value, id=f"{method}-{name}-{index}"))
    return found


def needed(method: str) -> dict[str, Any]:
    """Return right values of the parameters without a default."""
    parameters = list(inspect.signature(getattr(SandboxFiles, method)).parameters.values())[1:]
    empty = inspect.Parameter.empty
    path = not {"destination", "sink"}.isdisjoint(each.name for each in parameters)
    right = RIGHT | ({"source": "x"} if path else {})
    return {each.name: right[each.name] for each in parameters if each.default is empty}


@pytest.fixture(scope="module")
def nobody() -> Iterator[Callable[[str], Any]]:
    """Return a sandbox of each flavour behind an endpoint without a server."""
    runner = asyncio.Runner()
    blocking = FilesClient("127.0.0.1:1").sandbox("demo")
    awaiting = BlockingView(runner, AsyncFilesClient("127.0.0.1:1").sandbox("demo"))
    yield lambda flavour: blocking if flavour == "sync" else awaiting
    runner.close()


@pytest.mark.parametrize("flavour", ["sync", "async"])
@pytest.mark.parametrize(("method", "name", "value"), rows())
def test_wrong_arguments(
    nobody: Callable[[str], Any], flavour: str, method: str, name: str, value: Any
) -> None:
    """Nothing is sent: without a server, a call would raise another error."""
    call = getattr(nobody(flavour), method)
    with pytest.raises((TypeError, ValueError), match=rf"^(\w+: )?{name}\b") as caught:
        call(**(needed(method) | {name: value}))
    assert isinstance(caught.value, TypeError | InvalidRequest), "a ValueError is one of ours"
    if isinstance(caught.value, InvalidRequest):
        assert caught.value.field_violations[0].field == name


def test_both_flavours_have_the_same_parameters() -> None:
    for method in METHODS:
        ours, theirs = (
            list(inspect.signature(getattr(kind, method)).parameters)
            for kind in (SandboxFiles, AsyncSandboxFiles)
        )
        assert ours == theirs


def test_what_only_one_flavour_can_do(nobody: Callable[[str], Any]) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"

    with pytest.raises(TypeError, match="source: the blocking client cannot"):
        nobody("sync").upload(pieces(), "x")
    with pytest.raises(TypeError, match="sink: the blocking client cannot"):
        nobody("sync").download("x", coroutine)


# Option groups


@pytest.mark.parametrize(
    ("group", "method"),
    [(WriteOptions, "upload"), (ReadOptions, "download"), (TreeOptions, "upload_tree")],
)
def test_wrong_fields_of_an_option_group(group: Any, method: str) -> None:
    for field in dataclasses.fields(group):
        for value in SPECIAL.get((method, field.name), WRONG[field.name]):
            with pytest.raises((TypeError, ValueError), match=rf"^(\w+: )?{field.name}\b"):
                group(**{field.name: value})


@pytest.mark.parametrize(
    ("group", "keywords"),
    [(WriteOptions, WriteArguments), (ReadOptions, ReadArguments), (TreeOptions, TreeArguments)],
)
def test_keyword_arguments_are_the_fields(group: Any, keywords: Any) -> None:
    fields = {field.name: field.type for field in dataclasses.fields(group)}
    assert fields == {name: kind.__forward_arg__ for name, kind in keywords.__annotations__.items()}


@pytest.mark.parametrize("method", METHODS)
def test_unknown_keyword(nobody: Callable[[str], Any], method: str) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'parent'"):
        getattr(nobody("sync"), method)(**needed(method), parent=True)


def test_a_keyword_overrides_its_field(sandbox: SandboxFiles, gateway: FakeGateway) -> None:
    private = WriteOptions(mode=0o600, condition=Condition.absent())
    sandbox.write_bytes("x", b"12345", options=private)
    sandbox.write_bytes("x", b"12345", options=private, condition=None)
    sandbox.write_bytes("y", b"12345", options=private, mode=0o640)
    assert [gateway.files[name].mode & 0o777 for name in ("x", "y")] == [0o600, 0o640]
    end = ReadOptions(tail=3, max_bytes=4)
    assert sandbox.read_bytes("x", options=end) == b"345"
    assert sandbox.read_bytes("x", options=end, tail=None, offset=1) == b"2345"
    with pytest.raises(InvalidRequest, match="tail: give neither"):
        sandbox.read_bytes("x", options=end, offset=1)


@pytest.mark.parametrize(("group", "call", "limit"), [(None, 4, 4), (4, None, 4), (3, 4, 3), (4, 3, 3)])
def test_the_smaller_limit_applies(
    sandbox: SandboxFiles, gateway: FakeGateway, group: int | None, call: int | None, limit: int
) -> None:
    gateway.files["x"] = FakeFile(b"12345")
    with pytest.raises(FileTooLarge, match=f"max_bytes is {limit}"):
        sandbox.read_bytes("x", options=ReadOptions(max_bytes=group), max_bytes=call)


# Who and where


def shown(value: object) -> str:
    return "huge" if isinstance(value, int) and abs(value) == HUGE else str(value)


@pytest.mark.parametrize("kind", [FilesClient, AsyncFilesClient])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("endpoint", value) for value in (None, 1, b"x:1", "", SURROGATE)),
        *(("auth", value) for value in ("token", 1, {"token": "x"}, OidcAuth)),
        *(("workspace", value) for value in (*NO_TEXT, SURROGATE)),
        *(("tls", value) for value in (True, "ca.pem", TlsConfig)),
        *(("timeout", value) for value in (None, *NO_TIME)),
        *(("idle_timeout", value) for value in (None, *NO_TIME)),
        *(("retry", value) for value in (3, False, "never", RetryPolicy)),
        *(("allow_insecure_token", value) for value in NO_FLAG),
    ],
    ids=shown,
)
def test_wrong_clients(kind: Any, name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^(\w+: )?{name}\b"):
        kind(**({"endpoint": "127.0.0.1:1"} | {name: value}))


@pytest.mark.parametrize("kind", [FilesClient, AsyncFilesClient])
@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"name": SURROGATE}, "name"), ({"name": 1}, "name"), ({"name": None}, "name"), ({"name": b"x"}, "name"),
        ({"id": SURROGATE}, "id"), ({"id": 1}, "id"), ({"name": "x", "workspace": SURROGATE}, "workspace"),
        ({"name": "x", "workspace": 1}, "workspace"), ({}, "give"), ({"name": "x", "id": "y"}, "give"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_sandboxes(kind: Any, given: dict[str, Any], named: str) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^(\w+: )?{named}\b"):
        kind("127.0.0.1:1").sandbox(**given)


NAN, INFINITE = float("nan"), float("inf")


#: The same classes for wrong values, which type checkers would refuse.
UNTYPED: Any = openshell_files


@pytest.mark.parametrize(
    ("make", "named"),
    [
        *((lambda v=v: UNTYPED.RetryPolicy(attempts=v), "attempts") for v in (0, -1, True, 1.5, "3", None, HUGE, -HUGE)),
        *((lambda v=v: UNTYPED.RetryPolicy(outage_attempts=v), "outage_attempts") for v in (-1, 1.5)),
        *((lambda v=v: UNTYPED.RetryPolicy(on_retry=v), "on_retry") for v in (1, "x", True)),
        *((lambda v=v: UNTYPED.RetryPolicy(initial_delay=v), "initial_delay") for v in (-1, NAN, INFINITE, "1", None, HUGE, -HUGE)),
        *((lambda v=v: UNTYPED.RetryPolicy(max_delay=v), "max_delay") for v in (-1, NAN, True)),
        *((lambda v=v: UNTYPED.RetryPolicy(max_server_delay=v), "max_server_delay") for v in (-1, NAN)),
        *((lambda v=v: UNTYPED.RetryPolicy(multiplier=v), "multiplier") for v in (0.5, 0, NAN, INFINITE, "2", HUGE, -HUGE)),
        *((lambda v=v: UNTYPED.TlsConfig(ca_path=v), "ca_path") for v in (1, b"x", "")),
        *((lambda v=v: UNTYPED.OidcAuth(v), "token") for v in (None, 1, b"x")),
        *((lambda v=v: UNTYPED.ClientCredentials(v, "me", "s"), "issuer") for v in (None, 1, "", SURROGATE)),
        *((lambda v=v: UNTYPED.ClientCredentials("https://x", v, "s"), "client_id") for v in (None, "", SURROGATE)),
        *((lambda v=v: UNTYPED.ClientCredentials("https://x", "me", v), "client_secret") for v in (None, b"s", SURROGATE)),
        *((lambda v=v: UNTYPED.ClientCredentials("https://x", "me", "s", timeout=v), "timeout") for v in (0, NAN, "1")),
        *((lambda v=v: UNTYPED.Condition.digest(v), "digest|condition") for v in (None, 1, "", "zz", "0" * 64, "sha256:" + "0" * 63, "md5:" + "0" * 64, b"x")),
        *((lambda v=v: UNTYPED.Condition.version(v), "version") for v in (None, 1, "", SURROGATE)),
        (lambda: UNTYPED.Condition("absent", "x"), "condition"),
        (lambda: UNTYPED.Condition("digest"), "condition"),
        (lambda: UNTYPED.Condition("newer"), "condition"),
    ],
)  # fmt: skip
def test_wrong_options(make: Callable[[], object], named: str) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^(\w+: )?({named})\b"):
        make()


# What is right


@pytest.mark.parametrize(
    ("remote", "sent"),
    [
        ("x", "x"), ("./x", "x"), ("a//b", "a/b"), ("a/./b", "a/b"), ("././a", "a"), ("/x", "/x"), ("//x", "/x"),
        ("/../x", "/x"), ("/./../../x", "/x"), ("x/", "x/"), ("x//", "x/"), ("x/.", "x/"), (".", "."), ("./", "."),
        ("/", "/"), ("//", "/"), ("/..", "/"), ("...", "..."), ("..x/y", "..x/y"), (" ", " "), ("é\n*", "é\n*"),
        (PurePosixPath("a/b"), "a/b"), (PurePosixPath("/a"), "/a"), (Path("a/./b"), "a/b"),
    ],
    ids=str,
)  # fmt: skip
def test_remote_paths(
    sandbox: SandboxFiles, gateway: FakeGateway, remote: str | PurePosixPath, sent: str
) -> None:
    """PTH-2: what needs no disk is written as the protocol wants it (ADR 0026)."""
    gateway.files[sent] = FakeFile(b"content")
    assert sandbox.stat(remote).size == 7
    assert sandbox.read_bytes(remote) == b"content"
    sandbox.write_bytes(remote, b"new")
    assert gateway.files[sent].content == b"new"


@pytest.mark.parametrize("remote", ["a/../b", "..", "a/b/../../c"])
def test_a_path_that_needs_the_disk(nobody: Callable[[str], Any], remote: str) -> None:
    with pytest.raises(InvalidPath, match="name the file directly") as caught:
        nobody("sync").stat(remote)
    assert caught.value.path == remote


class Number:
    """As numpy's integers."""

    def __index__(self) -> int:
        return 2


class Somewhere:
    """As py.path's: no child of `Path`."""

    directory: ClassVar[Path]

    def __init__(self, name: str) -> None:
        self.name = name

    def __fspath__(self) -> str:
        return str(self.directory / self.name)


def test_right_values_of_other_kinds(sandbox: SandboxFiles, gateway: FakeGateway, tmp_path: Path) -> None:
    Somewhere.directory = tmp_path
    sandbox.upload(memoryview(b"a-b-c")[::2], "x")
    assert gateway.files["x"].content == b"abc"
    sandbox.upload(cast("Any", array("B", b"array")), "x", leaf_link=LeafLink.FOLLOW)
    assert gateway.files["x"].content == b"array"
    sandbox.upload(
        cast("Any", [b"a", bytearray(b"b"), memoryview(b"c")]), "x", leaf_link=cast("Any", "follow")
    )
    assert gateway.files["x"].content == b"abc"
    assert sandbox.read_bytes("x", offset=cast("Any", Number())) == b"c"
    sandbox.download_path("x", Somewhere("y"), mode=0o100600)
    assert (tmp_path / "y").read_bytes() == b"abc"
    sandbox.upload_path(Somewhere("y"), "z", timeout=3_000_000_000)
    assert gateway.files["z"].content == b"abc"
    with tempfile.NamedTemporaryFile() as file:
        sandbox.download("x", cast("Any", file))
        file.seek(0)
        sandbox.upload(cast("Any", file), "w")
    assert gateway.files["w"].content == b"abc"
    sandbox.upload(iter([b"x" * MIB]), "v", mode=0o100755)
    assert len(gateway.files["v"].content) == MIB
