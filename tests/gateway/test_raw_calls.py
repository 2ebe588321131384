"""What no gRPC client sends: more metadata than the gateway takes, and a call without its message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from gateway_harness import GatewayHarness, running_gateway
from openshell_files_gateway.server import first_message
from openshell_files_gateway.server.calls import MAX_METADATA_BYTES, require_bounded
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2
from openshell_files_protocol.reasons import Reason
from raw_http2 import RawStream, framed

INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED.value[0]
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
IDLE = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]

#: Every method that takes one message, of each kind of answer; those of supervisors want another token.
ONE_MESSAGE = sorted(
    methods.path(method.name)
    for method in openshell_pb2.DESCRIPTOR.services_by_name["OpenShell"].methods
    if not method.client_streaming
)
PUBLIC = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"]


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayHarness]:
    async with running_gateway() as harness:
        yield harness


def stream(gateway: GatewayHarness) -> RawStream:
    return RawStream(int(gateway.endpoint.rpartition(":")[2]))


@pytest.mark.parametrize("count", [1, 3, 128])
def test_what_metadata_counts(count: int) -> None:
    """Names, values, and 32 bytes for each field, to the byte."""
    fields: list[tuple[str, str | bytes]] = [("name", b"v" * 28) for _ in range(count)]
    room = MAX_METADATA_BYTES - 64 * count
    require_bounded([*fields, ("x", "v" * (room - 33))])
    with pytest.raises(TransferError) as refused:
        require_bounded([*fields, ("x", "v" * (room - 32))])
    assert refused.value.reason is Reason.INVALID_REQUEST
    assert f"{MAX_METADATA_BYTES + 1} bytes" in refused.value.message


@pytest.mark.parametrize("count", [1, 50])
@pytest.mark.parametrize("signed", [True, False])
async def test_metadata_that_is_larger_than_the_gateway_takes(
    gateway: GatewayHarness, count: int, *, signed: bool
) -> None:
    """Refused before the token is looked at, whether in one field or in many."""
    for size, refused in (
        (MAX_METADATA_BYTES - 2000, False),
        (MAX_METADATA_BYTES + count, True),
        (200_000, True),
    ):
        # 32 bytes for each field, as HTTP/2 counts.
        fields = [(f"x-{number:02}", "v" * (size // count - 36)) for number in range(count)]
        async with stream(gateway) as call:
            await call.headers(methods.STAT_FILE, [*(gateway.user() if signed else ()), *fields])
            await call.data(framed(b""), end=True)
            code, message = await asyncio.wait_for(call.status(), 30)
        if refused:
            # gRPC notices some of it itself, and hands the call on all the same: whose answer is first is what counts.
            said = "bytes of metadata; send at most" if code == INVALID else "metadata size exceeds"
            assert code in {INVALID, EXHAUSTED}
            assert said in message
            assert str(MAX_METADATA_BYTES) in message
        else:
            assert code == (INVALID if signed else UNAUTHENTICATED)
            assert str(MAX_METADATA_BYTES) not in message


@pytest.mark.parametrize("end", ["with the headers", "with no bytes", "within a message"])
@pytest.mark.parametrize("method", [*ONE_MESSAGE, *PUBLIC])
async def test_a_call_that_ends_without_its_message(gateway: GatewayHarness, method: str, end: str) -> None:
    """gRPC would never answer it. Who may not call the method hears that."""
    async with stream(gateway) as call:
        await call.headers(method, gateway.user(), end=end == "with the headers")
        match end:
            case "with no bytes":
                await call.data(b"", end=True)
            case "within a message":
                await call.data(framed(b"more than comes")[:9], end=True)
            case _:
                pass
        code, message = await asyncio.wait_for(call.status(), 30)
    assert code > 0
    if code == INVALID:
        assert message == "request: the call ended without a message"
    else:
        assert code in {grpc.StatusCode.PERMISSION_DENIED.value[0], UNAUTHENTICATED}


@pytest.mark.parametrize("method", [methods.STAT_FILE, methods.DOWNLOAD_FILE, *PUBLIC])
async def test_a_call_that_says_nothing(
    gateway: GatewayHarness, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not waited for for ever, by anybody."""
    monkeypatch.setattr(first_message, "FIRST_MESSAGE_SECONDS", 0.1)
    async with stream(gateway) as call:
        await call.headers(method, gateway.user())
        code, message = await asyncio.wait_for(call.status(), 30)
    assert code == IDLE
    assert "no message within" in message
