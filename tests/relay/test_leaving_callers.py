"""A caller that goes away at an awkward moment is noticed at once, not by the idle timeout."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from gateway_harness import SANDBOX, GatewayHarness, running_gateway
from openshell_files_gateway.config.tables import LimitSettings
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from stack_client import reason_of

#: Nobody waits so long: if a cancelled call were kept, the tests would fail.
PATIENT = LimitSettings(idle_timeout=3600)


async def _upload(harness: GatewayHarness) -> object:
    channel: Any = harness.channel()
    call = channel.stream_unary(methods.UPLOAD_FILE)(metadata=harness.user())
    metadata = files_pb2.UploadFileMetadata(sandbox_id=SANDBOX, remote_path="/f", explicit_finish=True)
    await call.write(files_pb2.UploadFileRequest(metadata=metadata).SerializeToString())
    return await call


async def _download(harness: GatewayHarness) -> object:
    request = files_pb2.DownloadFileRequest(sandbox_id=SANDBOX, remote_path="/f").SerializeToString()
    method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = harness.channel().unary_stream(
        methods.DOWNLOAD_FILE
    )
    return await method(request, metadata=harness.user()).read()


async def _stat(harness: GatewayHarness) -> object:
    return await harness.stat()


async def _write(harness: GatewayHarness) -> object:
    about = files_pb2.UploadFileMetadata(sandbox_id=SANDBOX, remote_path="/f")
    channel: Any = harness.channel()
    request = files_pb2.WriteFileRequest(metadata=about).SerializeToString()
    return await channel.unary_unary(methods.WRITE_FILE)(request, metadata=harness.user())


CALLS = {"stat": _stat, "upload": _upload, "download": _download, "write": _write}


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("kind", CALLS)
async def test_a_caller_leaves_as_the_agent_is_opened(kind: str, turns: int) -> None:
    """FRM-16: the relay ends, whichever turn of the loop the cancellation comes in."""
    async with running_gateway(limits=PATIENT) as harness:
        supervisor = harness.supervisor()
        await supervisor.connect()
        calling = asyncio.create_task(CALLS[kind](harness))
        relay = await supervisor.take_relay()
        for _ in range(turns):
            await asyncio.sleep(0)
        calling.cancel()
        async with asyncio.timeout(30):
            try:
                while await relay.next_frame() is not None:
                    pass
            except grpc.aio.AioRpcError as gone:
                # The supervisor knows that it claimed the relay a moment before the caller has it.
                if reason_of(gone) != "RELAY_REQUESTER_GONE":
                    raise
        await asyncio.gather(calling, return_exceptions=True)
