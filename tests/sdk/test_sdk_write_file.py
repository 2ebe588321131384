"""Small files that go out in one message, with WriteFile (UPL-16)."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import grpc
import pytest
from conditions import block_until
from digest_values import BLAKE3, finish_of, words_of
from fake_file_gateway import FakeGateway, FakeUpload, PlainStatus
from openshell_files import (
    NO_RETRY,
    AsyncFilesClient,
    Condition,
    FilesClient,
    OidcAuth,
    Progress,
    SandboxFiles,
)
from openshell_files.errors import AccessDenied, DeadlineExceeded, FileExists, OutcomeUnknown, Unavailable
from openshell_files_protocol import methods
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import KIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

LOST = PlainStatus(grpc.StatusCode.UNAVAILABLE, "lost")

#: Errors of a gateway, and of an agent, that lack the method.
UNKNOWN = {
    "gateway": PlainStatus(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"),
    "agent": TransferError(Reason.METHOD_UNSUPPORTED, "none that this file agent knows"),
}


@pytest.fixture
def connected(gateway: FakeGateway, sandbox: SandboxFiles) -> SandboxFiles:
    """Return the files of a client that has its connection."""
    sandbox.write_bytes("first", b"1")
    gateway.calls.clear()
    gateway.upload_messages.clear()
    return sandbox


def sent_with(gateway: FakeGateway) -> list[str]:
    """Return the methods that carried content, in order."""
    return [
        method.rpartition("/")[2]
        for method, _ in gateway.calls
        if method in {methods.UPLOAD_FILE, methods.WRITE_FILE}
    ]


def test_content_and_digest_are_in_the_request(gateway: FakeGateway, connected: SandboxFiles) -> None:
    """UPL-16, UPL-3, UPL-7."""
    result = connected.write_bytes("x", b"hello")
    metadata, data, finish = gateway.upload_messages[0]
    assert (metadata.metadata.size_bytes, len(metadata.metadata.request_id)) == (5, 36)
    assert (data.data.data, data.data.crc32c) == (b"hello", crc32c(b"hello"))
    assert finish.finish == finish_of(b"hello", BLAKE3)
    assert [method for method, _ in gateway.calls] == [methods.WRITE_FILE]
    assert gateway.files["x"].content == b"hello"
    assert (result.size, result.bytes_sent, result.attempts) == (5, 5, 1)
    assert result.digest == words_of(b"hello")


def test_without_a_connection_it_is_streamed(gateway: FakeGateway) -> None:
    """RSM-25: a call that begins without a connection does not tell whether its request was sent."""
    with FilesClient(gateway.address, retry=NO_RETRY) as client:
        files = client.sandbox("demo")
        files.write_bytes("x", b"hello")
        gateway.stop()
        with pytest.raises(Unavailable) as caught:
            files.write_bytes("x", b"hello")
    assert not isinstance(caught.value, OutcomeUnknown)


def test_the_first_file_waits_for_its_connection(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    sandbox.write_bytes("x", b"hello")
    assert sent_with(gateway) == ["WriteFile"]


@pytest.mark.parametrize(
    ("size", "method"), [(0, "WriteFile"), (256 * KIB, "WriteFile"), (256 * KIB + 1, "UploadFile")]
)
def test_what_every_server_takes(
    gateway: FakeGateway, connected: SandboxFiles, size: int, method: str
) -> None:
    """UPL-16: the limit needs no question."""
    connected.write_bytes("x", bytes(size))
    assert sent_with(gateway) == [method]
    assert gateway.files["x"].content == bytes(size)


def test_a_gateway_without_it_gets_messages(gateway: FakeGateway, connected: SandboxFiles) -> None:
    """UPL-58: it is asked once for each client, whatever the sandbox."""
    gateway.has_write = False
    for name in ("a", "b"):
        result = connected.write_bytes(name, b"hello")
        assert (result.attempts, result.bytes_sent, result.replayed) == (1, 5, False)
        assert gateway.files[name].content == b"hello"
    assert sent_with(gateway) == ["UploadFile"] * 2
    assert gateway.unknown_writes == 1


@pytest.mark.parametrize(("who", "asked"), [("gateway", 1), ("agent", 2)])
async def test_who_does_not_have_it_is_remembered(gateway: FakeGateway, who: str, asked: int) -> None:
    """UPL-58: of a sandbox whose agent is old nothing follows for the next sandbox."""
    async with AsyncFilesClient(gateway.address, auth=OidcAuth("token")) as client:
        await client.sandbox("first").write_bytes("x", b"1")
        for name in ("one", "another"):
            if name == "one" or who == "agent":
                gateway.failures[methods.WRITE_FILE].append(UNKNOWN[who])
            for _ in range(2):
                await client.sandbox(name).write_bytes("x", b"hello")
    assert len(gateway.method_calls(methods.WRITE_FILE)) == 1 + asked
    assert len(gateway.method_calls(methods.UPLOAD_FILE)) == 4


@pytest.mark.parametrize("who", UNKNOWN)
def test_one_without_it_that_then_breaks(gateway: FakeGateway, connected: SandboxFiles, who: str) -> None:
    """RSM-25: a finish that no server received needs no question about its outcome."""
    gateway.failures[methods.WRITE_FILE].append(UNKNOWN[who])
    told: list[Progress] = []

    def fail(step: Progress) -> None:
        told.append(step)
        if len(told) == 2:
            raise ValueError("the caller has enough")

    with pytest.raises(ValueError, match="has enough"):
        connected.upload(b"hello", "x", progress=fail)
    # UploadFile had begun, and may not have reached the gateway.
    assert (sent_with(gateway)[0], [step.transferred for step in told]) == ("WriteFile", [0, 0])
    assert gateway.method_calls(methods.GET_UPLOAD) == []
    assert "x" not in gateway.files


def test_a_lost_answer_is_asked_for(gateway: FakeGateway, connected: SandboxFiles) -> None:
    """RSM-7: it was published, and is not sent again."""

    def lose(_number: int) -> None:
        gateway.after_publish = None
        raise LOST

    gateway.after_publish = lose
    result = connected.write_bytes("x", b"hello")
    assert sent_with(gateway) == ["WriteFile"]
    assert len(gateway.method_calls(methods.GET_UPLOAD)) == 1
    assert result.size == 5


def test_a_lost_answer_that_nobody_knows_of_is_neither(gateway: FakeGateway, connected: SandboxFiles) -> None:
    """RSM-25."""

    def lose(_number: int) -> None:
        raise LOST

    gateway.after_publish = lose
    gateway.failures[methods.GET_UPLOAD].extend([LOST] * 20)
    with pytest.raises(OutcomeUnknown):
        connected.write_bytes("x", b"hello")


def test_one_that_never_arrived_is_sent_again(gateway: FakeGateway, connected: SandboxFiles) -> None:
    gateway.failures[methods.WRITE_FILE].append(LOST)
    connected.write_bytes("x", b"hello")
    tries = [messages[0].metadata.request_id for messages in gateway.upload_messages]
    assert len(tries) == 2
    assert len(set(tries)) == 1
    assert sent_with(gateway) == ["WriteFile"] * 2
    assert gateway.files["x"].content == b"hello"


def test_a_refusal_is_told(gateway: FakeGateway, connected: SandboxFiles) -> None:
    def refuse(_number: int, _upload: FakeUpload, _request: files_pb2.UploadFileRequest) -> None:
        raise TransferError(Reason.ACCESS_DENIED, "not here")

    gateway.on_upload_message = refuse
    with pytest.raises(AccessDenied, match="not here"):
        connected.write_bytes("x", b"hello")
    assert "x" not in gateway.files


def test_a_condition(gateway: FakeGateway, connected: SandboxFiles) -> None:
    """CND-1."""
    connected.write_bytes("x", b"old", condition=Condition.absent())
    with pytest.raises(FileExists):
        connected.write_bytes("x", b"new", condition=Condition.absent())
    assert sent_with(gateway) == ["WriteFile"] * 2
    assert gateway.files["x"].content == b"old"


def test_a_file_keeps_mode_and_time(gateway: FakeGateway, connected: SandboxFiles, tmp_path: Path) -> None:
    source = tmp_path / "small"
    source.write_bytes(b"hello")
    source.chmod(0o754)
    os.utime(source, ns=(1, 1_600_000_000_123_456_789))
    connected.upload_path(source, "x")
    assert sent_with(gateway) == ["WriteFile"]
    there = gateway.files["x"]
    assert (there.content, there.mode, there.modified_ns) == (b"hello", 0o754, 1_600_000_000_123_456_789)


def test_a_file_object_and_a_stream(gateway: FakeGateway, connected: SandboxFiles) -> None:
    connected.upload(io.BytesIO(b"object"), "object")
    # All of it was taken before its size was known.
    connected.upload(iter([b"a ", b"stream"]), "stream")
    assert sent_with(gateway) == ["WriteFile"] * 2
    assert gateway.files["object"].content == b"object"
    assert gateway.files["stream"].content == b"a stream"


def test_a_hole_stays_one(gateway: FakeGateway, connected: SandboxFiles, tmp_path: Path) -> None:
    """UPL-18, UPL-16: WriteFile has no holes."""
    for name, content in (("content", b"content"), ("nothing", b"")):
        path = tmp_path / name
        path.write_bytes(content)
        os.truncate(path, 200 * KIB)
        if path.stat().st_blocks * 512 >= 200 * KIB:
            pytest.skip("no holes on this file system")
        connected.upload_path(path, name)
        assert gateway.files[name].content == content.ljust(200 * KIB, b"\0")
        assert gateway.files[name].holes
    assert sent_with(gateway) == ["UploadFile"] * 2


def test_progress_is_told(gateway: FakeGateway, connected: SandboxFiles) -> None:
    told: list[Progress] = []
    connected.upload(b"hello", "x", progress=told.append)
    assert sent_with(gateway) == ["WriteFile"]
    assert [step.transferred for step in told] == [0, 5, 5]
    assert {step.total for step in told} == {5}
    assert told[-1].durable == 5


async def test_time_that_runs_out_before_the_request_is_sent(gateway: FakeGateway) -> None:
    """RSM-25: a request that never left publishes nothing, so the error is the plain one."""
    over: list[float] = []

    def token() -> str:
        if over:
            block_until(lambda: time.monotonic() > over[0], "the time is over")
        return "token"

    async with AsyncFilesClient(gateway.address, auth=OidcAuth(token)) as client:
        files = client.sandbox("demo")
        await files.write_bytes("first", b"1")
        gateway.calls.clear()
        over.append(time.monotonic() + 0.2)
        with pytest.raises(DeadlineExceeded):
            await files.write_bytes("x", b"hello", timeout=0.1)
    assert gateway.calls == []
