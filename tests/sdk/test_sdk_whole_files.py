"""Small files that go out in one message (UPL-16)."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import grpc
import pytest
from fake_file_gateway import FakeGateway, FakeUpload, PlainStatus
from openshell_files import Progress, SandboxFiles
from openshell_files.errors import AccessDenied, OutcomeUnknown
from openshell_files_protocol import methods
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import KIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from sdk_flavours import Connect

LOST = PlainStatus(grpc.StatusCode.UNAVAILABLE, "lost")


@pytest.fixture
def acquainted(gateway: FakeGateway, sandbox: SandboxFiles) -> SandboxFiles:
    """Files of a client that has heard what the gateway takes."""
    gateway.max_whole_bytes = 100
    sandbox.write_bytes("first", b"1")
    return sandbox


def kinds(gateway: FakeGateway, stream: int) -> list[str | None]:
    return [message.WhichOneof("payload") for message in gateway.upload_messages[stream]]


def was_whole(gateway: FakeGateway, stream: int = -1) -> bool:
    return gateway.upload_messages[stream][0].metadata.HasField("whole")


def test_a_client_that_knows_nothing_asks_for_nothing(gateway: FakeGateway, acquainted: SandboxFiles) -> None:
    """UPL-16: the first upload is as ever, and its answer says what the next may be."""
    acquainted.write_bytes("second", b"12")
    assert kinds(gateway, 0) == ["metadata", "data", "finish"]
    assert [was_whole(gateway, number) for number in range(2)] == [False, True]


def test_content_and_finish_are_in_the_first_message(gateway: FakeGateway, acquainted: SandboxFiles) -> None:
    """UPL-16, UPL-3, UPL-7."""
    result = acquainted.write_bytes("x", b"hello")
    metadata = gateway.upload_messages[1][0].metadata
    assert metadata.explicit_finish
    assert (metadata.size_bytes, len(metadata.request_id)) == (5, 36)
    data, finish = metadata.whole.data, metadata.whole.finish
    assert (data.offset, data.data, data.crc32c) == (0, b"hello", crc32c(b"hello"))
    assert (finish.size_bytes, finish.sha256) == (5, hashlib.sha256(b"hello").digest())
    assert gateway.files["x"].content == b"hello"
    assert (result.size, result.bytes_sent, result.attempts) == (5, 5, 1)
    assert result.sha256 == hashlib.sha256(b"hello").hexdigest()


@pytest.mark.parametrize(("size", "whole"), [(0, True), (100, True), (101, False)])
def test_as_large_as_the_gateway_says(
    gateway: FakeGateway, acquainted: SandboxFiles, size: int, *, whole: bool
) -> None:
    """UPL-16: an empty file has a finish and nothing else."""
    acquainted.write_bytes("x", bytes(size))
    assert was_whole(gateway) == whole
    assert gateway.files["x"].content == bytes(size)


@pytest.mark.parametrize("asked", ["start", "look"])
def test_other_answers_say_it_too(gateway: FakeGateway, sandbox: SandboxFiles, asked: str) -> None:
    """UPL-16: StartUpload and GetUpload."""
    gateway.max_whole_bytes = 100
    if asked == "start":
        gateway.failures[methods.UPLOAD_FILE].append(TransferError(Reason.ACCESS_DENIED, "no"))
        with pytest.raises(AccessDenied):
            sandbox.write_bytes("large", bytes(300 * KIB))
    else:
        gateway.failures[methods.UPLOAD_FILE].append(LOST)
        sandbox.write_bytes("again", b"1")
        # The second try knew it from the question between them.
        assert was_whole(gateway)
    sandbox.write_bytes("x", b"1")
    assert was_whole(gateway)


def test_a_gateway_that_says_nothing_more_gets_messages_again(
    gateway: FakeGateway, acquainted: SandboxFiles
) -> None:
    gateway.max_whole_bytes = 0
    for _ in range(2):
        acquainted.write_bytes("x", b"1")
    assert kinds(gateway, -1) == ["metadata", "data", "finish"]


def test_a_gateway_that_does_not_know_it_gets_messages(
    gateway: FakeGateway, acquainted: SandboxFiles
) -> None:
    """UPL-16: another one took the address over; it finds no finish and publishes nothing."""
    gateway.max_whole_bytes, gateway.knows_whole = 0, False
    result = acquainted.write_bytes("x", b"hello")
    assert was_whole(gateway, 1)
    assert kinds(gateway, 2) == ["metadata", "data", "finish"]
    assert gateway.files["x"].content == b"hello"
    assert (result.attempts, len(gateway.uploads)) == (2, 2)


def test_a_lost_answer_is_asked_for(gateway: FakeGateway, acquainted: SandboxFiles) -> None:
    """RSM-7: it was published, and is not sent again."""

    def lose(_number: int) -> None:
        gateway.after_publish = None
        raise LOST

    gateway.after_publish = lose
    result = acquainted.write_bytes("x", b"hello")
    assert gateway.streams(methods.UPLOAD_FILE) == 2
    assert len(gateway.method_calls(methods.GET_UPLOAD)) == 1
    assert result.size == 5


def test_a_lost_answer_that_nobody_knows_of_is_neither(
    gateway: FakeGateway, acquainted: SandboxFiles
) -> None:
    """RSM-7."""

    def lose(_number: int) -> None:
        raise LOST

    gateway.after_publish = lose
    gateway.failures[methods.GET_UPLOAD].extend([LOST] * 20)
    with pytest.raises(OutcomeUnknown):
        acquainted.write_bytes("x", b"hello")


def test_one_that_never_arrived_is_sent_again(gateway: FakeGateway, acquainted: SandboxFiles) -> None:
    gateway.failures[methods.UPLOAD_FILE].append(LOST)
    acquainted.write_bytes("x", b"hello")
    tries = [messages[0].metadata.request_id for messages in gateway.upload_messages[1:]]
    assert len(tries) == 2
    assert len(set(tries)) == 1
    assert gateway.files["x"].content == b"hello"


def test_a_refusal_is_told(gateway: FakeGateway, acquainted: SandboxFiles) -> None:
    def refuse(_number: int, _upload: FakeUpload, _request: files_pb2.UploadFileRequest) -> None:
        raise TransferError(Reason.ACCESS_DENIED, "not here")

    gateway.on_upload_message = refuse
    with pytest.raises(AccessDenied, match="not here"):
        acquainted.write_bytes("x", b"hello")
    assert "x" not in gateway.files


def test_a_file_keeps_mode_and_time(gateway: FakeGateway, acquainted: SandboxFiles, tmp_path: Path) -> None:
    source = tmp_path / "small"
    source.write_bytes(b"hello")
    source.chmod(0o754)
    os.utime(source, ns=(1, 1_600_000_000_123_456_789))
    acquainted.upload_path(source, "x")
    assert was_whole(gateway)
    there = gateway.files["x"]
    assert (there.content, there.mode, there.modified_ns) == (b"hello", 0o754, 1_600_000_000_123_456_789)


def test_a_file_object_and_a_stream(gateway: FakeGateway, acquainted: SandboxFiles) -> None:
    acquainted.upload(io.BytesIO(b"object"), "object")
    assert was_whole(gateway)
    # All of it was taken before its size was known.
    acquainted.upload(iter([b"a ", b"stream"]), "stream")
    assert gateway.files["object"].content == b"object"
    assert gateway.files["stream"].content == b"a stream"


def test_content_around_a_hole_is_several_messages(
    gateway: FakeGateway, connect: Connect, tmp_path: Path
) -> None:
    """UPL-5: a hole stays one; a file that is nothing else is one piece."""
    gateway.max_whole_bytes = 256 * KIB
    files = connect()
    files.write_bytes("first", b"1")
    for name, content in (("content", b"content"), ("nothing", b"")):
        path = tmp_path / name
        path.write_bytes(content)
        os.truncate(path, 200 * KIB)
        if path.stat().st_blocks * 512 >= 200 * KIB:
            pytest.skip("no holes on this file system")
        files.upload_path(path, name)
        assert was_whole(gateway) == (not content)
        assert gateway.files[name].content == content.ljust(200 * KIB, b"\0")
        assert gateway.files[name].holes


def test_progress_is_told(gateway: FakeGateway, acquainted: SandboxFiles) -> None:
    told: list[Progress] = []
    acquainted.upload(b"hello", "x", progress=told.append)
    assert was_whole(gateway)
    assert [step.transferred for step in told] == [0, 5, 5]
    assert {step.total for step in told} == {5}
    assert told[-1].durable == 5
