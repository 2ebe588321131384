"""How an upload ends without success: what is told, what is kept, what is freed."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from conditions import block_until, until
from fake_file_gateway import FakeGateway, FakeUpload, PlainStatus, Stall
from no_gateway import Refusing
from openshell_files import NO_RETRY, AsyncFilesClient, FilesClient, Progress, RetryPolicy
from openshell_files._core.digests import ContentDigest
from openshell_files._core.upload.cleanup import EndedUpload, must_be_freed
from openshell_files.errors import (
    DeadlineExceeded,
    DiskFull,
    FilesError,
    OutcomeUnknown,
    Unauthenticated,
    Unavailable,
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
LOST = TransferError(Reason.RELAY_LOST, "the relay broke")
FULL = TransferError(Reason.DISK_FULL, "the disk is full")


def raising(error: BaseException, *, after_chunks: int = 1) -> Callable[..., None]:
    """Return a hook that raises in the server after so many messages of a stream."""
    seen: dict[int, int] = {}

    def hook(number: int, _upload: FakeUpload, _request: files_pb2.UploadFileRequest) -> None:
        seen[number] = seen.get(number, 0) + 1
        if seen[number] > after_chunks:
            raise error

    return hook


def at_the_finish(error: BaseException) -> Callable[..., None]:
    """Return a hook that raises when the finish has come."""

    def hook(_number: int, _upload: FakeUpload, request: files_pb2.UploadFileRequest) -> None:
        if request.HasField("finish"):
            raise error

    return hook


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


# A2: behind the finish


@pytest.mark.parametrize("size", [5, 1_000_000])
def test_time_that_runs_out_behind_the_finish_is_no_failure(
    gateway: FakeGateway, connect: Connect, size: int
) -> None:
    """RSM-7: published, but the answer does not come in time: the file is found to be there."""
    gateway.after_publish = leave(Stall())
    result = connect().write_bytes("x", bytes(size), timeout=0.6)
    assert result.size == len(gateway.files["x"].content) == size
    assert gateway.streams(methods.UPLOAD_FILE) == 1


@pytest.mark.parametrize("size", [5, 1_000_000])
def test_time_that_runs_out_and_nobody_to_ask(gateway: FakeGateway, connect: Connect, size: int) -> None:
    gateway.after_publish = leave(Stall())
    for method in (methods.GET_UPLOAD, methods.START_UPLOAD):
        gateway.failures[method].extend([None] * (method == methods.START_UPLOAD and size > 5) + [LOST] * 40)
    with pytest.raises(OutcomeUnknown) as caught:
        connect().write_bytes("x", bytes(size), timeout=0.6)
    assert caught.value.upload_id == ("upload-1" if size > 5 else "")


def test_time_that_runs_out_before_the_finish_was_carried_out(gateway: FakeGateway, connect: Connect) -> None:
    """RSM-5, RSM-7: the upload is taken over, so "not published" stays true; it can be gone on with."""
    gateway.on_upload_message = at_the_finish(Stall())
    with pytest.raises(DeadlineExceeded) as caught:
        connect().write_bytes("x", bytes(1_000_000), timeout=0.6)
    assert not isinstance(caught.value, OutcomeUnknown)
    assert (caught.value.upload_id, caught.value.staged) == ("upload-1", 1_000_000)
    assert gateway.uploads["upload-1"].epoch > 1


#: Ways in which the time for a small file runs out behind its finish: (WriteFile, admitted): (error, aborted uploads).
SMALL_TIMEOUTS: dict[tuple[bool, bool], tuple[type[FilesError], int]] = {
    (True, False): (OutcomeUnknown, 0),
    (True, True): (DeadlineExceeded, 1),
    (False, False): (OutcomeUnknown, 1),
    (False, True): (DeadlineExceeded, 1),
}


@pytest.mark.parametrize(("way", "end"), SMALL_TIMEOUTS.items())
def test_time_that_runs_out_for_a_small_file(
    gateway: FakeGateway, connect: Connect, way: tuple[bool, bool], end: tuple[type[FilesError], int]
) -> None:
    """RSM-38, RSM-37: the question admits nothing, and what the call began is aborted.

    While the call may be under way without being admitted, nobody can tell: UPLOAD_UNKNOWN is no answer (RSM-25).
    """
    writes, admitted = way
    kind, aborted = end
    sandbox = connect()
    gateway.has_write = writes
    sandbox.write_bytes("first", b"1")
    sandbox.write_bytes("first", b"1")
    gateway.uploads.clear()
    gateway.calls.clear()
    if admitted:
        gateway.on_upload_message = at_the_finish(Stall())
    else:
        gateway.failures[methods.UPLOAD_FILE].append(Stall())
    with pytest.raises(FilesError) as caught:
        sandbox.write_bytes("x", b"hello", timeout=0.6)
    assert (type(caught.value), caught.value.upload_id) == (kind, "")
    block_until(
        lambda: not sandbox.uploads() and len(gateway.method_calls(methods.ABORT_UPLOAD)) == aborted,
        "what the call began is aborted",
    )
    assert len(gateway.uploads) == aborted
    assert nothing_left(gateway)
    # Only a caller that frees an UploadFile under way claims its request id, to abort it.
    assert len(gateway.method_calls(methods.START_UPLOAD)) == (not writes and not admitted)
    assert "x" not in gateway.files


def test_a_small_file_that_is_published_while_it_is_aborted(gateway: FakeGateway, connect: Connect) -> None:
    """RSM-7: the answer to AbortUpload is the outcome."""
    sandbox = connect()
    sandbox.write_bytes("first", b"1")
    gateway.on_upload_message = at_the_finish(Stall())

    def publish() -> None:
        upload = next(reversed(gateway.uploads.values()))
        gateway.publish(upload)

    gateway.before[methods.ABORT_UPLOAD] = publish
    assert sandbox.write_bytes("x", b"hello", timeout=0.6).size == 5
    assert gateway.files["x"].content == b"hello"


def test_time_that_runs_out_while_content_flows(gateway: FakeGateway, connect: Connect, big: Path) -> None:
    gateway.on_upload_message = raising(Stall(), after_chunks=2)
    with pytest.raises(DeadlineExceeded) as caught:
        connect().upload_path(big, "x", timeout=0.6)
    assert caught.value.upload_id == "upload-1"
    assert caught.value.staged is not None
    gateway.on_upload_message = None
    assert connect().upload_path(big, "x", upload_id="upload-1").resumed_from > 0


@pytest.mark.parametrize(
    "word",
    [
        PlainStatus(grpc.StatusCode.UNKNOWN, "Stream removed"),
        PlainStatus(grpc.StatusCode.INTERNAL, "a proxy's"),
        TransferError(Reason.INTERNAL, "a bug behind the rename"),
        TransferError(Reason.IO_ERROR, "the directory could not be flushed"),
    ],
    ids=str,
)
def test_what_is_no_verdict_is_asked_for(gateway: FakeGateway, connect: Connect, word: Exception) -> None:
    """RSM-25: an error that says nothing of the finish is no failure of it."""
    gateway.after_publish = leave(word)
    assert connect(retry=NO_RETRY).write_bytes("x", bytes(1_000_000)).replayed is False
    assert gateway.files["x"].content == bytes(1_000_000)


def test_a_token_that_is_refused_behind_the_finish(gateway: FakeGateway, connect: Connect) -> None:
    """RSM-25: that nobody may ask does not mean that nothing was published."""
    gateway.after_publish = leave(LOST)
    gateway.failures[methods.GET_UPLOAD].append(TransferError(Reason.TOKEN_EXPIRED, "expired"))
    with pytest.raises(OutcomeUnknown) as caught:
        connect().write_bytes("x", bytes(1_000_000))
    assert isinstance(caught.value.__cause__, Unauthenticated)


# A3: the finish did not leave


@pytest.mark.parametrize("state", ["nobody", "closes", "silent"])
@pytest.mark.parametrize("size", [0, 5, 1_000_000])
def test_a_finish_that_never_left_is_a_plain_failure(
    connect: Connect, gateway: FakeGateway, state: str, size: int
) -> None:
    """RSM-25: only what a connection has taken can have been carried out."""
    where = Refusing(state)
    gateway.address = where.address
    try:
        with pytest.raises((Unavailable, DeadlineExceeded)) as caught:
            connect(
                retry=RetryPolicy(attempts=2, initial_delay=0), timeout=0.3, idle_timeout=0.3
            ).write_bytes("x", bytes(size))
    finally:
        where.close()
    assert not isinstance(caught.value, OutcomeUnknown)


@pytest.mark.parametrize("has_write", [False, True])
def test_a_gateway_that_went_away_between_two_files(
    gateway: FakeGateway, connect: Connect, *, has_write: bool
) -> None:
    gateway.has_write = has_write
    sandbox = connect(retry=NO_RETRY)
    sandbox.write_bytes("first", b"1")
    gateway.stop()
    # A call under way with the end of the connection may have reached the gateway, for all that its caller knows.
    with pytest.raises(Unavailable):
        sandbox.stat("first")
    for _ in range(20):
        with pytest.raises(Unavailable):
            sandbox.write_bytes("x", b"2")


@pytest.mark.parametrize(
    "reason",
    [Reason.SUPERVISOR_NOT_CONNECTED, Reason.RELAY_REFUSED, Reason.TOO_MANY_TRANSFERS, Reason.TOKEN_EXPIRED],
)
@pytest.mark.parametrize("has_write", [False, True])
def test_refused_at_the_door_is_not_unknown(
    gateway: FakeGateway, connect: Connect, reason: Reason, *, has_write: bool
) -> None:
    gateway.has_write = has_write
    sandbox = connect(retry=RetryPolicy(attempts=2, initial_delay=0))
    sandbox.write_bytes("first", b"1")
    for method in (methods.UPLOAD_FILE, methods.GET_UPLOAD, methods.START_UPLOAD):
        gateway.failures[method].extend([TransferError(reason, "at the door")] * 9)
    with pytest.raises(FilesError) as caught:
        sandbox.write_bytes("x", b"2")
    assert caught.value.reason == reason.name


# B1: what nobody can resume


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
    """RSM-37: `asyncio.wait_for` on a write that nobody can go on with."""
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


# K11, section I


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
    """RSM-4: a boundary behind the one gone back to belongs to other bytes by now."""
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
