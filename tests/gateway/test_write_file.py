"""WriteFile (UPL-16) at the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
from conditions import until
from digest_values import digest_of
from gateway_harness import KEEPS, SANDBOX, FakeRelay, FakeSupervisor, GatewayHarness, running_gateway
from openshell_files_gateway.config.tables import LimitSettings
from openshell_files_protocol import methods
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.limits import MAX_PATH_BYTES, MAX_WRITE_BYTES
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from stack_client import reason_of
from status_details import field_in

WRITTEN = files_pb2.WriteFileResponse(file=files_pb2.FileInfo(path="/f", size_bytes=3), replayed=True)
ANSWER = file_relay_pb2.FileRelayResponse(write_file=WRITTEN)


@pytest.fixture
async def harness() -> AsyncGenerator[GatewayHarness]:
    async with running_gateway() as running:
        yield running


@pytest.fixture
async def supervisor(harness: GatewayHarness) -> FakeSupervisor:
    supervisor = harness.supervisor()
    await supervisor.connect(KEEPS)
    return supervisor


def request_of(content: bytes = b"abc", **fields: Any) -> files_pb2.WriteFileRequest:
    about: dict[str, Any] = {"sandbox_id": SANDBOX, "remote_path": "/f", "request_id": "r"}
    return files_pb2.WriteFileRequest(
        metadata=files_pb2.UploadFileMetadata(**(about | fields)),
        content=content,
        crc32c=crc32c(content),
        digest=digest_of(content),
    )


def write(
    harness: GatewayHarness, request: files_pb2.WriteFileRequest, *, signed: bool = True
) -> asyncio.Task[files_pb2.WriteFileResponse]:
    channel: Any = harness.channel()
    call = channel.unary_unary(methods.WRITE_FILE)

    async def answered() -> files_pb2.WriteFileResponse:
        who = harness.user() if signed else None
        return files_pb2.WriteFileResponse.FromString(await call(request.SerializeToString(), metadata=who))

    return asyncio.create_task(answered())


async def refusal(
    harness: GatewayHarness, request: files_pb2.WriteFileRequest, *, signed: bool = True
) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await write(harness, request, signed=signed)
    return refused.value


async def carried(harness: GatewayHarness, supervisor: FakeSupervisor) -> FakeRelay:
    """Return a relay that carried a file and is idle; it is the first that the supervisor hears of."""
    writing = write(harness, request_of())
    relay = await supervisor.take_relay()
    await relay.next_write()
    await relay.answer(ANSWER)
    await writing
    return relay


async def test_the_agent_gets_one_frame(harness: GatewayHarness, supervisor: FakeSupervisor) -> None:
    """UPL-16, FRM-2: the request as it came, and its answer; the relay is used again (FRM-26)."""
    relay = await carried(harness, supervisor)
    for content in (b"another", b""):
        request = request_of(content)
        writing = write(harness, request)
        (opened,) = await relay.next_write()
        assert opened.open.write_file == request
        await relay.answer(ANSWER)
        assert await writing == WRITTEN


async def test_the_largest_arrives(harness: GatewayHarness, supervisor: FakeSupervisor) -> None:
    """UPL-55: with the longest path; one byte more is too much, and the field is named."""
    content = bytes(range(256)) * (MAX_WRITE_BYTES // 256)
    path = "/" * MAX_PATH_BYTES
    writing = write(harness, request_of(content, remote_path=path))
    relay = await supervisor.take_relay()
    opened = await relay.next_frame()
    assert opened is not None
    assert (opened.open.write_file.content, opened.open.write_file.metadata.remote_path) == (content, path)
    await relay.answer(ANSWER)
    await writing
    error = await refusal(harness, request_of(content + b"!"))
    assert (reason_of(error), field_in(error)) == ("INVALID_REQUEST", "content")
    assert str(MAX_WRITE_BYTES) in (error.details() or "")


async def test_nobody_writes_without_a_token(harness: GatewayHarness, supervisor: FakeSupervisor) -> None:
    """AUT-1, AUT-6: before anything reaches the sandbox."""
    assert reason_of(await refusal(harness, request_of(), signed=False)) == "TOKEN_MISSING"
    await carried(harness, supervisor)


async def test_a_sandbox_of_somebody_else_is_not_found(harness: GatewayHarness) -> None:
    """AUT-5: by any of its names."""
    request = request_of(sandbox_id="another")
    assert reason_of(await refusal(harness, request)) == "SANDBOX_NOT_FOUND"
    request = request_of(sandbox_id="", sandbox="another")
    assert reason_of(await refusal(harness, request)) == "SANDBOX_NOT_FOUND"


async def test_an_agent_that_does_not_know_it(harness: GatewayHarness, supervisor: FakeSupervisor) -> None:
    """UPL-57: an older agent refuses it, and the caller can tell that nothing was written."""
    writing = write(harness, request_of())
    relay = await supervisor.take_relay()
    await relay.next_write()
    unknown = file_relay_pb2.FileRelayError(
        reason="METHOD_UNSUPPORTED", code=12, message="open.operation is unknown to this file agent"
    )
    await relay.answer(file_relay_pb2.FileRelayResponse(error=unknown))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await writing
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert reason_of(refused.value) == "METHOD_UNSUPPORTED"


async def test_another_answer_is_none(harness: GatewayHarness, supervisor: FakeSupervisor) -> None:
    """FRM-3."""
    writing = write(harness, request_of())
    relay = await supervisor.take_relay()
    await relay.next_write()
    await relay.answer(file_relay_pb2.FileRelayResponse(upload=files_pb2.UploadFileResponse()))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await writing
    assert reason_of(refused.value) == "AGENT_PROTOCOL_ERROR"


async def test_a_caller_who_leaves_before_the_relay_writes_nothing(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """UPL-1: the agent never hears of it."""
    writing = write(harness, request_of())
    opened = await supervisor.next_open()
    writing.cancel()
    await until(lambda: harness.gateway.statistics().transfers.active == 0, "the transfer is over")
    with pytest.raises(grpc.aio.AioRpcError):
        await (await supervisor.claim(opened.channel_id)).next_frame()
    await carried(harness, supervisor)


async def test_an_agent_that_is_silent_is_not_waited_for() -> None:
    """The idle time is the same as for any other upload."""
    async with running_gateway(limits=LimitSettings(idle_timeout=0.2)) as harness:
        supervisor = harness.supervisor()
        await supervisor.connect(KEEPS)
        writing = write(harness, request_of())
        await (await supervisor.take_relay()).next_write()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await writing
        assert reason_of(refused.value) == "TRANSFER_IDLE"


async def test_a_client_of_the_rfc_hears_nothing_of_limits(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """RFC-3: the gateway adds nothing to what the agent answers."""
    channel: Any = harness.channel()
    call = channel.stream_unary(methods.UPLOAD_FILE)(metadata=harness.user())
    about = files_pb2.UploadFileMetadata(sandbox_id=SANDBOX, remote_path="/f", size_bytes=3)
    for message in (files_pb2.UploadFileRequest(metadata=about), files_pb2.UploadFileRequest(chunk=b"abc")):
        await call.write(message.SerializeToString())
    await call.done_writing()
    relay = await supervisor.take_relay()
    await relay.next_write()
    answer = files_pb2.UploadFileResponse(bytes_written=3)
    await relay.answer(file_relay_pb2.FileRelayResponse(upload=answer))
    assert files_pb2.UploadFileResponse.FromString(await call) == answer
