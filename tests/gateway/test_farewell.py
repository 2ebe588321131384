"""An operation that ends before its answer: the agent hears that nobody waits any more (FRM-31)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import grpc
import pytest
from conditions import until
from digest_values import digest_of
from gateway_harness import KEEPS, SANDBOX, GatewayHarness, running_gateway
from google.protobuf.message import Message
from openshell_files_gateway.config.tables import LimitSettings
from openshell_files_protocol import methods
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.pb.openshell.v1 import files_pb2

METADATA = files_pb2.UploadFileMetadata(sandbox_id=SANDBOX, remote_path="/f", explicit_finish=True)
REF = files_pb2.SandboxRef(id=SANDBOX)

#: Every method that reaches an agent, with a request for it.
REQUESTS: Mapping[str, Message] = {
    methods.UPLOAD_FILE: files_pb2.UploadFileRequest(metadata=METADATA),
    methods.WRITE_FILE: files_pb2.WriteFileRequest(
        metadata=METADATA, content=b"abc", crc32c=crc32c(b"abc"), digest=digest_of(b"abc")
    ),
    methods.DOWNLOAD_FILE: files_pb2.DownloadFileRequest(sandbox_id=SANDBOX, remote_path="/f", checked=True),
    methods.START_UPLOAD: files_pb2.StartUploadRequest(metadata=METADATA),
    methods.GET_UPLOAD: files_pb2.GetUploadRequest(sandbox=REF, upload_id="u"),
    methods.LIST_UPLOADS: files_pb2.ListUploadsRequest(sandbox=REF),
    methods.ABORT_UPLOAD: files_pb2.AbortUploadRequest(sandbox=REF, upload_id="u"),
    methods.STAT_FILE: files_pb2.StatFileRequest(sandbox=REF, remote_path="/f"),
}


@pytest.fixture
async def harness() -> AsyncGenerator[GatewayHarness]:
    async with running_gateway(limits=LimitSettings(idle_timeout=2)) as running:
        yield running


@pytest.mark.parametrize("why", ["cancelled", "deadline", "idle"])
@pytest.mark.parametrize("method", REQUESTS, ids=lambda path: path.rpartition("/")[2])
async def test_the_agent_is_told(harness: GatewayHarness, method: str, why: str) -> None:
    """FRM-31: once, as the last frame, whatever the method and the reason; then the relay ends."""
    supervisor = harness.supervisor()
    await supervisor.connect(KEEPS)
    channel: Any = harness.channel()
    request = REQUESTS[method].SerializeToString()
    kind = channel.unary_stream if method == methods.DOWNLOAD_FILE else channel.unary_unary
    options = {"metadata": harness.user(), "timeout": 1 if why == "deadline" else None}
    if method == methods.UPLOAD_FILE:
        call = channel.stream_unary(method)(**options)
        await call.write(request)
    else:
        call = kind(method)(request, **options)
    relay = await supervisor.take_relay()
    assert await relay.next_frame() is not None
    if why == "cancelled":
        call.cancel()
    frame = await relay.next_frame()
    if method == methods.UPLOAD_FILE and frame is not None and not frame.input_end.cancelled:
        # grpc.aio shows a cancelled stream as one that ended.
        assert frame.HasField("input_end")
        frame = await relay.next_frame()
    assert frame is not None
    assert frame.input_end.cancelled
    assert await relay.next_frame() is None
    expected = {
        "cancelled": grpc.StatusCode.CANCELLED,
        "deadline": grpc.StatusCode.DEADLINE_EXCEEDED,
        "idle": grpc.StatusCode.DEADLINE_EXCEEDED,
    }
    assert await call.code() is expected[why]
    await until(lambda: harness.gateway.statistics().transfers.active == 0, "the transfer is over")
