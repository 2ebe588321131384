"""The streams of an upload with lanes, message by message."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from gateway_harness import (
    SANDBOX,
    FakeRelay,
    FakeSupervisor,
    GatewayHarness,
)
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import file_options_pb2, file_relay_pb2, files_pb2

UPLOAD = "upload-1"


ANSWER = file_relay_pb2.FileRelayResponse(upload=files_pb2.UploadFileResponse(bytes_written=9))


def content(number: int) -> files_pb2.UploadFileRequest:
    return files_pb2.UploadFileRequest(data=files_pb2.FileChunk(offset=number, data=b"x", crc32c=number))


class Stream:
    """One stream of an upload, message by message."""

    def __init__(self, harness: GatewayHarness, metadata: tuple[tuple[str, str], ...] | None = None) -> None:
        channel = harness.channel()
        self.call: Any = channel.stream_unary(methods.UPLOAD_FILE)(metadata=metadata or harness.user())

    async def say(self, message: files_pb2.UploadFileRequest) -> None:
        await self.call.write(message.SerializeToString())

    async def end(self) -> None:
        await self.call.done_writing()

    async def answer(self) -> files_pb2.UploadFileResponse:
        return files_pb2.UploadFileResponse.FromString(await self.call)

    async def refusal(self) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.call
        return refused.value


async def first(harness: GatewayHarness, lanes: int, epoch: int = 1, **changes: Any) -> Stream:
    """Begin an upload over so many streams."""
    fields: dict[str, Any] = {
        "sandbox_id": SANDBOX,
        "remote_path": "/f",
        "explicit_finish": True,
        "upload_id": UPLOAD,
    }
    metadata = files_pb2.UploadFileMetadata(lanes=lanes, epoch=epoch, **(fields | changes))
    stream = Stream(harness)
    await stream.say(files_pb2.UploadFileRequest(metadata=metadata))
    return stream


async def further(
    harness: GatewayHarness,
    index: int,
    epoch: int = 1,
    *,
    sandbox_id: str = SANDBOX,
    upload_id: str = UPLOAD,
    metadata: tuple[tuple[str, str], ...] | None = None,
) -> Stream:
    """Open one of its other streams."""
    lane = file_options_pb2.UploadLane(sandbox_id=sandbox_id, upload_id=upload_id, epoch=epoch, index=index)
    stream = Stream(harness, metadata)
    await stream.say(files_pb2.UploadFileRequest(lane=lane))
    return stream


async def opened(supervisor: FakeSupervisor) -> tuple[FakeRelay, files_pb2.UploadFileMetadata]:
    relay = await supervisor.take_relay()
    frame = await relay.next_frame()
    assert frame is not None
    return relay, frame.open.upload


async def numbers(relay: FakeRelay, count: int) -> list[int]:
    """Return the numbers of the next messages that reach the agent."""
    found: list[int] = []
    for _ in range(count):
        frame = await relay.next_frame()
        assert frame is not None
        found.append(frame.upload.data.offset)
    return found


def taken(harness: GatewayHarness) -> int:
    return harness.gateway.statistics().lanes.taken


def waiting(harness: GatewayHarness) -> int:
    return harness.gateway.statistics().lanes.waiting
