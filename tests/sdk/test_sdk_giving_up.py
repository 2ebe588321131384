"""Cleanup after an upload without success: which staged bytes are freed, and which are left (RSM-37)."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from broken_streams import LOST, raising
from conditions import block_until, until
from fake_file_gateway import FakeGateway, FakeUpload, PlainStatus, Stall
from openshell_files import NO_RETRY, AsyncFilesClient, FilesClient, Progress, RetryPolicy
from openshell_files._core.digests import ContentDigest
from openshell_files._core.upload.cleanup import EndedUpload, must_be_freed
from openshell_files.errors import (
    DeadlineExceeded,
    DiskFull,
    OutcomeUnknown,
    UploadInterrupted,
    unfinished_upload,
)
from openshell_files_protocol import methods
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from sdk_flavours import Connect, big_content

RECEIVING, ABORTED = files_pb2.UPLOAD_STATE_RECEIVING, files_pb2.UPLOAD_STATE_ABORTED
FULL = TransferError(Reason.DISK_FULL, "the disk is full")


def stream(count: int = 40, last: Callable[[], None] = lambda: None) -> Iterator[bytes]:
    for _ in range(count):
        yield bytes(100_000)
    last()


def leave(error: BaseException) -> Callable[..., None]:
    def end(*_: object) -> None:
        raise error

    return end


def nothing_left(gateway: FakeGateway) -> bool:
    return all(upload.state == ABORTED and not upload.staged for upload in gateway.uploads.values())


# Uploads that no caller can resume


def test_the_rule_of_what_is_freed() -> None:
    """RSM-37: an upload is left only if its caller knows it and can resume it."""
    cancelled, deliberate = asyncio.CancelledError(), ValueError()
    expected = {
        # (replayable, id given, id told): by a cancellation, by an exception of the caller's
        (True, True, True): (False, False),
        (True, True, False): (False, False),
        (True, False, True): (False, True),
        (True, False, False): (True, True),
        (False, False, True): (True, True),
        (False, False, False): (True, True),
    }
    for (replayable, given, told), wanted in expected.items():
        upload = EndedUpload("upload-1", True, False, replayable, given, told)
        assert (must_be_freed(upload, cancelled), must_be_freed(upload, deliberate)) == wanted


Source = Callable[[], Any]
SOURCES: dict[str, Source] = {
    "small bytes": lambda: bytes(1000),
    "bytes": big_content,
    "file object": lambda: io.BytesIO(big_content()),
    "stream": stream,
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("where", ["in the stream", "in StartUpload"])
async def test_cancelled_writes_leave_nothing(gateway: FakeGateway, kind: str, where: str) -> None:
    """RSM-37: `asyncio.wait_for` on a write that no caller can resume."""
    gateway.forgets_writes = True
    if where == "in the stream" or kind == "small bytes":
        gateway.on_upload_message = raising(Stall(), after_chunks=0)
    else:
        gateway.failures[methods.START_UPLOAD].append(Stall())
        gateway.on_upload_message = raising(Stall(), after_chunks=0)
    async with AsyncFilesClient(gateway.address) as client:
        files = client.sandbox("demo")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(files.upload(SOURCES[kind](), "x"), 0.3)
    await until(lambda: nothing_left(gateway), "nothing is left")


async def test_a_cancelled_write_that_is_told_its_name_is_kept(gateway: FakeGateway) -> None:
    """RSM-37: the caller's progress callback knows the upload, and the error behind the cancellation too."""
    gateway.on_upload_message = raising(Stall(), after_chunks=1)
    async with AsyncFilesClient(gateway.address) as client:
        files = client.sandbox("demo")
        with pytest.raises(TimeoutError) as caught:
            await asyncio.wait_for(files.upload(big_content(), "x", progress=lambda _: None), 0.3)
        left = unfinished_upload(caught.value)
        assert left is not None
        assert left.upload_id == "upload-1"
        assert f"upload {left.upload_id}" in str(caught.value.__cause__.__notes__)  # type: ignore[union-attr]
        gateway.on_upload_message = None
        result = await files.upload(big_content(), "x", upload_id=left.upload_id)
    assert result.resumed_from > 0
    assert not result.started_over


ENDS: dict[str, BaseException] = {
    "KeyboardInterrupt": KeyboardInterrupt(),
    "SystemExit": SystemExit(3),
    "ValueError": ValueError("the source's own"),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_a_generator_raises_frees_its_upload(gateway: FakeGateway, sandbox: Any, name: str) -> None:
    """RSM-37: the error is the generator's own, and nothing stays."""
    error = ENDS[name]
    with pytest.raises(type(error)) as caught:
        sandbox.upload(stream(last=leave(error)), "x")
    assert caught.value is error or isinstance(error, KeyboardInterrupt)
    block_until(lambda: nothing_left(gateway), "the upload is freed")


def test_a_callback_that_raises_frees_its_upload(gateway: FakeGateway, connect: Connect) -> None:
    """RSM-37: a deliberate end, unless the caller named the upload."""

    def stop(progress: Progress) -> None:
        if progress.transferred:
            raise ValueError("enough")

    sandbox = connect(retry=NO_RETRY)
    with pytest.raises(ValueError, match="enough"):
        sandbox.upload(big_content(), "x", progress=stop)
    assert nothing_left(gateway)
    gateway.on_upload_message = raising(LOST)
    with pytest.raises(UploadInterrupted) as caught:
        sandbox.upload(big_content(), "x")
    gateway.on_upload_message = None
    with pytest.raises(ValueError, match="enough"):
        sandbox.upload(big_content(), "x", progress=stop, upload_id=caught.value.upload_id)
    assert gateway.uploads[caught.value.upload_id].state == RECEIVING


@pytest.mark.parametrize("kind", SOURCES)
def test_a_full_disk_is_freed_and_told(gateway: FakeGateway, connect: Connect, kind: str) -> None:
    """RSM-37: what is staged is part of what fills the disk, and the error is the sandbox's own."""
    gateway.on_upload_message = raising(FULL, after_chunks=0)
    with pytest.raises(DiskFull) as caught:
        connect(retry=RetryPolicy(attempts=2, initial_delay=0)).upload(SOURCES[kind](), "x")
    assert (caught.value.reason, caught.value.upload_id, caught.value.path) == ("DISK_FULL", "", "x")
    assert nothing_left(gateway)


def test_freeing_hides_no_error_and_does_not_last(gateway: FakeGateway, connect: Connect) -> None:
    gateway.on_upload_message = raising(FULL)
    gateway.failures[methods.ABORT_UPLOAD].extend([Stall()] * 3)
    with pytest.raises(DiskFull):
        connect(retry=NO_RETRY).upload(stream(), "x")
    assert len(gateway.method_calls(methods.ABORT_UPLOAD)) == 1


@pytest.mark.parametrize("flavour", ["sync", "async"])
async def test_a_stream_that_is_unknown_is_freed_only_if_it_was_not_published(
    gateway: FakeGateway, flavour: str
) -> None:
    """Asked in the background, which the client's end waits for."""
    gateway.after_publish = leave(LOST)
    gateway.failures[methods.GET_UPLOAD].extend([LOST] * 2)

    def blocking() -> None:
        with FilesClient(gateway.address, retry=NO_RETRY) as client:
            client.sandbox("demo").upload(stream(), "x")

    async def in_the_loop() -> None:
        async with AsyncFilesClient(gateway.address, retry=NO_RETRY) as client:
            await client.sandbox("demo").upload(stream(), "x")

    with pytest.raises(OutcomeUnknown):
        await (asyncio.to_thread(blocking) if flavour == "sync" else in_the_loop())
    assert gateway.uploads["upload-1"].state == files_pb2.UPLOAD_STATE_PUBLISHED
    assert len(gateway.method_calls(methods.GET_UPLOAD)) >= 3, "it was asked for"
    assert not gateway.method_calls(methods.ABORT_UPLOAD)


@pytest.mark.parametrize("error_code", [1, 2, 7, 8, 11, 12])
def test_a_reset_stream_is_tried_again(gateway: FakeGateway, sandbox: Any, error_code: int) -> None:
    """Whatever code gRPC makes of HTTP/2's, no server has refused anything."""
    codes = {7: "UNAVAILABLE", 8: "CANCELLED", 11: "RESOURCE_EXHAUSTED", 12: "PERMISSION_DENIED"}
    status = grpc.StatusCode[codes.get(error_code, "INTERNAL")]
    broken = PlainStatus(status, f"Received RST_STREAM with error code {error_code}")

    def hook(number: int, upload: FakeUpload, _request: files_pb2.UploadFileRequest) -> None:
        if number == 1 and upload.staged:
            raise broken

    gateway.on_upload_message = hook
    assert sandbox.upload(big_content(), "x").resumed_from > 0


def test_resuming_that_starts_over_is_told(sandbox: Any) -> None:
    result = sandbox.upload(big_content(), "x", upload_id="forgotten")
    assert (result.started_over, result.resumed_from) == (True, 0)
    assert result.started_over_because == "the sandbox does not know it"
    of_a_stream = sandbox.upload(iter([big_content()]), "x", upload_id="forgotten")
    assert of_a_stream.started_over_because == "a stream cannot be resumed"
    assert not sandbox.upload(big_content(), "y").started_over


class Zeros(io.RawIOBase):
    """A file object of so many zeros."""

    def __init__(self, size: int) -> None:
        self._size, self._at = size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset if whence == 0 else self._size + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        count = min(size, self._size - self._at)
        self._at += count
        return bytes(count)


@pytest.mark.parametrize("what", ["hole", "zeros"])
def test_a_timeout_is_looked_at_while_the_source_is_hashed(
    gateway: FakeGateway, sandbox: Any, tmp_path: Path, what: str
) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(1 << 43)
    uploads: dict[str, Callable[[], Any]] = {
        "hole": lambda: sandbox.upload_path(sparse, "x", skip_identical=True, digest="sha256", timeout=0.3),
        "zeros": lambda: sandbox.upload(Zeros(1 << 62), "x", skip_identical=True, timeout=0.3),
    }
    with pytest.raises(DeadlineExceeded) as caught:
        uploads[what]()
    assert caught.value.reason == "TIMEOUT"
    assert not gateway.calls


def test_going_back_forgets_what_came_after() -> None:
    """RSM-15: a boundary behind the one gone back to belongs to other bytes by now."""
    digest = ContentDigest(DigestAlgorithm.BLAKE3)
    for piece in (b"a", b"b", b"c"):
        digest.update(piece)
    assert digest.rewind(1)
    digest.update(b"XY")
    assert digest.position == 3
    digest.update(b"Z")
    assert digest.rewind(3)
    other = ContentDigest(DigestAlgorithm.BLAKE3)
    other.update(b"aXY")
    assert digest.digest() == other.digest()
    assert digest.rewind(1)
    assert not digest.rewind(2), "a boundary of the bytes that were taken back"
