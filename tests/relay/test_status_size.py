"""A status has to fit into the headers that carry it, or the caller gets another one."""

from __future__ import annotations

import asyncio
import base64
from urllib.parse import quote

import grpc
import pytest
from gateway_harness import running_gateway
from google.rpc import error_details_pb2
from openshell_files_gateway.server.status import status_of
from openshell_files_protocol.errors import FieldViolation, TransferError
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2
from openshell_files_protocol.reasons import Reason

#: What grpc's clients accept in all, less what the other headers take.
ROOM = 8192 - 512

LONG = {"ascii": "x" * 5000, "chinese": "\u4e2d" * 5000, "emoji": "\U0001f600" * 5000}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
def test_the_largest_status_fits(text: str) -> None:
    error = TransferError(
        Reason.INVALID_REQUEST,
        text,
        metadata={f"{text[:20]}{number}": text for number in range(50)},
        field_violations=[FieldViolation(text[:20], text)] * 50,
        retry_delay=1.0,
    )
    status = status_of(error, "t" * 64)
    assert status.message
    assert len(quote(status.message)) + len(base64.b64encode(status.SerializeToString())) <= ROOM


def test_what_is_short_is_kept() -> None:
    error = TransferError(
        Reason.OFFSET_MISMATCH, "wrong", metadata={"expected_offset": "7", "provided_offset": "9"}
    )
    info = error_details_pb2.ErrorInfo()
    assert status_of(error, "t").details[0].Unpack(info)
    assert dict(info.metadata) == {"expected_offset": "7", "provided_offset": "9", "transfer_id": "t"}


async def test_a_long_name_that_is_not_ascii_reaches_the_caller() -> None:
    """PTH-6: 4000 bytes are a legal path; cut by characters, the status was RESOURCE_EXHAUSTED."""
    path = "/".join(["\U0001f600" * 60] * 16)
    async with running_gateway() as harness:
        supervisor = harness.supervisor()
        await supervisor.connect()
        asking = asyncio.create_task(harness.stat())
        relay = await supervisor.take_relay()
        error = file_relay_pb2.FileRelayError(
            reason="FILE_NOT_FOUND", code=5, message=f"{path} is not there", metadata={"path": path}
        )
        await relay.answer(file_relay_pb2.FileRelayResponse(error=error))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asking
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
