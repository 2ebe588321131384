"""Resuming an upload: after a broken connection, and by a later process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import pytest
from broken_streams import break_after
from fake_file_gateway import FakeGateway
from openshell_files import NO_RETRY, Progress, RetryPolicy, SandboxFiles
from openshell_files.errors import (
    UploadInterrupted,
)
from openshell_files_protocol import methods
from openshell_files_protocol.limits import MAX_CHUNK_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from sdk_flavours import QUICK, Connect, big_content


def test_goes_on_at_the_staged_offset(gateway: FakeGateway, sandbox: SandboxFiles, big: Path) -> None:
    """RSM-4, RSM-15, RSM-5: asks, takes over, compares, and sends only the rest."""
    gateway.on_upload_message = break_after(2)
    result = sandbox.upload_path(big, "big")
    assert gateway.files["big"].content == big.read_bytes()
    assert (result.attempts, result.resumed_from) == (2, 2 * MAX_CHUNK_BYTES)
    second = gateway.upload_messages[1]
    assert (second[0].metadata.upload_id, second[0].metadata.epoch) == ("upload-1", 2)
    assert second[1].data.offset == 2 * MAX_CHUNK_BYTES
    assert [name for name, _ in gateway.calls][3:] == [
        methods.GET_UPLOAD,
        methods.START_UPLOAD,
        methods.GET_UPLOAD,
        methods.UPLOAD_FILE,
    ]
    asked = cast("list[files_pb2.GetUploadRequest]", gateway.method_calls(methods.GET_UPLOAD))
    assert [request.include_digest for request in asked] == [False, True]


def test_progress_falls_back_to_what_is_kept(gateway: FakeGateway, sandbox: SandboxFiles, big: Path) -> None:
    gateway.on_upload_message = break_after(2)
    seen: list[Progress] = []
    sandbox.upload_path(big, "big", progress=seen.append)
    second = [p for p in seen if p.attempt == 2]
    assert second[0].transferred == 2 * MAX_CHUNK_BYTES
    assert {p.staged for p in second[:-1]} == {2 * MAX_CHUNK_BYTES}
    assert {p.durable for p in second[:-1]} == {MAX_CHUNK_BYTES}


def test_many_breaks_with_progress_are_not_too_many(gateway: FakeGateway, connect: Connect) -> None:
    """The budget counts tries without progress: each stream that stages a chunk resets it."""
    gateway.on_upload_message = break_after(1, streams=100)
    gateway.max_chunk_bytes = 256 * 1024
    content = big_content()
    result = connect(retry=RetryPolicy(attempts=2, initial_delay=0)).upload(content, "x")
    assert gateway.files["x"].content == content
    assert result.attempts > 10


def test_gives_up_without_progress(gateway: FakeGateway, sandbox: SandboxFiles, big: Path) -> None:
    gateway.on_upload_message = break_after(0, streams=100)
    with pytest.raises(UploadInterrupted) as caught:
        sandbox.upload_path(big, "big")
    assert isinstance(caught.value, ConnectionError)
    assert caught.value.reason == "RELAY_LOST"
    assert caught.value.upload_id == "upload-1"
    assert gateway.streams(methods.UPLOAD_FILE) == QUICK.attempts
    assert gateway.uploads["upload-1"].state == files_pb2.UPLOAD_STATE_RECEIVING, "kept for later (RSM-10)"


def test_a_later_process_goes_on(gateway: FakeGateway, connect: Connect, big: Path) -> None:
    """RSM-3: with the id alone, and with what is staged compared."""
    gateway.on_upload_message = break_after(2)
    with pytest.raises(UploadInterrupted) as caught:
        connect(retry=NO_RETRY).upload_path(big, "big")
    result = connect().upload_path(big, "big", upload_id=caught.value.upload_id)
    assert result.resumed_from == 2 * MAX_CHUNK_BYTES
    assert result.bytes_sent == big.stat().st_size - 2 * MAX_CHUNK_BYTES
    assert gateway.files["big"].content == big.read_bytes()
    assert {u.upload_id for u in gateway.uploads.values()} == {"upload-1"}


def test_a_later_process_with_another_content_starts_over(
    gateway: FakeGateway, connect: Connect, big: Path
) -> None:
    """RSM-15, RSM-16: the staged prefix is not the source's, so it is freed and a new upload begins."""
    gateway.on_upload_message = break_after(2)
    with pytest.raises(UploadInterrupted) as caught:
        connect(retry=NO_RETRY).upload_path(big, "big")
    times = big.stat()
    big.write_bytes(b"!" + big.read_bytes()[1:])
    os.utime(big, ns=(times.st_atime_ns, times.st_mtime_ns))
    result = connect(retry=NO_RETRY).upload_path(big, "big", upload_id=caught.value.upload_id)
    assert gateway.files["big"].content == big.read_bytes()
    assert result.started_over
    assert result.resumed_from == 0
    assert gateway.uploads["upload-1"].state == files_pb2.UPLOAD_STATE_ABORTED


@pytest.mark.parametrize("change", ["touched", "expired", "aborted", "unknown"])
def test_a_later_process_begins_anew_if_it_has_to(
    gateway: FakeGateway, connect: Connect, big: Path, change: str
) -> None:
    gateway.on_upload_message = break_after(2)
    with pytest.raises(UploadInterrupted) as caught:
        connect(retry=NO_RETRY).upload_path(big, "big")
    upload = gateway.uploads["upload-1"]
    if change == "touched":
        os.utime(big, ns=(1, 1))
    elif change == "expired":
        upload.state = files_pb2.UPLOAD_STATE_EXPIRED
    elif change == "aborted":
        upload.state = files_pb2.UPLOAD_STATE_ABORTED
    else:
        del gateway.uploads["upload-1"]
    result = connect(retry=NO_RETRY).upload_path(big, "big", upload_id=caught.value.upload_id)
    assert gateway.files["big"].content == big.read_bytes()
    assert (result.upload_id, result.resumed_from) == ("upload-2", 0)


def test_resuming_a_finished_upload_sends_nothing(gateway: FakeGateway, connect: Connect, big: Path) -> None:
    """RSM-7: PUBLISHED with the source's digest is success."""
    first = connect().upload_path(big, "big")
    again = connect().upload_path(big, "big", upload_id=first.upload_id)
    assert (again.replayed, again.bytes_sent, again.attempts) == (True, 0, 0)
    big.write_bytes(b"?" + big.read_bytes()[1:])
    other = connect().upload_path(big, "big", upload_id=first.upload_id)
    assert (other.replayed, other.upload_id) == (False, "upload-2")
    assert gateway.files["big"].content == big.read_bytes()
