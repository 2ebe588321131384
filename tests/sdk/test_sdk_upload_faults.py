"""Faults during an upload: lost replies, damage, refusals, a changed source, silence."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import grpc
import pytest
from broken_streams import LOST, break_after
from digest_values import words_of
from fake_file_gateway import FakeGateway, FakeUpload, PlainStatus, Stall
from openshell_files import NO_RETRY, Progress, RetryPolicy, SandboxFiles
from openshell_files.errors import (
    DeadlineExceeded,
    DiskFull,
    FileExists,
    IntegrityError,
    LocalFileChanged,
    OutcomeUnknown,
    SourceNotReplayable,
    Unavailable,
    UploadSuperseded,
)
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MAX_CHUNK_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from sdk_flavours import QUICK, Connect, big_content


def started(gateway: FakeGateway) -> list[files_pb2.StartUploadRequest]:
    return cast("list[files_pb2.StartUploadRequest]", gateway.method_calls(methods.START_UPLOAD))


@pytest.mark.parametrize("size", [5, 1_000_000])
def test_lost_reply_is_success(gateway: FakeGateway, sandbox: SandboxFiles, size: int) -> None:
    """RSM-7: published, but the answer was lost: asking finds out, by request id or upload id."""

    def lose(number: int) -> None:
        if number == 1:
            raise LOST

    gateway.after_publish = lose
    gateway.verifying_answers = 2
    result = sandbox.write_bytes("x", os.urandom(size))
    assert gateway.streams(methods.UPLOAD_FILE) == 1, "nothing is sent twice"
    assert len(gateway.method_calls(methods.GET_UPLOAD)) == 3, "VERIFYING is waited for"
    asked = cast("files_pb2.GetUploadRequest", gateway.method_calls(methods.GET_UPLOAD)[0])
    assert bool(asked.upload_id) == (size > 5)
    assert result.size == size


def test_lost_reply_and_nobody_to_ask(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    """RSM-25: "cannot know" is its own answer, not a failure and not a success."""

    def lose(_number: int) -> None:
        raise LOST

    gateway.after_publish = lose
    gateway.failures[methods.GET_UPLOAD].extend([LOST] * 20)
    with pytest.raises(OutcomeUnknown) as caught:
        sandbox.write_bytes("x", os.urandom(1_000_000))
    assert caught.value.upload_id == "upload-1"
    assert sandbox_status(gateway) == files_pb2.UPLOAD_STATE_PUBLISHED


def sandbox_status(gateway: FakeGateway) -> int:
    return gateway.uploads["upload-1"].state


def test_small_file_that_never_arrived_is_sent_again(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    """The second try has the first one's request id, so that both cannot publish."""
    gateway.failures[methods.UPLOAD_FILE].append(PlainStatus(grpc.StatusCode.UNAVAILABLE, "no route"))
    sandbox.write_bytes("x", b"1")
    first, second = (messages[0].metadata for messages in gateway.upload_messages)
    assert first.request_id == second.request_id
    assert gateway.files["x"].content == b"1"


def test_small_file_that_broke_in_the_middle_goes_on(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    def hook(number: int, _upload: FakeUpload, request: files_pb2.UploadFileRequest) -> None:
        if number == 1 and request.HasField("finish"):
            raise LOST

    gateway.on_upload_message = hook
    result = sandbox.write_bytes("x", b"12345")
    assert gateway.files["x"].content == b"12345"
    assert result.resumed_from == 5
    assert len(gateway.uploads) == 1


def test_flipped_bit_resends_from_the_staged_offset(
    gateway: FakeGateway, sandbox: SandboxFiles, big: Path
) -> None:
    """UPL-25: a damaged chunk costs that chunk, not the file."""

    def flip(number: int, _upload: FakeUpload, request: files_pb2.UploadFileRequest) -> None:
        if number == 1 and request.data.offset == MAX_CHUNK_BYTES:
            request.data.data = b"\xff" + request.data.data[1:]

    gateway.on_upload_message = flip
    result = sandbox.upload_path(big, "big")
    assert gateway.files["big"].content == big.read_bytes()
    assert gateway.upload_messages[1][1].data.offset == MAX_CHUNK_BYTES
    assert (result.attempts, result.resumed_from) == (2, MAX_CHUNK_BYTES)


def test_damage_behind_the_checksum_starts_over(
    gateway: FakeGateway, sandbox: SandboxFiles, big: Path
) -> None:
    """UPL-29: DIGEST_MISMATCH frees the upload; a new one is sent from the start."""

    def damage(number: int, upload: FakeUpload, request: files_pb2.UploadFileRequest) -> None:
        if number == 1 and request.HasField("finish"):
            upload.staged[7] ^= 1

    gateway.on_upload_message = damage
    result = sandbox.upload_path(big, "big")
    assert gateway.files["big"].content == big.read_bytes()
    assert (result.upload_id, result.attempts) == ("upload-2", 2)
    first, second = started(gateway)
    assert first.metadata.request_id != second.metadata.request_id


def test_damage_that_does_not_end_is_an_error(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    def damage(_number: int, upload: FakeUpload, request: files_pb2.UploadFileRequest) -> None:
        if request.HasField("finish"):
            upload.staged[7] ^= 1

    gateway.on_upload_message = damage
    with pytest.raises(IntegrityError) as caught:
        sandbox.write_bytes("x", os.urandom(1_000_000))
    assert caught.value.reason == "DIGEST_MISMATCH"
    assert caught.value.upload_id == "", "what is freed cannot be resumed"
    assert gateway.streams(methods.UPLOAD_FILE) == QUICK.attempts


def test_staged_bytes_that_went_bad_are_noticed(
    gateway: FakeGateway, sandbox: SandboxFiles, big: Path
) -> None:
    """RSM-15 inside one call: the staged prefix is compared, and found to be another."""
    gateway.on_upload_message = break_after(2)

    def spoil_then_pass(number: int, upload: FakeUpload, request: files_pb2.UploadFileRequest) -> None:
        breaking = break_after(2) if number == 1 else None
        if breaking and request.data.offset == MAX_CHUNK_BYTES * 2:
            upload.staged[0] ^= 1
            raise LOST

    gateway.on_upload_message = spoil_then_pass
    result = sandbox.upload_path(big, "big")
    assert gateway.files["big"].content == big.read_bytes()
    assert result.upload_id == "upload-2"
    assert gateway.uploads["upload-1"].state == files_pb2.UPLOAD_STATE_ABORTED


def test_refusal_while_sending_is_the_servers_word(
    gateway: FakeGateway, sandbox: SandboxFiles, big: Path
) -> None:
    """UPL-13: a server that answers without reading on is heard; nothing else is made of it."""
    gateway.failures[methods.UPLOAD_FILE].append(TransferError(Reason.FILE_EXISTS, "big: is there"))
    with pytest.raises(FileExists, match="big: is there"):
        sandbox.upload_path(big, "big")
    assert gateway.streams(methods.UPLOAD_FILE) == 1


def test_superseded_is_left_to_the_newer(gateway: FakeGateway, sandbox: SandboxFiles, big: Path) -> None:
    """RSM-18."""

    def overtake(_number: int, upload: FakeUpload, _request: files_pb2.UploadFileRequest) -> None:
        upload.epoch += 1

    gateway.on_upload_message = overtake
    with pytest.raises(UploadSuperseded):
        sandbox.upload_path(big, "big")
    assert gateway.streams(methods.UPLOAD_FILE) == 1


def test_waits_as_long_as_the_server_says(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    """The pause of RetryInfo is respected; beyond the policy's limit the call fails."""
    full = TransferError(Reason.DISK_FULL, "full", retry_delay=3600.0)
    gateway.failures[methods.START_UPLOAD].append(full)
    with pytest.raises(DiskFull) as caught:
        sandbox.write_bytes("x", big_content())
    assert caught.value.retry_delay == 3600.0
    assert [method for method, _ in gateway.calls].count(methods.START_UPLOAD) == 1
    gateway.failures[methods.START_UPLOAD].append(
        TransferError(Reason.TOO_MANY_UPLOADS, "wait", retry_delay=0.01)
    )
    sandbox.write_bytes("x", big_content())
    assert gateway.files["x"].content == big_content()


def test_changed_source_is_not_published(gateway: FakeGateway, sandbox: SandboxFiles, big: Path) -> None:
    """The file is compared before the finish; the upload is aborted."""

    def touch(progress: Progress) -> None:
        if progress.transferred and progress.transferred < (progress.total or 0):
            with big.open("r+b") as file:
                file.write(b"changed")
            os.utime(big, ns=(5, 5))

    with pytest.raises(LocalFileChanged):
        sandbox.upload_path(big, "big", progress=touch)
    assert "big" not in gateway.files
    assert all(not m.HasField("finish") for m in gateway.upload_messages[0])
    assert gateway.uploads["upload-1"].state == files_pb2.UPLOAD_STATE_ABORTED


@pytest.mark.parametrize("grow", [True, False])
def test_source_of_another_size_is_not_published(
    gateway: FakeGateway, sandbox: SandboxFiles, big: Path, *, grow: bool
) -> None:
    size = big.stat().st_size

    def resize(progress: Progress) -> None:
        if progress.transferred and progress.transferred < size:
            os.truncate(big, size + 1 if grow else 1)

    with pytest.raises(LocalFileChanged):
        sandbox.upload_path(big, "big", progress=resize)
    assert "big" not in gateway.files


def test_stream_that_cannot_go_back(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    gateway.on_upload_message = break_after(1)

    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(100_000)

    with pytest.raises(SourceNotReplayable) as caught:
        sandbox.upload(pieces(), "x")
    assert isinstance(caught.value.__cause__, Unavailable)
    assert "x" not in gateway.files
    assert gateway.uploads["upload-1"].state == files_pb2.UPLOAD_STATE_ABORTED


def test_lost_reply_to_a_stream_is_success(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    """A stream that was sent completely needs not be sent again to learn that it is there."""

    def lose(_number: int) -> None:
        raise LOST

    gateway.after_publish = lose
    result = sandbox.upload(iter([big_content()]), "x")
    assert gateway.files["x"].content == big_content()
    assert result.digest == words_of(big_content())


def test_file_object_goes_back(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    gateway.on_upload_message = break_after(1)
    result = sandbox.upload(io.BytesIO(big_content()), "x")
    assert gateway.files["x"].content == big_content()
    assert result.resumed_from == MAX_CHUNK_BYTES


def test_silence_ends_the_attempt(gateway: FakeGateway, connect: Connect, big: Path) -> None:
    """The idle watchdog: a server that neither reads nor answers is left."""
    gateway.on_upload_message = break_after(0, streams=1, error=Stall())
    result = connect(idle_timeout=0.5).upload_path(big, "big")
    assert result.attempts == 2
    gateway.on_upload_message = break_after(0, streams=100, error=Stall())
    with pytest.raises(DeadlineExceeded) as caught:
        connect(idle_timeout=0.2, retry=NO_RETRY).write_bytes("y", b"small")
    assert isinstance(caught.value, TimeoutError)


def test_timeout_ends_everything(gateway: FakeGateway, connect: Connect, big: Path) -> None:
    gateway.on_upload_message = break_after(0, streams=1000)
    patient = RetryPolicy(attempts=1000, initial_delay=0.05, max_delay=0.05)
    with pytest.raises(DeadlineExceeded) as caught:
        connect(retry=patient).upload_path(big, "big", timeout=0.5)
    assert caught.value.reason in {"TIMEOUT", "DEADLINE_EXCEEDED"}


def test_gateway_restart_in_the_middle(gateway: FakeGateway, connect: Connect, big: Path) -> None:
    """RSM-3: the server goes away while content flows, and comes back."""
    restarted: list[bool] = []

    def restart(progress: Progress) -> None:
        if progress.transferred > MAX_CHUNK_BYTES and not restarted:
            restarted.append(True)
            gateway.stop()
            gateway.start()

    patient = RetryPolicy(attempts=10, initial_delay=0.3, max_delay=1.0)
    result = connect(retry=patient).upload_path(big, "big", progress=restart)
    assert gateway.files["big"].content == big.read_bytes()
    assert result.attempts >= 2


def test_lying_answer_is_an_error(gateway: FakeGateway, sandbox: SandboxFiles, big: Path) -> None:
    """What the answer says was published is compared with what was sent."""

    def lie(_number: int) -> None:
        gateway.uploads["upload-1"].result.file.digest.value = bytes(32)  # type: ignore[union-attr]  # just published

    gateway.after_publish = lie
    with pytest.raises(IntegrityError, match="not the source's"):
        sandbox.upload_path(big, "big")
