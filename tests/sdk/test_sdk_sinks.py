"""Sinks of a download that are no regular file, as one table."""

from __future__ import annotations

import asyncio
import codecs
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from conditions import PATIENCE_SECONDS
from fake_file_gateway import FakeFile, FakeGateway
from openshell_files import AsyncFilesClient
from openshell_files.errors import DeadlineExceeded, LocalFileError
from sdk_flavours import big_content

CONTENT = big_content()


class Reader:
    """A file object with only what the test gives it."""

    def __init__(self, read: Callable[[int], object], **more: object) -> None:
        self.read = read
        self.__dict__.update(more)


def reading(answer: Callable[[io.BytesIO, int], object]) -> Callable[[], Any]:
    """Return what makes a reader that answers from a file in its own way."""

    def make() -> Reader:
        file = io.BytesIO(CONTENT)
        return Reader(lambda size: answer(file, size))

    return make


class Writer:
    """A file object with only a `write`, which answers as the test says."""

    def __init__(self, answer: Callable[[int], object]) -> None:
        self.taken = bytearray()
        self._answer = answer

    def write(self, data: bytes) -> object:
        answer = self._answer(len(data))
        self.taken += data if answer is None else data[: cast("int", answer)]
        return answer


class LazyRaw(io.RawIOBase):
    """Takes nothing every second time, as a non-blocking descriptor does."""

    def __init__(self) -> None:
        self.taken = bytearray()
        self._calls = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int | None:
        self._calls += 1
        if self._calls % 2:
            return None
        self.taken += bytes(data)[:50_000]
        return min(len(data), 50_000)


class Full(Writer):
    """Raises BlockingIOError after a part, as a BufferedWriter does."""

    def write(self, data: bytes) -> object:
        if len(data) > 100:
            self.taken += data[:100_00]
            error = BlockingIOError(11, "full")
            error.characters_written = min(len(data), 100_00)
            raise error
        return super().write(data)


SINKS: dict[str, Callable[[], Any]] = {
    "all at once": lambda: Writer(lambda size: size),
    "a part": lambda: Writer(lambda size: min(size, 9_973)),
    "no count": lambda: Writer(lambda _: None),
    "raw and not ready": LazyRaw,
    "BlockingIOError": lambda: Full(lambda size: size),
}


@pytest.mark.parametrize("kind", SINKS)
def test_every_sink_gets_everything_once(gateway: FakeGateway, sandbox: Any, kind: str) -> None:
    """DWN-10."""
    gateway.files["x"] = FakeFile(CONTENT)
    sink = SINKS[kind]()
    assert sandbox.download("x", sink).size == len(CONTENT)
    assert sink.taken == CONTENT


def test_a_codec_writer(gateway: FakeGateway, sandbox: Any) -> None:
    """The `StreamWriter` of codecs answers nothing."""
    gateway.files["x"] = FakeFile(CONTENT)
    below = io.BytesIO()
    sandbox.download("x", codecs.lookup("hex").streamwriter(below))
    assert bytes.fromhex(below.getvalue().decode()) == CONTENT


@pytest.mark.parametrize("answer", [0, -1, 1 << 40, "all", True, False, 1.0, b"", [1]])
def test_a_sink_that_takes_nothing_is_an_error(gateway: FakeGateway, sandbox: Any, answer: object) -> None:
    gateway.files["x"] = FakeFile(CONTENT)

    class Liar:
        def write(self, _data: bytes) -> object:
            return answer

    with pytest.raises(LocalFileError, match="write answered"):
        sandbox.download("x", Liar())


async def test_an_asynchronous_writer(gateway: FakeGateway) -> None:
    """A stream of the event loop, whose room is waited for by `drain`."""
    gateway.files["x"] = FakeFile(CONTENT)

    class Draining:
        def __init__(self) -> None:
            self.taken = bytearray()
            self.drained = 0

        def write(self, data: bytes) -> None:
            self.taken += data

        async def drain(self) -> None:
            self.drained += 1

    async with AsyncFilesClient(gateway.address) as client:
        sink = Draining()
        await client.sandbox("demo").download("x", cast("Any", sink))
    assert sink.taken == CONTENT
    assert sink.drained


@pytest.mark.parametrize("buffering", [0, -1])
@pytest.mark.parametrize("kind", ["blocking", "not blocking"])
def test_a_pipe_that_takes_nothing_heeds_the_timeout(
    gateway: FakeGateway, sandbox: Any, kind: str, buffering: int
) -> None:
    """A sink that blocks delays the timeout for one step only; the transfer continues when the reader reads."""
    gateway.files["x"] = FakeFile(CONTENT)
    reading, writing = os.pipe()
    os.set_blocking(writing, kind == "blocking")
    file = os.fdopen(writing, "wb", buffering)
    with pytest.raises(DeadlineExceeded):
        sandbox.download("x", file, timeout=0.5)
    got = bytearray()

    def drain() -> None:
        while data := os.read(reading, 1 << 20):
            got.extend(data)

    before = threading.Thread(target=drain)
    before.start()
    sandbox.download("x", file, timeout=60)
    file.close()
    before.join()
    os.close(reading)
    assert got.endswith(CONTENT)
    assert CONTENT.startswith(got[: -len(CONTENT)])


def test_a_fifo_that_takes_nothing_heeds_the_timeout(
    gateway: FakeGateway, sandbox: Any, tmp_path: Path
) -> None:
    gateway.files["x"] = FakeFile(CONTENT)
    os.mkfifo(tmp_path / "fifo")
    reading = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(DeadlineExceeded):
        sandbox.download_path("x", tmp_path / "fifo", timeout=0.5)
    os.close(reading)


def test_a_path_that_takes_no_more_is_named(gateway: FakeGateway, sandbox: Any) -> None:
    """Not its descriptor."""
    gateway.files["x"] = FakeFile(CONTENT)
    with pytest.raises(LocalFileError, match="cannot write /dev/full: No space left"):
        sandbox.download_path("x", "/dev/full")


async def _for_ever(*_: object) -> None:
    await asyncio.get_running_loop().create_future()


class _Draining:
    def __init__(self) -> None:
        self.drain = _for_ever

    def write(self, _data: bytes) -> None:
        pass


class _Awaited:
    def write(self, _data: bytes) -> object:
        return _for_ever()


class _Blocking:
    def write(self, _data: bytes) -> None:
        threading.Event().wait()


ENDLESS_SINKS: dict[str, Callable[[], Any]] = {
    "coroutine function": lambda: _for_ever,
    "write answers an awaitable": _Awaited,
    "drain": _Draining,
    "write blocks": _Blocking,
}


@pytest.mark.parametrize("kind", ENDLESS_SINKS)
async def test_an_asynchronous_sink_that_takes_nothing_heeds_the_timeout(
    gateway: FakeGateway, kind: str
) -> None:
    gateway.files["x"] = FakeFile(CONTENT)
    async with AsyncFilesClient(gateway.address) as client:
        async with asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises(DeadlineExceeded):
                await client.sandbox("demo").download("x", ENDLESS_SINKS[kind](), timeout=0.5)
