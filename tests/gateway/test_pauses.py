"""How long an upload's caller may wait for its source."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import grpc
import pytest
from gateway_harness import SANDBOX, running_gateway
from openshell_files_gateway.config.tables import LimitSettings
from openshell_files_gateway.files.options.core.pauses import Pauses, is_waiting
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import file_options_pb2, files_pb2
from openshell_files_protocol.reasons import Reason

WAITING = files_pb2.UploadFileRequest(waiting=file_options_pb2.UploadWaiting()).SerializeToString()
CONTENT = files_pb2.UploadFileRequest(chunk=b"x").SerializeToString()
METADATA = files_pb2.UploadFileRequest(
    metadata=files_pb2.UploadFileMetadata(sandbox_id=SANDBOX, remote_path="/f", explicit_finish=True)
).SerializeToString()


def test_only_what_comes_without_content_is_counted() -> None:
    """WAI-4: the bound is on one pause; content in between begins anew."""
    pauses = Pauses(10)
    for message, now in ((WAITING, 0), (WAITING, 10), (CONTENT, 11), (WAITING, 12), (WAITING, 22)):
        pauses.check(message, now)
    with pytest.raises(TransferError, match=r"max_pause, 10 s") as caught:
        pauses.check(WAITING, 22.5)
    assert caught.value.reason is Reason.TRANSFER_IDLE


def test_what_was_not_offered_is_no_reason_to_wait() -> None:
    """WAI-5"""
    with pytest.raises(TransferError) as caught:
        Pauses(0).check(WAITING, 1)
    assert caught.value.reason is Reason.TRANSFER_IDLE


@pytest.mark.parametrize("message", [b"", b"\xff", CONTENT, METADATA, CONTENT + bytes(100)])
def test_anything_else_is_not_waiting(message: bytes) -> None:
    assert not is_waiting(message)


async def test_waiting_is_movement_until_the_pause_is_too_long() -> None:
    """WAI-6, WAI-4: the upload outlives the idle timeout, and ends at `max_pause`."""
    async with running_gateway(limits=LimitSettings(idle_timeout=0.4, max_pause=1.2)) as harness:
        supervisor = harness.supervisor()
        await supervisor.connect()
        call = cast("Any", harness.channel().stream_unary(methods.UPLOAD_FILE)(metadata=harness.user()))
        await call.write(METADATA)
        began = asyncio.get_running_loop().time()
        relay = await supervisor.take_relay()
        opened = await relay.next_frame()
        assert opened is not None

        heard = 0

        async def wait_on() -> None:
            """Say it again as soon as the agent has heard it."""
            nonlocal heard
            while not call.done():
                await call.write(WAITING)
                frame = await relay.next_frame()
                if frame is None or not frame.upload.HasField("waiting"):
                    # The end of the upload.
                    return
                heard += 1

        waiting = asyncio.create_task(wait_on())
        with pytest.raises(grpc.aio.AioRpcError, match=r"max_pause") as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert asyncio.get_running_loop().time() - began >= 1.2
        # The last one may be refused before the agent hears of it.
        waiting.cancel()
        await asyncio.wait({waiting})
        assert heard > 1
        failure = None if waiting.cancelled() else waiting.exception()
        assert failure is None or isinstance(failure, asyncio.InvalidStateError | grpc.RpcError)
