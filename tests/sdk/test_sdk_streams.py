"""Sources of an upload that are no regular file, as one table."""

from __future__ import annotations

import array
import io
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from fake_file_gateway import FakeGateway
from openshell_files import AsyncFilesClient
from openshell_files.errors import DeadlineExceeded, LocalFileChanged, LocalFileError, LocalIsADirectory
from sdk_flavours import big_content

CONTENT = big_content()


class Reader:
    """A file object with only what the test gives it."""

    def __init__(self, read: Callable[[int], object], **more: object) -> None:
        self.read = read
        self.__dict__.update(more)


def lazy_read() -> Callable[[int], object]:
    """Return a read that has nothing every second time."""
    file, calls = io.BytesIO(CONTENT), iter(range(1_000_000))
    return lambda size: None if next(calls) % 2 else file.read(size)


def blocking_error_read() -> Callable[[int], object]:
    file, calls = io.BytesIO(CONTENT), iter(range(1_000_000))

    def read(size: int) -> bytes:
        if next(calls) % 2:
            raise BlockingIOError
        return file.read(min(size, 100_000))

    return read


def reading(answer: Callable[[io.BytesIO, int], object]) -> Callable[[], Any]:
    """Return what makes a reader that answers from a file in its own way."""

    def make() -> Reader:
        file = io.BytesIO(CONTENT)
        return Reader(lambda size: answer(file, size))

    return make


def one_buffer(kind: Callable[[bytearray], object]) -> Iterator[object]:
    """Yield one buffer several times, each time with other content."""
    file, buffer = io.BytesIO(CONTENT), bytearray(70_001)
    while count := file.readinto(buffer):
        piece = kind(buffer)
        yield piece if count == len(buffer) else bytes(buffer[:count])
        buffer[:] = bytes(len(buffer))


def slow_pipe(*, blocking: bool, buffered: bool) -> Any:
    """Return the reading end of a pipe whose writer makes pauses."""
    reading, writing = os.pipe()
    os.set_blocking(reading, blocking)

    def write() -> None:
        with os.fdopen(writing, "wb", buffering=0) as file:
            for start in range(0, len(CONTENT), 500_000):
                view = memoryview(CONTENT)[start : start + 500_000]
                while view:
                    view = view[file.write(view) or 0 :]
                time.sleep(0.02)

    threading.Thread(target=write, daemon=True).start()
    return os.fdopen(reading, "rb", buffering=-1 if buffered else 0)


def socket_file() -> Any:
    left, right = socket.socketpair()

    def send() -> None:
        with right:
            right.sendall(CONTENT)

    threading.Thread(target=send, daemon=True).start()
    file = left.makefile("rb")
    left.close()
    return file


class ShortSeekable(io.BytesIO):
    """Reads less than it is asked for."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 0, 10_007))


class SilentSeek(io.BytesIO):
    """Its `seek` returns nothing, as those of many file-like objects."""

    def seek(self, *args: int) -> None:  # type: ignore[override]  # that is the point
        super().seek(*args)


SOURCES: dict[str, Callable[[], Any]] = {
    "read gives None": lambda: Reader(lazy_read()),
    "read raises BlockingIOError": lambda: Reader(blocking_error_read()),
    "non-blocking pipe": lambda: slow_pipe(blocking=False, buffered=False),
    "non-blocking pipe, buffered": lambda: slow_pipe(blocking=False, buffered=True),
    "blocking pipe": lambda: slow_pipe(blocking=True, buffered=True),
    "socket file": socket_file,
    "generator of one bytearray": lambda: one_buffer(lambda buffer: buffer),
    "generator of one memoryview": lambda: one_buffer(memoryview),
    "read gives memoryview": reading(lambda file, size: memoryview(file.read(size))),
    "read gives bytearray": reading(lambda file, size: bytearray(file.read(size))),
    "read gives more than asked": reading(lambda file, size: file.read(size * 3 + 1)),
    "seekable with short reads": lambda: ShortSeekable(CONTENT),
    "seek that returns nothing": lambda: SilentSeek(CONTENT),
    "array": lambda: array.array("B", CONTENT),
    "memoryview that is not in one row": lambda: memoryview(bytes(b for byte in CONTENT for b in (byte, 0)))[
        ::2
    ],
    "seekable that lies": lambda: Reader(
        io.BytesIO(CONTENT).read, seekable=lambda: True, tell=lambda: _raise(OSError("no"))
    ),
    "empty pieces between": lambda: iter([b"", CONTENT[:5], b"", CONTENT[5:], b""]),
}


def _raise(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_is_read_to_its_end(gateway: FakeGateway, sandbox: Any, kind: str) -> None:
    """UPL-3: what arrives is what the source gave, whole."""
    source = SOURCES[kind]()
    result = sandbox.upload(source, "x")
    assert gateway.files["x"].content == CONTENT
    assert result.size == len(CONTENT)
    if hasattr(source, "close"):
        source.close()


async def _answer(value: object) -> object:
    return value


WRONG_SOURCES: dict[str, tuple[Callable[[], Any], str]] = {
    "read gives str": (lambda: Reader(lambda _size: "x"), "source: gives str"),
    "generator of str": (lambda: iter(["x"]), "source: gives str"),
    "read gives True": (lambda: Reader(lambda _size: True), "source: gives bool"),
    "read gives False": (lambda: Reader(lambda _size: False), "source: gives bool"),
    "read gives int": (lambda: Reader(lambda _size: 0), "source: gives int"),
    "read gives list": (lambda: Reader(lambda _size: []), "source: gives list"),
    "generator of None": (lambda: iter([None]), "source: gives NoneType"),
    "generator of int": (lambda: iter([1]), "source: gives int"),
    "str behind much content": (lambda: iter([CONTENT, "x"]), "source: gives str"),
}


@pytest.mark.parametrize("kind", WRONG_SOURCES)
def test_what_gives_no_bytes_is_named(gateway: FakeGateway, sandbox: Any, kind: str) -> None:
    make, words = WRONG_SOURCES[kind]
    with pytest.raises(TypeError, match=words):
        sandbox.upload(make(), "x")
    assert "x" not in gateway.files
    assert all(not upload.staged for upload in gateway.uploads.values())


def test_a_seekable_file_that_gives_too_much_is_refused(gateway: FakeGateway, sandbox: Any) -> None:
    class Greedy(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read((size or 0) + 1)

    with pytest.raises(ValueError, match=r"source: read.*more than it was asked for"):
        sandbox.upload(Greedy(CONTENT), "x")
    assert "x" not in gateway.files


@pytest.mark.parametrize("change", [b"", CONTENT + b"1"])
def test_a_file_object_that_changes_is_refused(gateway: FakeGateway, sandbox: Any, change: bytes) -> None:
    """It grows or shrinks while it is read."""
    file = io.BytesIO(CONTENT)

    def resize(progress: Any) -> None:
        if progress.transferred:
            at = file.tell()
            file.seek(0)
            file.truncate()
            file.write(change)
            file.seek(at)

    with pytest.raises(LocalFileChanged):
        sandbox.upload(file, "x", progress=resize)
    assert "x" not in gateway.files


@pytest.mark.parametrize(
    "source", ["/proc/cpuinfo", "/proc/self/cmdline", "/sys/kernel/mm/transparent_hugepage/enabled"]
)
@pytest.mark.parametrize("way", ["path", "buffered", "unbuffered"])
def test_sizes_that_are_made_up(gateway: FakeGateway, sandbox: Any, source: str, way: str) -> None:
    """The kernel's files say 0 bytes, or a page, and are read to their real end."""
    expected = Path(source).read_bytes()
    if way == "path":
        result = sandbox.upload_path(source, "x")
    else:
        with open(source, "rb", buffering=-1 if way == "buffered" else 0) as file:
            result = sandbox.upload(file, "x")
    sent = gateway.files["x"].content
    assert result.size == len(sent)
    if source == "/proc/cpuinfo":
        # Its clock rates change from one read to the next.
        assert sent.count(b"processor") == expected.count(b"processor")
    else:
        assert sent == expected


def test_a_device_that_says_it_can_seek(gateway: FakeGateway, sandbox: Any) -> None:
    with open("/dev/null", "rb") as file:
        sandbox.upload(file, "x")
    assert gateway.files["x"].content == b""
    with open("/dev/zero", "rb") as file, pytest.raises(DeadlineExceeded):
        sandbox.upload(file, "y", timeout=0.5)


@pytest.mark.parametrize("call", ["fstat", "pread", "open"])
@pytest.mark.parametrize("error", [BlockingIOError(11, "not now"), OSError(5, "broken")])
def test_what_is_refused_of_a_path_names_it(
    sandbox: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: OSError
) -> None:
    """Such as /proc/kmsg, which can be opened and read, and has nothing now."""
    path = tmp_path / "source"
    path.write_bytes(b"content")
    honest = getattr(os, call)

    def refuse(what: Any, *more: Any) -> Any:
        named = what if isinstance(what, str) else os.readlink(f"/proc/self/fd/{what}")
        if named == str(path):
            raise error
        return honest(what, *more)

    monkeypatch.setattr(f"openshell_files._local.source_file.os.{call}", refuse)
    with pytest.raises(LocalFileError, match=r"cannot read .*source"):
        sandbox.upload_path(path, "x")


@pytest.mark.parametrize("position", [3, 4, 1 << 40])
def test_a_file_object_behind_its_end_has_nothing(gateway: FakeGateway, sandbox: Any, position: int) -> None:
    file = io.BytesIO(b"abc")
    file.seek(position)
    assert sandbox.upload(file, "x").size == 0
    assert gateway.files["x"].content == b""


def test_a_directory_is_no_source(sandbox: Any, tmp_path: Path) -> None:
    with pytest.raises(LocalIsADirectory):
        sandbox.upload_path(tmp_path, "x")


@pytest.mark.parametrize("given", [b"", b"x" * 300_000])
def test_a_pipe_that_gives_nothing_heeds_the_timeout(
    gateway: FakeGateway, sandbox: Any, given: bytes
) -> None:
    """K11: a source that waits is a long local step, too."""
    reading, writing = os.pipe()
    threading.Thread(target=os.write, args=(writing, given), daemon=True).start()
    with os.fdopen(reading, "rb") as file, pytest.raises(DeadlineExceeded):
        sandbox.upload(file, "x", timeout=0.5)
    os.close(writing)
    assert all(not upload.staged for upload in gateway.uploads.values())


async def test_an_asynchronous_reader(gateway: FakeGateway) -> None:
    """A `read` that has to be awaited, also where `read` is no coroutine function."""
    file = io.BytesIO(CONTENT)
    async with AsyncFilesClient(gateway.address) as client:
        await client.sandbox("demo").upload(cast("Any", Reader(lambda size: _answer(file.read(size)))), "x")
    assert gateway.files["x"].content == CONTENT
