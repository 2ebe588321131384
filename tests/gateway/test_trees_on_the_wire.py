"""UploadTree and DownloadTree at the gateway: messages of both sides pass unparsed, at the same time (FRM-34)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal, cast

import grpc
import pytest
import structlog
from conditions import PATIENCE_SECONDS, until
from gateway_harness import (
    FILES,
    KEEPS,
    SANDBOX,
    FakeRelay,
    FakeSupervisor,
    GatewayHarness,
    pour,
    running_gateway,
)
from openshell_files_gateway.config.tables import LimitSettings
from openshell_files_gateway.relay.core.relay_states import RelayState
from openshell_files_protocol import methods
from openshell_files_protocol.framing import encode_relay_data, frame_segments
from openshell_files_protocol.limits import MAX_MESSAGE_BYTES, MIB
from openshell_files_protocol.pb.openshell.v1 import file_options_pb2, file_relay_pb2, files_pb2, trees_pb2
from openshell_supervisor_sim.relay.byte_stream import open_stream
from stack_client import reason_of
from status_details import metadata_in

HERE = files_pb2.SandboxRef(id=SANDBOX)
WAITING = file_options_pb2.UploadWaiting()
IDLE_SECONDS = 1.0

Request = trees_pb2.UploadTreeRequest | trees_pb2.DownloadTreeRequest


@dataclass(frozen=True)
class Method:
    """One of the two methods, and messages of it."""

    path: str
    field: str
    start: Request
    inputs: tuple[Request, ...]
    answers: tuple[Any, ...]

    @property
    def response(self) -> Any:
        """Type of the answers."""
        types: dict[str, Any] = {
            "upload_tree": trees_pb2.UploadTreeResponse,
            "download_tree": trees_pb2.DownloadTreeResponse,
        }
        return types[self.field]


def _content(size: int) -> trees_pb2.TreeContent:
    return trees_pb2.TreeContent(parts=[trees_pb2.TreePart(entry=1, data=bytes(size), last=True)])


_MANIFEST = trees_pb2.TreeManifest(entries=[trees_pb2.TreeEntry(), trees_pb2.TreeEntry(path=b"a\xff")])
_REPLY = trees_pb2.TreeReply(decided_entries=2, needed=[1])
_STARTED = trees_pb2.TreeStarted(path=b"/d\xff")
_END = trees_pb2.TreeEnd(entries=2)

UPLOAD = Method(
    methods.UPLOAD_TREE,
    "upload_tree",
    trees_pb2.UploadTreeRequest(
        start=trees_pb2.UploadTreeStart(sandbox=HERE, path=b"/d\xff", delete_others=True)
    ),
    (
        trees_pb2.UploadTreeRequest(manifest=_MANIFEST),
        trees_pb2.UploadTreeRequest(waiting=WAITING),
        trees_pb2.UploadTreeRequest(content=_content(70_000)),
        trees_pb2.UploadTreeRequest(end=_END),
    ),
    (
        trees_pb2.UploadTreeResponse(started=_STARTED),
        trees_pb2.UploadTreeResponse(reply=_REPLY),
        trees_pb2.UploadTreeResponse(working=trees_pb2.TreeWorking()),
        trees_pb2.UploadTreeResponse(result=trees_pb2.UploadTreeResult(created=True)),
    ),
)
DOWNLOAD = Method(
    methods.DOWNLOAD_TREE,
    "download_tree",
    trees_pb2.DownloadTreeRequest(
        start=trees_pb2.DownloadTreeStart(sandbox=HERE, path=b"/d\xff", exclude=["*.o"])
    ),
    (
        trees_pb2.DownloadTreeRequest(waiting=WAITING),
        trees_pb2.DownloadTreeRequest(reply=_REPLY),
    ),
    (
        trees_pb2.DownloadTreeResponse(started=_STARTED),
        trees_pb2.DownloadTreeResponse(manifest=_MANIFEST),
        trees_pb2.DownloadTreeResponse(working=trees_pb2.TreeWorking()),
        trees_pb2.DownloadTreeResponse(content=_content(70_000)),
        trees_pb2.DownloadTreeResponse(end=_END),
    ),
)
BOTH = pytest.mark.parametrize("method", [UPLOAD, DOWNLOAD], ids=lambda method: method.field)
TREE_END = file_relay_pb2.FileRelayResponse(tree_end=file_relay_pb2.FileRelayTreeEnd())


@pytest.fixture
async def harness() -> AsyncGenerator[GatewayHarness]:
    async with running_gateway(limits=LimitSettings(idle_timeout=IDLE_SECONDS)) as running:
        yield running


@pytest.fixture
async def supervisor(harness: GatewayHarness) -> FakeSupervisor:
    supervisor = harness.supervisor()
    await supervisor.connect(KEEPS)
    return supervisor


def opened(harness: GatewayHarness, method: Method, *, signed: bool = True) -> Any:
    return open_stream(harness.channel(), method.path, harness.user() if signed else ())


async def started(
    harness: GatewayHarness, supervisor: FakeSupervisor, method: Method
) -> tuple[Any, FakeRelay]:
    """Return a call whose operation has its relay, and the relay."""
    call = opened(harness, method)
    await call.write(method.start.SerializeToString())
    relay = await supervisor.take_relay()
    frame = await relay.next_frame()
    assert frame is not None
    assert getattr(frame.open, method.field) == method.start.start
    return call, relay


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await _read_to_the_end(call)
    return error.value


async def _read_to_the_end(call: Any) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await call.read() is not grpc.aio.EOF:
            pass


def carried(method: Method, message: Any) -> file_relay_pb2.FileRelayResponse:
    return file_relay_pb2.FileRelayResponse(**{method.field: message})


@BOTH
async def test_messages_pass_in_both_directions(
    harness: GatewayHarness, supervisor: FakeSupervisor, method: Method
) -> None:
    """FRM-34, FRM-35: each message as it came, whichever side sends first."""
    with structlog.testing.capture_logs() as logs:
        call, relay = await started(harness, supervisor, method)
        await relay.answer(file_relay_pb2.FileRelayResponse(accepted=file_relay_pb2.FileRelayAccepted()))
        for number in range(max(len(method.inputs), len(method.answers))):
            for answer in method.answers[number : number + 1]:
                await relay.answer(carried(method, answer))
                assert method.response.FromString(await call.read()) == answer
            for message in method.inputs[number : number + 1]:
                await call.write(message.SerializeToString())
                frame = await relay.next_frame()
                assert frame is not None
                assert getattr(frame, method.field) == message
        await relay.answer(TREE_END)
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        await until(lambda: [line for line in logs if "sent_bytes" in line], "the call's line is in the log")
    (line,) = [line for line in logs if "sent_bytes" in line]
    assert line["path"] == "/d�"
    assert line["received_bytes"] == sum(message.ByteSize() for message in method.inputs)
    assert line["sent_bytes"] == sum(message.ByteSize() for message in method.answers)


@BOTH
@pytest.mark.parametrize("half_closes", [False, True])
async def test_the_relay_is_used_again(
    harness: GatewayHarness, supervisor: FakeSupervisor, method: Method, *, half_closes: bool
) -> None:
    """FRM-26: the caller need not half-close before the last message, and the end of its stream is no cancellation."""
    call, relay = await started(harness, supervisor, method)
    if half_closes:
        await call.done_writing()
        frame = await relay.next_frame()
        assert frame is not None
        assert frame.HasField("input_end")
        assert not frame.input_end.cancelled
    await relay.answer(carried(method, method.answers[-1]))
    await relay.answer(TREE_END)
    assert method.response.FromString(await call.read()) == method.answers[-1]
    assert await call.read() is grpc.aio.EOF
    second = opened(harness, method)
    await second.write(method.start.SerializeToString())
    frame = await relay.next_frame()
    assert frame is not None
    assert getattr(frame.open, method.field) == method.start.start
    second.cancel()


@BOTH
async def test_a_slow_reader_keeps_nobody_from_writing(
    harness: GatewayHarness, supervisor: FakeSupervisor, method: Method
) -> None:
    """FRM-34: while one direction stands still, the other one moves."""
    call, relay = await started(harness, supervisor, method)
    flooding = asyncio.create_task(
        pour(relay.call, _relayed(carried(method, _with_data(method.answers[0], MIB // 2))))
    )
    try:
        message = method.inputs[0].SerializeToString()
        async with asyncio.timeout(PATIENCE_SECONDS):
            for _ in range(200):
                await call.write(message)
                frame = await relay.next_frame()
                assert frame is not None
                assert getattr(frame, method.field) == method.inputs[0]
    finally:
        flooding.cancel()
        call.cancel()
    await asyncio.wait({flooding})


def _with_data(message: Any, size: int) -> Any:
    """Return the message with unknown content of a size, which passes unparsed."""
    filled = type(message)()
    filled.CopyFrom(message)
    filled.started.path = bytes(size)
    return filled


def _relayed(response: file_relay_pb2.FileRelayResponse) -> bytes:
    return b"".join(encode_relay_data(frame_segments([response.SerializeToString()])))


@BOTH
async def test_a_caller_that_leaves_is_told_to_the_agent(
    harness: GatewayHarness, supervisor: FakeSupervisor, method: Method
) -> None:
    """FRM-31."""
    call, relay = await started(harness, supervisor, method)
    await relay.answer(carried(method, method.answers[0]))
    await call.read()
    call.cancel()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (frame := await relay.next_frame()) is not None and not frame.input_end.cancelled:
            pass
    assert frame is not None
    await until(
        lambda: harness.gateway.statistics().relays[RelayState.IN_USE] == 0, "the relay is not used any more"
    )


@BOTH
@pytest.mark.parametrize("who", ["caller", "agent", "working"])
async def test_any_movement_restarts_the_idle_timeout(
    harness: GatewayHarness, supervisor: FakeSupervisor, method: Method, who: str
) -> None:
    """TRE-19: the timeout runs from the last message of either side, and ends the call."""
    call, relay = await started(harness, supervisor, method)
    working = file_relay_pb2.FileRelayResponse(working=file_relay_pb2.FileRelayWorking())
    loop = asyncio.get_running_loop()
    began = loop.time()
    # Movement every half of the timeout, for two timeouts.
    for _ in range(4):
        await asyncio.wait({asyncio.ensure_future(call.code())}, timeout=IDLE_SECONDS / 2)
        assert not call.done()
        if who == "caller":
            await call.write(method.inputs[0].SerializeToString())
        else:
            await relay.answer(working if who == "working" else carried(method, method.answers[0]))
    error = await refused(call)
    assert reason_of(error) == "TRANSFER_IDLE"
    assert loop.time() - began >= 3 * IDLE_SECONDS


@BOTH
async def test_pauses_are_bounded(method: Method) -> None:
    """TRE-19, WAI-4: `waiting` is no way to hold a slot for ever."""
    async with running_gateway(limits=LimitSettings(max_pause=0)) as harness:
        supervisor = harness.supervisor()
        await supervisor.connect(KEEPS)
        call, _ = await started(harness, supervisor, method)
        await call.write(type(method.start)(waiting=WAITING).SerializeToString())
        assert reason_of(await refused(call)) == "TRANSFER_IDLE"


@BOTH
@pytest.mark.parametrize(
    ("first", "field"),
    [
        (b"", "start"),
        (None, "start"),
        (b"\xff", "request"),
        ("input", "start"),
    ],
)
async def test_the_first_message(harness: GatewayHarness, method: Method, first: Any, field: str) -> None:
    """TRE-2, RLY-13: a start, and nothing else."""
    call = opened(harness, method)
    if first is None:
        await call.done_writing()
    else:
        await call.write(method.inputs[0].SerializeToString() if first == "input" else first)
    error = await refused(call)
    assert reason_of(error) == "INVALID_REQUEST"
    assert field in str(error.details())


@BOTH
@pytest.mark.parametrize("extra", [0, 1])
async def test_messages_have_a_size(
    harness: GatewayHarness, supervisor: FakeSupervisor, method: Method, extra: int
) -> None:
    """TRE-5: 1 MiB passes, and one byte more is refused."""
    call, relay = await started(harness, supervisor, method)
    message = _of_size(method, MAX_MESSAGE_BYTES + extra)
    # Not `call.write`: when the gateway ends the call, that replaces its status by one of its own.
    await call._cython_call.send_serialized_message(message)
    if extra:
        error = await refused(call)
        assert reason_of(error) == "INVALID_REQUEST"
        assert str(MAX_MESSAGE_BYTES) in str(error.details())
    else:
        frame = await relay.next_frame()
        assert frame is not None
        assert getattr(frame, method.field).SerializeToString() == message
        call.cancel()


def _of_size(method: Method, size: int) -> bytes:
    reply = trees_pb2.TreeReply(deleted=[bytes(size - 40)])
    request = trees_pb2.DownloadTreeRequest(reply=reply)
    if method is UPLOAD:
        parts = [trees_pb2.TreePart(data=bytes(size - 40))]
        upload = trees_pb2.UploadTreeRequest(content=trees_pb2.TreeContent(parts=parts))
        upload.content.parts[0].data = bytes(2 * size - 40 - upload.ByteSize())
        assert upload.ByteSize() == size
        return upload.SerializeToString()
    request.reply.deleted[0] = bytes(2 * size - 40 - request.ByteSize())
    assert request.ByteSize() == size
    return request.SerializeToString()


@BOTH
async def test_an_error_of_the_agent(
    harness: GatewayHarness, supervisor: FakeSupervisor, method: Method
) -> None:
    """TRE-3: at any time, with its reason and its facts."""
    call, relay = await started(harness, supervisor, method)
    await relay.answer(carried(method, method.answers[0]))
    error = file_relay_pb2.FileRelayError(reason="DISK_FULL", code=8, message="no", metadata={"path": "/d"})
    await relay.answer(file_relay_pb2.FileRelayResponse(error=error))
    told = await refused(call)
    assert reason_of(told) == "DISK_FULL"
    assert metadata_in(told)["path"] == "/d"


@BOTH
@pytest.mark.parametrize(
    "frame",
    [
        file_relay_pb2.FileRelayResponse(download=files_pb2.DownloadFileResponse(chunk=b"x")),
        file_relay_pb2.FileRelayResponse(download_end=file_relay_pb2.FileRelayDownloadEnd()),
        file_relay_pb2.FileRelayResponse(upload=files_pb2.UploadFileResponse()),
    ],
    ids=["content of a file", "end of a download", "answer of an upload"],
)
async def test_frames_of_other_operations(
    harness: GatewayHarness, supervisor: FakeSupervisor, method: Method, frame: Any
) -> None:
    """FRM-5."""
    call, relay = await started(harness, supervisor, method)
    await relay.answer(frame)
    assert reason_of(await refused(call)) == "AGENT_PROTOCOL_ERROR"


@BOTH
async def test_the_relay_ends(harness: GatewayHarness, supervisor: FakeSupervisor, method: Method) -> None:
    """FRM-14, FRM-35: no last frame, no success."""
    call, relay = await started(harness, supervisor, method)
    await relay.answer(carried(method, method.answers[-1]))
    await relay.call.done_writing()
    assert reason_of(await refused(call)) == "RELAY_LOST"


@BOTH
async def test_nobody_calls_without_a_token(harness: GatewayHarness, method: Method) -> None:
    """AUT-1."""
    call = opened(harness, method, signed=False)
    assert reason_of(await refused(call)) == "TOKEN_MISSING"


@BOTH
async def test_a_sandbox_of_somebody_else_is_not_found(harness: GatewayHarness, method: Method) -> None:
    """AUT-5."""
    call = opened(harness, method)
    request = type(method.start)()
    request.start.sandbox.id = "another"
    await call.write(request.SerializeToString())
    assert reason_of(await refused(call)) == "SANDBOX_NOT_FOUND"


@BOTH
async def test_an_agent_that_does_not_know_the_method(
    harness: GatewayHarness, supervisor: FakeSupervisor, method: Method
) -> None:
    """TRE-1: an older agent refuses the operation by itself."""
    call, relay = await started(harness, supervisor, method)
    error = file_relay_pb2.FileRelayError(reason="METHOD_UNSUPPORTED", code=12, message="no")
    await relay.answer(file_relay_pb2.FileRelayResponse(error=error))
    assert reason_of(await refused(call)) == "METHOD_UNSUPPORTED"


@BOTH
async def test_calls_take_slots(method: Method) -> None:
    """RLY-24: a tree counts as a transfer, from its first message to its end."""
    async with running_gateway() as harness:
        supervisor = harness.supervisor()
        await supervisor.connect(KEEPS)
        call, relay = await started(harness, supervisor, method)
        assert harness.gateway.statistics().transfers.active == 1
        await relay.answer(TREE_END)
        assert await call.read() is grpc.aio.EOF
        await until(lambda: harness.gateway.statistics().transfers.active == 0, "the slot is free")


@pytest.mark.parametrize("field", ["trees", "archives"])
@pytest.mark.parametrize("serves", [False, True])
async def test_the_option_is_announced_for_agents_that_have_it(
    field: Literal["trees", "archives"], *, serves: bool
) -> None:
    """TRE-1, ARC-1, CAP-3."""
    hello = file_relay_pb2.FileTransferCapability(
        max_tree_entries=7, max_archive_entries=8, max_extracted_bytes=9
    )
    hello.MergeFrom(FILES)
    setattr(hello, f"serves_{field}", serves)
    async with running_gateway() as harness:
        supervisor = harness.supervisor()
        await supervisor.connect(hello)
        call = cast("Any", harness.channel()).unary_unary(methods.GET_TRANSFER_CAPABILITIES)
        request = files_pb2.GetTransferCapabilitiesRequest(sandbox=HERE)
        answer = files_pb2.GetTransferCapabilitiesResponse.FromString(
            await call(request.SerializeToString(), metadata=harness.user())
        )
        assert answer.HasField(field) is serves
        limits = {"trees": 7, "archives": 8} if serves else {"trees": 0, "archives": 0}
        assert getattr(answer, field).max_entries == limits[field]
        assert answer.archives.max_extracted_bytes == (9 if answer.HasField("archives") else 0)
