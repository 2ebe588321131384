"""An upload that no caller can resume is freed, whatever ends it and wherever that is raised (RSM-37)."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conditions import block_until, until
from fake_file_gateway import FakeGateway, FakeUpload, Stall
from openshell_files import AsyncFilesClient, FilesClient, Progress
from openshell_files.errors import unfinished_upload
from openshell_files_protocol.pb.openshell.v1 import files_pb2


class OwnError(BaseException):
    """A caller's own way to end everything, as test runners and schedulers have one."""


DATA = bytes(4_000_000)

ENDS = [GeneratorExit, OwnError, SystemExit, KeyboardInterrupt, ValueError, StopIteration, StopAsyncIteration]


def nothing_left(gateway: FakeGateway) -> bool:
    return bool(gateway.uploads) and all(
        upload.state == files_pb2.UPLOAD_STATE_ABORTED and not upload.staged
        for upload in gateway.uploads.values()
    )


def stream(end: type[BaseException] | None = None) -> Iterator[bytes]:
    for _ in range(40):
        yield bytes(100_000)
    if end is not None:
        raise end


async def async_stream(end: type[BaseException] | None = None) -> AsyncIterator[bytes]:
    for piece in stream():
        yield piece
    if end is not None:
        raise end


class Pieces:
    """An iterable that is no generator: what it raises is raised as it is."""

    def __init__(self, end: type[BaseException]) -> None:
        self._end = end
        self._left = 40

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise self._end
        return bytes(100_000)


def raising(end: type[BaseException], at: int = 1) -> Any:
    def stop(progress: Progress) -> None:
        if progress.transferred >= at:
            raise end

    return stop


#: What is given to `upload`, by where the end is raised.
WHERE: dict[str, Callable[[type[BaseException]], tuple[Any, Any]]] = {
    "first callback": lambda end: (stream(), raising(end, 0)),
    "callback": lambda end: (stream(), raising(end)),
    "last callback": lambda end: (stream(), raising(end, 4_000_000)),
    "callback of a stream in a loop": lambda end: (async_stream(), raising(end)),
    "generator": lambda end: (stream(end), None),
    "generator in a loop": lambda end: (async_stream(end), None),
    "iterator": lambda end: (Pieces(end), None),
}

CASES = [
    (where, end)
    for where in WHERE
    for end in ENDS
    # Otherwise it is the end of the content.
    if (where, end) != ("iterator", StopIteration)
]
#: Cannot be told from the closing of a coroutine, in which nothing is waited for.
CLOSING = ("generator in a loop", GeneratorExit)


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "forgotten"])
@pytest.mark.parametrize(("where", "end"), [case for case in CASES if "loop" not in case[0]])
def test_the_blocking_flavour(
    gateway: FakeGateway, where: str, end: type[BaseException], *, closed: bool
) -> None:
    source, progress = WHERE[where](end)
    client = FilesClient(gateway.address)
    with pytest.raises((end, RuntimeError)):
        client.sandbox("demo").upload(source, "x", progress=progress)
    if closed:
        client.close()
    block_until(lambda: nothing_left(gateway), "the upload is freed", patience=20)
    client.close()


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "forgotten"])
@pytest.mark.parametrize(("where", "end"), CASES)
def test_the_asynchronous_flavour(
    gateway: FakeGateway, where: str, end: type[BaseException], *, closed: bool
) -> None:
    """Also if the client is forgotten, and the loop ends with the error."""
    if (where, end) == CLOSING:
        closed = True
    source, progress = WHERE[where](end)

    async def main() -> None:
        client = AsyncFilesClient(gateway.address)
        try:
            await client.sandbox("demo").upload(source, "x", progress=progress)
        finally:
            if closed:
                await client.aclose()

    with pytest.raises((end, RuntimeError)):
        asyncio.run(main())
    block_until(lambda: nothing_left(gateway), "the upload is freed", patience=20)


@pytest.mark.parametrize("end", ENDS)
def test_a_callback_that_ends_everything_is_waited_for(
    gateway: FakeGateway, end: type[BaseException]
) -> None:
    """Nobody interrupted the caller, so nothing is left when it hears of its error."""
    with FilesClient(gateway.address) as client:
        with pytest.raises((end, RuntimeError)):
            client.sandbox("demo").upload(stream(), "x", progress=raising(end))
        assert nothing_left(gateway)


class Flow:
    """Says when an upload has begun to flow; it stands still then."""

    def __init__(self, gateway: FakeGateway) -> None:
        self.flowing = threading.Event()
        gateway.on_upload_message = self._hook

    def _hook(self, _number: int, upload: FakeUpload, _request: files_pb2.UploadFileRequest) -> None:
        if upload.staged:
            self.flowing.set()
            raise Stall


def test_a_loop_that_ends_behind_a_cancelled_upload(gateway: FakeGateway) -> None:
    """The loop cancels what frees it, too, and waits for what it cancels."""
    flow = Flow(gateway)

    async def main() -> None:
        uploading = asyncio.create_task(AsyncFilesClient(gateway.address).sandbox("demo").upload(DATA, "x"))
        await until(flow.flowing.is_set, "content flows")
        uploading.cancel()
        await uploading

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert nothing_left(gateway)


#: Source of an upload whose client is closed by another thread, whether a callback gets the id, and whether the upload is left.
CLOSED = [
    (lambda: DATA, False, False),
    (lambda: DATA, True, True),
    (lambda: io.BytesIO(DATA), False, False),
    (stream, False, False),
    (stream, True, False),
]


def told(*_: Progress) -> None:
    """A callback that hears the upload's name."""


@pytest.mark.parametrize(("source", "tells", "kept"), CLOSED)
async def test_a_client_that_is_closed_while_another_task_uploads(
    gateway: FakeGateway, source: Any, *, tells: bool, kept: bool
) -> None:
    flow = Flow(gateway)
    async with AsyncFilesClient(gateway.address) as client:
        files = client.sandbox("demo")
        uploading = asyncio.create_task(files.upload(source(), "x", progress=told if tells else None))
        await until(flow.flowing.is_set, "content flows")
    assert nothing_left(gateway) is not kept
    with pytest.raises(RuntimeError, match="closed") as caught:
        await uploading
    left = unfinished_upload(caught.value)
    assert (left is not None and left.upload_id == "upload-1") is kept


@pytest.mark.parametrize(("source", "tells", "kept"), CLOSED)
def test_a_client_that_is_closed_while_another_thread_uploads(
    gateway: FakeGateway, source: Any, *, tells: bool, kept: bool
) -> None:
    flow = Flow(gateway)
    with ThreadPoolExecutor(1) as threads:
        with FilesClient(gateway.address) as client:
            files = client.sandbox("demo")
            uploading = threads.submit(files.upload, source(), "x", progress=told if tells else None)
            block_until(flow.flowing.is_set, "content flows")
        assert nothing_left(gateway) is not kept
        with pytest.raises(RuntimeError, match="closed") as caught:
            uploading.result(60)
    left = unfinished_upload(caught.value)
    assert (left is not None and left.upload_id == "upload-1") is kept


@pytest.mark.parametrize("way", ["the end", "an exception", "sys.exit(0)"])
def test_a_writer_that_is_open_when_the_interpreter_ends(gateway: FakeGateway, way: str) -> None:
    program = """
import sys
from openshell_files import FilesClient
file = FilesClient(sys.argv[1]).sandbox("demo").open("x", "wb")
file.write(bytes(4 << 20))
"""
    program += {"an exception": "1 / 0", "the end": "", "sys.exit(0)": "sys.exit(0)"}[way]
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", program, gateway.address],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == (way == "an exception")
    assert b"'x' was not closed, so it was not published" in done.stderr
    assert "x" not in gateway.files
    block_until(lambda: nothing_left(gateway), "the upload is freed", patience=20)
