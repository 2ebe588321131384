"""A small file in the first message of its upload (UPL-16), at the gateway."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
from conditions import until
from gateway_harness import KEEPS, SANDBOX, FakeRelay, FakeSupervisor, GatewayHarness, running_gateway
from openshell_files_gateway.config.tables import LimitSettings
from openshell_files_gateway.files.core.whole_files import MAX_WHOLE_BYTES
from openshell_files_protocol import methods
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from stack_client import reason_of
from status_details import field_in

ANSWER = file_relay_pb2.FileRelayResponse(upload=files_pb2.UploadFileResponse(bytes_written=3))


@pytest.fixture
async def harness() -> AsyncGenerator[GatewayHarness]:
    async with running_gateway() as running:
        yield running


@pytest.fixture
async def supervisor(harness: GatewayHarness) -> FakeSupervisor:
    supervisor = harness.supervisor()
    await supervisor.connect(KEEPS)
    return supervisor


def whole(content: bytes = b"abc") -> files_pb2.WholeFile:
    finish = files_pb2.UploadFinish(size_bytes=len(content), sha256=hashlib.sha256(content).digest())
    if not content:
        return files_pb2.WholeFile(finish=finish)
    return files_pb2.WholeFile(data=files_pb2.FileChunk(data=content, crc32c=crc32c(content)), finish=finish)


def metadata(**changes: Any) -> files_pb2.UploadFileMetadata:
    fields: dict[str, Any] = {
        "sandbox_id": SANDBOX,
        "remote_path": "/f",
        "explicit_finish": True,
        "request_id": str(uuid.uuid4()),
        "whole": whole(),
    }
    return files_pb2.UploadFileMetadata(**(fields | changes))


def upload(
    harness: GatewayHarness, about: files_pb2.UploadFileMetadata
) -> asyncio.Task[files_pb2.UploadFileResponse]:
    """Make the upload with a unary call: on the wire it is one message on a stream that ends."""
    channel: Any = harness.channel()
    call = channel.unary_unary(methods.UPLOAD_FILE)

    async def answered() -> files_pb2.UploadFileResponse:
        request = files_pb2.UploadFileRequest(metadata=about).SerializeToString()
        return files_pb2.UploadFileResponse.FromString(await call(request, metadata=harness.user()))

    return asyncio.create_task(answered())


async def refusal(harness: GatewayHarness, about: files_pb2.UploadFileMetadata) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await upload(harness, about)
    return refused.value


def kinds(frames: list[file_relay_pb2.FileRelayRequest]) -> list[str | None]:
    return [frame.WhichOneof("frame") for frame in frames]


async def resting(harness: GatewayHarness, supervisor: FakeSupervisor) -> FakeRelay:
    """Return a relay that carried an upload and rests."""
    uploading = upload(harness, metadata())
    relay = await supervisor.take_relay()
    await relay.next_write()
    await relay.answer(ANSWER)
    await uploading
    return relay


async def test_the_agent_gets_messages_in_one_piece(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """UPL-16, FRM-2, FRM-4: as if the caller had sent them, and the relay can be used again (FRM-9)."""
    about = metadata()
    uploading = upload(harness, about)
    relay = await supervisor.take_relay()
    for _ in range(2):
        opened, data, finish, end = await relay.next_write()
        assert kinds([opened, data, finish, end]) == ["open", "upload", "upload", "input_end"]
        assert not opened.open.upload.HasField("whole")
        assert opened.open.upload.request_id == about.request_id
        assert data.upload.data == about.whole.data
        assert finish.upload.finish == about.whole.finish
        assert not end.input_end.cancelled
        await relay.answer(ANSWER)
        assert (await uploading).bytes_written == 3
        uploading = upload(harness, about)
    await relay.next_write()
    await relay.answer(ANSWER)
    await uploading


async def test_an_empty_file_has_no_content(harness: GatewayHarness, supervisor: FakeSupervisor) -> None:
    """UPL-16."""
    uploading = upload(harness, metadata(whole=whole(b"")))
    relay = await supervisor.take_relay()
    assert kinds(await relay.next_write()) == ["open", "upload", "input_end"]
    await relay.answer(ANSWER)
    await uploading


async def test_the_largest_arrives(harness: GatewayHarness, supervisor: FakeSupervisor) -> None:
    """UPL-16: as much as the gateway says, and one byte more is too much."""
    content = bytes(range(256)) * (MAX_WHOLE_BYTES // 256)
    uploading = upload(harness, metadata(whole=whole(content)))
    relay = await supervisor.take_relay()
    _, data, *_ = await relay.next_write()
    assert data.upload.data.data == content
    await relay.answer(ANSWER)
    await uploading
    error = await refusal(harness, metadata(whole=whole(content + b"!")))
    assert reason_of(error) == "CHUNK_TOO_LARGE"
    assert str(MAX_WHOLE_BYTES) in (error.details() or "")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"explicit_finish": False}, "metadata.explicit_finish"),
        ({"lanes": 2, "upload_id": "upload-1"}, "metadata.lanes"),
        ({"whole": files_pb2.WholeFile(data=whole().data)}, "metadata.whole.finish"),
        ({"whole": files_pb2.WholeFile()}, "metadata.whole.finish"),
    ],
    ids=["no explicit finish", "lanes", "no finish", "nothing"],
)
async def test_what_does_not_go_together_is_refused(
    harness: GatewayHarness, supervisor: FakeSupervisor, changes: dict[str, Any], field: str
) -> None:
    """UPL-16, UPL-1: before anything reaches the sandbox."""
    error = await refusal(harness, metadata(**changes))
    assert (reason_of(error), field_in(error)) == ("INVALID_REQUEST", field)
    # The next thing the supervisor hears is a relay that is really wanted.
    await resting(harness, supervisor)


async def test_start_upload_takes_no_content(harness: GatewayHarness, supervisor: FakeSupervisor) -> None:
    """UPL-16."""
    channel: Any = harness.channel()
    call = channel.unary_unary(methods.START_UPLOAD)
    request = files_pb2.StartUploadRequest(metadata=metadata())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(request.SerializeToString(), metadata=harness.user())
    assert (reason_of(refused.value), field_in(refused.value)) == ("INVALID_REQUEST", "metadata.whole")
    await resting(harness, supervisor)


async def test_nobody_uploads_without_a_token(harness: GatewayHarness, supervisor: FakeSupervisor) -> None:
    """AUT-1."""
    channel: Any = harness.channel()
    call = channel.unary_unary(methods.UPLOAD_FILE)
    request = files_pb2.UploadFileRequest(metadata=metadata())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(request.SerializeToString())
    assert reason_of(refused.value) == "TOKEN_MISSING"
    await resting(harness, supervisor)


async def test_answers_say_what_the_next_upload_may_be(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """UPL-16: of UploadFile, StartUpload and GetUpload, whatever the agent says."""
    boast = files_pb2.TransferLimits(max_whole_bytes=1 << 30)
    uploading = upload(harness, metadata())
    relay = await supervisor.take_relay()
    await relay.next_write()
    said = files_pb2.UploadFileResponse(bytes_written=3, limits=boast)
    await relay.answer(file_relay_pb2.FileRelayResponse(upload=said))
    assert (await uploading).limits.max_whole_bytes == MAX_WHOLE_BYTES

    for method, request, answer, parse in (
        (
            methods.START_UPLOAD,
            files_pb2.StartUploadRequest(metadata=metadata(whole=None)),
            file_relay_pb2.FileRelayResponse(start_upload=files_pb2.StartUploadResponse(limits=boast)),
            files_pb2.StartUploadResponse.FromString,
        ),
        (
            methods.GET_UPLOAD,
            files_pb2.GetUploadRequest(sandbox=files_pb2.SandboxRef(id=SANDBOX), upload_id="u"),
            file_relay_pb2.FileRelayResponse(get_upload=files_pb2.GetUploadResponse(limits=boast)),
            files_pb2.GetUploadResponse.FromString,
        ),
    ):
        channel: Any = harness.channel()
        call = channel.unary_unary(method)
        asking = asyncio.ensure_future(call(request.SerializeToString(), metadata=harness.user()))
        await relay.next_write()
        await relay.answer(answer)
        assert parse(await asking).limits.max_whole_bytes == MAX_WHOLE_BYTES


async def test_a_client_of_the_rfc_hears_nothing_of_it(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """RFC-3, UPL-16: only who knows the finish is told."""
    channel: Any = harness.channel()
    call = channel.stream_unary(methods.UPLOAD_FILE)(metadata=harness.user())
    about = files_pb2.UploadFileMetadata(sandbox_id=SANDBOX, remote_path="/f", size_bytes=3)
    for message in (files_pb2.UploadFileRequest(metadata=about), files_pb2.UploadFileRequest(chunk=b"abc")):
        await call.write(message.SerializeToString())
    await call.done_writing()
    relay = await supervisor.take_relay()
    await relay.next_write()
    await relay.answer(ANSWER)
    assert not files_pb2.UploadFileResponse.FromString(await call).HasField("limits")


async def test_a_caller_who_leaves_is_told_of(harness: GatewayHarness, supervisor: FakeSupervisor) -> None:
    """FRM-6: the agent learns that nobody waits any more, and the relay ends."""
    uploading = upload(harness, metadata())
    relay = await supervisor.take_relay()
    await relay.next_write()
    uploading.cancel()
    frame = await relay.next_frame()
    assert frame is not None
    assert frame.input_end.cancelled
    assert await relay.next_frame() is None
    await until(lambda: harness.gateway.statistics().transfers.active == 0, "the transfer is over")


async def test_an_agent_that_is_silent_is_not_waited_for() -> None:
    """The idle time is the same as for any other upload."""
    async with running_gateway(limits=LimitSettings(idle_timeout=0.2)) as harness:
        supervisor = harness.supervisor()
        await supervisor.connect(KEEPS)
        uploading = upload(harness, metadata())
        await (await supervisor.take_relay()).next_write()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await uploading
        assert reason_of(refused.value) == "TRANSFER_IDLE"
