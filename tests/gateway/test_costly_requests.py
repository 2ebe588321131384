"""Requests with as many entries as a message holds: everybody waits while Python looks at each."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, cast

import grpc
import pytest
from gateway_harness import FILES, SANDBOX, GatewayHarness, running_gateway
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from openshell_files_protocol import methods
from openshell_files_protocol.limits import MAX_MESSAGE_BYTES
from openshell_files_protocol.pb.openshell.v1 import exec_relay_pb2, file_relay_pb2, files_pb2, openshell_pb2
from openshell_files_protocol.varint import encode_varint

#: Lines of ours that a call may take, whatever its request holds. Each takes some 50 ns; a million are a stall.
MAX_LINES = 20_000

SERVICE = openshell_pb2.DESCRIPTOR.services_by_name["OpenShell"]
UNARY = {
    f"/{methods.SERVICE}/{method.name}": method.input_type
    for method in SERVICE.methods
    if not method.client_streaming
}

#: Unknown to every message, with a value of one byte.
UNKNOWN_FIELD = encode_varint(1999 << 3) + b"\x01"


@pytest.fixture
async def harness() -> AsyncGenerator[GatewayHarness]:
    async with running_gateway() as running:
        await running.supervisor().connect(FILES, exec_relay_pb2.ExecCapability(protocol_version=1))
        yield running


def many_of(descriptor: Descriptor, depth: int = 3) -> Iterator[tuple[str, bytes]]:
    """Make messages that are full of one repeated field, theirs or of a message in them."""
    for field in descriptor.fields:
        prefix = encode_varint(field.number << 3 | 2)
        if field.is_repeated and field.message_type is not None and field.message_type.GetOptions().map_entry:
            keys = (b"\x0a\x06V%05d" % number for number in range(90_000))
            yield field.name, b"".join(prefix + encode_varint(len(key)) + key for key in keys)
        elif field.is_repeated:
            entry = (
                prefix + b"\x00"
                if field.type != FieldDescriptor.TYPE_ENUM
                else encode_varint(field.number << 3) + b"\x01"
            )
            yield field.name, entry * (MAX_MESSAGE_BYTES * 9 // 10 // len(entry))
        elif field.message_type is not None and depth:
            unknown = UNKNOWN_FIELD * (900_000 // len(UNKNOWN_FIELD))
            yield f"{field.name}.unknown", prefix + encode_varint(len(unknown)) + unknown
            for name, inner in many_of(field.message_type, depth - 1):
                yield f"{field.name}.{name}", prefix + encode_varint(len(inner)) + inner


def requests() -> Iterator[Any]:
    for path, descriptor in UNARY.items():
        name = path.rpartition("/")[2]
        yield pytest.param(path, UNKNOWN_FIELD * (900_000 // len(UNKNOWN_FIELD)), id=f"{name}-unknown fields")
        for field, data in many_of(descriptor):
            yield pytest.param(path, data, id=f"{name}-{field}")


@contextmanager
def lines_of_ours() -> Generator[list[int]]:
    """Count the lines of the gateway and the protocol that this thread executes."""
    counted = [0]

    def lines(_frame: FrameType, event: str, _argument: object) -> Any:
        counted[0] += event == "line"
        return lines

    def calls(frame: FrameType, _event: str, _argument: object) -> Any:
        return lines if "openshell_files_" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(calls)
    try:
        yield counted
    finally:
        sys.settrace(before)


@pytest.mark.parametrize(("path", "data"), list(requests()))
async def test_a_full_message_is_not_looked_at_entry_by_entry(
    harness: GatewayHarness, path: str, data: bytes
) -> None:
    """Answered or refused, within a bound that does not depend on the request."""
    message: Message = GetMessageClass(UNARY[path])()
    for name in ("sandbox_id", "id"):
        if name in UNARY[path].fields_by_name:
            setattr(message, name, SANDBOX)
    call = cast("Any", harness.channel()).unary_unary(path)
    with lines_of_ours() as counted:
        with suppress(grpc.aio.AioRpcError):
            # What reaches the agent is not answered here.
            await call(message.SerializeToString() + data, metadata=harness.user(), timeout=2)
        assert 50 < counted[0] < MAX_LINES


async def test_a_hello_full_of_digests(harness: GatewayHarness) -> None:
    """CAP-15."""
    hello = file_relay_pb2.FileTransferCapability()
    hello.CopyFrom(FILES)
    hello.digests.extend([files_pb2.DIGEST_ALGORITHM_SHA256] * 900_000)
    with lines_of_ours() as counted:
        await harness.supervisor().connect(hello)
        call = cast("Any", harness.channel()).unary_unary(methods.GET_TRANSFER_CAPABILITIES)
        request = SERVICE.methods_by_name["GetTransferCapabilities"].input_type
        message: Any = GetMessageClass(request)()
        message.sandbox.id = SANDBOX
        answer = await call(message.SerializeToString(), metadata=harness.user())
        assert counted[0] < MAX_LINES
    assert len(answer) < 1000
