"""What a caller does wrong is told with a reason, and not by gRPC without one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
from gateway_harness import SANDBOX, GatewayHarness, running_gateway
from openshell_files_gateway.server.service import method_names
from openshell_files_protocol import methods
from openshell_files_protocol.chunks import encode_chunk, encode_plain
from openshell_files_protocol.limits import KIB, MAX_CHUNK_BYTES, MAX_MESSAGE_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from status_details import field_in, reason_in


@pytest.fixture
async def harness() -> AsyncGenerator[GatewayHarness]:
    async with running_gateway() as running:
        yield running


async def upload(harness: GatewayHarness, message: bytes, *, explicit: bool) -> grpc.aio.AioRpcError:
    """Send one message behind the metadata, and return the refusal; no supervisor is needed for it."""
    channel: Any = harness.channel()
    call = channel.stream_unary(methods.UPLOAD_FILE)(metadata=harness.user())
    metadata = files_pb2.UploadFileMetadata(sandbox_id=SANDBOX, remote_path="/f", explicit_finish=explicit)
    await call.write(files_pb2.UploadFileRequest(metadata=metadata).SerializeToString())
    await call._cython_call.send_serialized_message(message)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value


@pytest.mark.parametrize("explicit", [False, True], ids=["of the RFC", "with a finish"])
@pytest.mark.parametrize(
    "message",
    [
        b"".join(encode_plain(bytes(MAX_MESSAGE_BYTES))),
        b"".join(encode_chunk(1 << 40, bytes(MAX_MESSAGE_BYTES), 1)),
        b"".join(encode_plain(bytes(MAX_MESSAGE_BYTES + 60 * KIB))),
        # Not as an encoder writes it: the field is there twice.
        b"".join([*encode_plain(b"x"), *encode_plain(bytes(MAX_MESSAGE_BYTES))]),
    ],
    ids=["a plain chunk of 1 MiB", "a checked one", "60 KiB more", "encoded oddly"],
)
async def test_a_chunk_that_is_too_large(harness: GatewayHarness, message: bytes, *, explicit: bool) -> None:
    """UPL-24: CHUNK_TOO_LARGE, with the limit."""
    refused = await upload(harness, message, explicit=explicit)
    assert reason_in(refused) == "CHUNK_TOO_LARGE"
    assert str(MAX_CHUNK_BYTES) in (refused.details() or "")


async def test_another_message_that_is_too_large(harness: GatewayHarness) -> None:
    """UPL-15, UPL-23: a message that has no content."""
    refused = await upload(harness, b"\x7a\xff\xff\x3f" + bytes(MAX_MESSAGE_BYTES), explicit=True)
    assert (reason_in(refused), field_in(refused)) == ("INVALID_REQUEST", "payload")


@pytest.mark.parametrize(
    "path",
    [
        methods.path("CreateProvider"),
        "/openshell.v2.OpenShell/UploadFile",
        "/nothing",
        "//",
        "/x/" + "y" * 3000,
    ],
)
async def test_a_method_that_is_not_there(harness: GatewayHarness, path: str) -> None:
    """UNIMPLEMENTED with METHOD_UNSUPPORTED, whatever the call's shape, and without a token."""
    channel: Any = harness.channel()
    for call in (
        channel.unary_unary(path)(b"x"),
        channel.stream_stream(path)(iter([b"x"])),
        channel.unary_stream(path)(b"x"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await (call if hasattr(call, "__await__") else call.read())
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert reason_in(refused.value) == "METHOD_UNSUPPORTED"


#: Methods whose requests have no field that must be there, or whose request is not looked at.
_LENIENT = {"Health"}


@pytest.mark.parametrize("name", sorted(method_names() - _LENIENT))
async def test_bytes_that_are_no_request(harness: GatewayHarness, name: str) -> None:
    """Every method: INVALID_REQUEST, and no error that gRPC makes."""
    metadata = harness.user()
    if name in {"ConnectSupervisor", "RelayStream", "RefreshSandboxToken"}:
        metadata = harness.supervisor().metadata
    channel: Any = harness.channel()
    call = channel.stream_stream(methods.path(name))(iter([b"\xff\xff\xff"]), metadata=metadata)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call.read()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_in(refused.value) == "INVALID_REQUEST"
