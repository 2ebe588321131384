"""The time runs out, or the connection is lost, around the finish of an upload (RSM-25, RSM-38)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from broken_streams import LOST, raising
from conditions import block_until
from fake_file_gateway import FakeGateway, FakeUpload, PlainStatus, Stall
from no_gateway import Refusing
from openshell_files import NO_RETRY, RetryPolicy
from openshell_files.errors import (
    DeadlineExceeded,
    FilesError,
    OutcomeUnknown,
    Unauthenticated,
    Unavailable,
)
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from sdk_flavours import Connect


def at_the_finish(error: BaseException) -> Callable[..., None]:
    """Return a hook that raises when the finish has come."""

    def hook(_number: int, _upload: FakeUpload, request: files_pb2.UploadFileRequest) -> None:
        if request.HasField("finish"):
            raise error

    return hook


def leave(error: BaseException) -> Callable[..., None]:
    def end(*_: object) -> None:
        raise error

    return end


def nothing_left(gateway: FakeGateway) -> bool:
    aborted = files_pb2.UPLOAD_STATE_ABORTED
    return all(upload.state == aborted and not upload.staged for upload in gateway.uploads.values())


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
    """RSM-38: the answer to AbortUpload is the outcome."""
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
