"""The directory methods at the gateway (DIR-1): one operation of the agent for each call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

import grpc
import pytest
import structlog
from gateway_harness import FILES, KEEPS, SANDBOX, FakeSupervisor, GatewayHarness, running_gateway
from google.protobuf.message import Message
from openshell_files_gateway.config.tables import LimitSettings
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import directories_pb2, file_relay_pb2, files_pb2
from stack_client import reason_of
from status_details import metadata_in

HERE = files_pb2.SandboxRef(id=SANDBOX)
INFO = files_pb2.FileInfo(path="/d", type=files_pb2.FILE_TYPE_DIRECTORY)

#: Path of the method → field of the relay's frames, request, answer.
METHODS: dict[str, tuple[str, Message, Message]] = {
    methods.LIST_DIRECTORY: (
        "list_directory",
        directories_pb2.ListDirectoryRequest(sandbox=HERE, path=b"/d\xff", page_size=3, page_token=b"a\xff"),
        directories_pb2.ListDirectoryResponse(
            entries=[directories_pb2.DirectoryEntry(name=b"\xff")], next_page_token=b"\xff", directory=INFO
        ),
    ),
    methods.MAKE_DIRECTORY: (
        "make_directory",
        directories_pb2.MakeDirectoryRequest(sandbox=HERE, path=b"/d", mode=0o700, exist_ok=True),
        directories_pb2.MakeDirectoryResponse(directory=INFO, created=True),
    ),
    methods.REMOVE_PATH: (
        "remove_path",
        directories_pb2.RemovePathRequest(sandbox=HERE, path=b"/d", recursive=True, if_version="v"),
        directories_pb2.RemovePathResponse(removed_entries=7),
    ),
    methods.MOVE_PATH: (
        "move_path",
        directories_pb2.MovePathRequest(sandbox=HERE, source=b"/a", destination=b"/b"),
        directories_pb2.MovePathResponse(file=INFO, replaced=True),
    ),
    methods.COPY_PATH: (
        "copy_path",
        directories_pb2.CopyPathRequest(sandbox=HERE, source=b"/a", destination=b"/b", recursive=True),
        directories_pb2.CopyPathResponse(file=INFO, copied_entries=2, copied_bytes=5),
    ),
}


@pytest.fixture
async def harness() -> AsyncGenerator[GatewayHarness]:
    async with running_gateway(limits=LimitSettings(idle_timeout=1.0)) as running:
        yield running


@pytest.fixture
async def supervisor(harness: GatewayHarness) -> FakeSupervisor:
    supervisor = harness.supervisor()
    await supervisor.connect(KEEPS)
    return supervisor


def call(harness: GatewayHarness, method: str, request: Message, *, signed: bool = True) -> Any:
    channel = cast("Any", harness.channel())
    metadata = harness.user() if signed else None
    return channel.unary_unary(method)(request.SerializeToString(), metadata=metadata)


@pytest.mark.parametrize("method", METHODS)
async def test_the_agent_gets_one_frame(
    harness: GatewayHarness, supervisor: FakeSupervisor, method: str
) -> None:
    """DIR-1, FRM-2: the request as it came, and the answer as it came."""
    field, request, answer = METHODS[method]
    with structlog.testing.capture_logs() as logs:
        calling = asyncio.ensure_future(call(harness, method, request))
        relay = await supervisor.take_relay()
        (opened,) = await relay.next_write()
        assert opened.open.WhichOneof("operation") == field
        assert getattr(opened.open, field) == request
        working = file_relay_pb2.FileRelayResponse(working=file_relay_pb2.FileRelayWorking())
        await relay.answer(working)
        await relay.answer(file_relay_pb2.FileRelayResponse(**{field: answer}))  # type: ignore[arg-type]
        assert type(answer).FromString(await calling) == answer
    (line,) = [line for line in logs if line["event"] == "call ended" and "sandbox_id" in line]
    shown = getattr(request, "path", getattr(request, "source", b""))
    assert line.get("path", line.get("source")) == shown.decode("utf-8", "replace")
    for fact in ("removed_entries", "copied_entries"):
        assert line.get(fact) == getattr(answer, fact, None)


@pytest.mark.parametrize("method", METHODS)
async def test_an_error_keeps_its_facts(
    harness: GatewayHarness, supervisor: FakeSupervisor, method: str
) -> None:
    """DIR-17: the path, and the number of removed entries."""
    _, request, _ = METHODS[method]
    calling = asyncio.ensure_future(call(harness, method, request))
    relay = await supervisor.take_relay()
    await relay.next_write()
    error = file_relay_pb2.FileRelayError(
        reason="ACCESS_DENIED", code=7, message="no", metadata={"removed_entries": "3", "path": "/d/x"}
    )
    await relay.answer(file_relay_pb2.FileRelayResponse(error=error))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await calling
    assert reason_of(refused.value) == "ACCESS_DENIED"
    assert metadata_in(refused.value)["removed_entries"] == "3"


@pytest.mark.parametrize("method", METHODS)
async def test_nobody_calls_without_a_token(harness: GatewayHarness, method: str) -> None:
    """AUT-1."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(harness, method, METHODS[method][1], signed=False)
    assert reason_of(refused.value) == "TOKEN_MISSING"


@pytest.mark.parametrize("method", METHODS)
async def test_a_sandbox_of_somebody_else_is_not_found(harness: GatewayHarness, method: str) -> None:
    """AUT-5."""
    request = type(METHODS[method][1])()
    request.sandbox.id = "another"  # type: ignore[attr-defined]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(harness, method, request)
    assert reason_of(refused.value) == "SANDBOX_NOT_FOUND"


async def test_a_caller_that_leaves_is_told_to_the_agent(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """DIR-18, FRM-31."""
    calling = call(harness, methods.REMOVE_PATH, METHODS[methods.REMOVE_PATH][1])
    waiting = asyncio.ensure_future(_outcome(calling))
    relay = await supervisor.take_relay()
    await relay.next_write()
    calling.cancel()
    frame = await relay.next_frame()
    assert frame is not None
    assert frame.input_end.cancelled
    await waiting


async def _outcome(calling: Any) -> None:
    with pytest.raises(asyncio.CancelledError):
        await calling


async def test_work_that_says_nothing_is_idle(harness: GatewayHarness, supervisor: FakeSupervisor) -> None:
    """DIR-18: the idle timeout ends a removal whose agent says nothing."""
    calling = asyncio.ensure_future(call(harness, methods.REMOVE_PATH, METHODS[methods.REMOVE_PATH][1]))
    relay = await supervisor.take_relay()
    await relay.next_write()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await calling
    assert reason_of(refused.value) == "TRANSFER_IDLE"


@pytest.mark.parametrize("serves", [False, True])
async def test_the_option_is_announced_for_agents_that_have_it(*, serves: bool) -> None:
    """DIR-1, CAP-3."""
    hello = file_relay_pb2.FileTransferCapability()
    hello.CopyFrom(FILES)
    hello.serves_directories = serves
    async with running_gateway() as harness:
        supervisor = harness.supervisor()
        await supervisor.connect(hello)
        request = files_pb2.GetTransferCapabilitiesRequest(sandbox=HERE)
        answer = files_pb2.GetTransferCapabilitiesResponse.FromString(
            await call(harness, methods.GET_TRANSFER_CAPABILITIES, request)
        )
        assert answer.HasField("directories") is serves
        assert answer.directories.max_page_size == (10_000 if serves else 0)
