"""Relays that are used again for the next operation of the same sandbox (FRM-9)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, cast

import grpc
import pytest
from conditions import until
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
from openshell_files_gateway.relay import kept
from openshell_files_protocol import methods
from openshell_files_protocol.limits import MAX_MESSAGE_BYTES
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2, openshell_pb2
from stack_client import reason_of

ANSWER = file_relay_pb2.FileRelayResponse(
    stat_file=files_pb2.StatFileResponse(file=files_pb2.FileInfo(path="/f", size_bytes=5))
)
MISSING = file_relay_pb2.FileRelayResponse(
    error=file_relay_pb2.FileRelayError(reason="FILE_NOT_FOUND", message="no", code=5)
)


@pytest.fixture
async def harness() -> AsyncGenerator[GatewayHarness]:
    async with running_gateway() as running:
        yield running


@pytest.fixture
async def supervisor(harness: GatewayHarness) -> FakeSupervisor:
    supervisor = harness.supervisor()
    await supervisor.connect(KEEPS)
    return supervisor


def ask(harness: GatewayHarness) -> asyncio.Task[files_pb2.StatFileResponse]:
    return asyncio.create_task(harness.stat())


async def served(
    relay: FakeRelay, asking: asyncio.Task[files_pb2.StatFileResponse]
) -> file_relay_pb2.FileRelayOpen:
    """Answer one operation on a relay; returns its first frame."""
    frame = await relay.next_frame()
    assert frame is not None
    assert frame.WhichOneof("frame") == "open"
    await relay.answer(ANSWER)
    assert (await asking).file.size_bytes == 5
    return frame.open


async def used_once(harness: GatewayHarness, supervisor: FakeSupervisor) -> FakeRelay:
    asking = ask(harness)
    relay = await supervisor.take_relay()
    assert (await served(relay, asking)).keep_relay
    return relay


async def used_at_once(harness: GatewayHarness, supervisor: FakeSupervisor) -> tuple[FakeRelay, FakeRelay]:
    """Have two operations at the same time; their relays, the one that rests longer first."""
    first, second = ask(harness), ask(harness)
    relays = await supervisor.take_relay(), await supervisor.take_relay()
    for relay in relays:
        await relay.next_frame()
    for relay in relays:
        await relay.answer(ANSWER)
    await asyncio.gather(first, second)
    return relays


async def test_the_next_operation_uses_the_relay_of_the_last(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """FRM-9: each with an open of its own, which names its transfer."""
    relay = await used_once(harness, supervisor)
    names = {(await served(relay, ask(harness))).transfer_id for _ in range(3)}
    assert len(names) == 3


async def test_a_supervisor_that_does_not_keep_relays_is_not_asked_to(harness: GatewayHarness) -> None:
    """FRM-9: its relay ends with the operation."""
    supervisor = harness.supervisor()
    await supervisor.connect(FILES)
    asking = ask(harness)
    relay = await supervisor.take_relay()
    assert not (await served(relay, asking)).keep_relay
    assert await relay.next_frame() is None


async def test_operations_at_the_same_time_have_relays_of_their_own(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    _, last = await used_at_once(harness, supervisor)
    await served(last, ask(harness))


async def test_one_that_failed_in_order_can_be_used_again(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    asking = ask(harness)
    relay = await supervisor.take_relay()
    await relay.next_frame()
    await relay.answer(MISSING)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asking
    assert reason_of(refused.value) == "FILE_NOT_FOUND"
    await served(relay, ask(harness))


async def test_one_whose_caller_left_is_not_used_again(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    asking = ask(harness)
    relay = await supervisor.take_relay()
    await relay.next_frame()
    asking.cancel()
    while await relay.next_frame() is not None:
        pass
    await used_once(harness, supervisor)


async def test_one_that_rests_too_long_ends(
    harness: GatewayHarness, supervisor: FakeSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "KEEP_SECONDS", 0.05)
    relay = await used_once(harness, supervisor)
    assert await relay.next_frame() is None
    await used_once(harness, supervisor)


async def test_one_that_is_old_ends_with_its_operation(
    harness: GatewayHarness, supervisor: FakeSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a connection that is to be replaced would never be without calls."""
    monkeypatch.setattr(kept, "MOST_SECONDS", 0.0)
    relay = await used_once(harness, supervisor)
    assert await relay.next_frame() is None


async def test_no_more_rest_than_may(
    harness: GatewayHarness, supervisor: FakeSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST_RELAYS", 1)
    first, second = await used_at_once(harness, supervisor)
    assert await second.next_frame() is None
    await served(first, ask(harness))


@pytest.mark.parametrize("how", ["ends", "cancels", "speaks"])
async def test_one_that_the_supervisor_ends_at_rest_is_not_used(
    harness: GatewayHarness, supervisor: FakeSupervisor, how: str
) -> None:
    """FRM-9: also one on which it says something without being asked."""
    relay = await used_once(harness, supervisor)
    match how:
        case "ends":
            await relay.call.done_writing()
        case "cancels":
            relay.call.cancel()
        case _:
            await relay.answer(ANSWER)
    await until(relay.call.done, "the gateway has let go of it")
    await used_once(harness, supervisor)


async def test_relays_of_an_older_session_are_not_used(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    old = await used_once(harness, supervisor)
    newer = harness.supervisor()
    await newer.connect(KEEPS)
    await used_once(harness, newer)
    assert await old.next_frame() is None


async def test_a_gateway_that_stops_ends_those_at_rest(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """RLY-8: nobody waits for them."""
    relay = await used_once(harness, supervisor)
    stopping = asyncio.create_task(harness.gateway.stop())
    assert await asyncio.wait_for(relay.next_frame(), 3) is None
    await stopping


async def test_one_at_rest_ends_in_its_time_although_others_are_used(
    harness: GatewayHarness, supervisor: FakeSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own time, however busy the sandbox is."""
    monkeypatch.setattr(kept, "KEEP_SECONDS", 0.5)
    idle, busy = await used_at_once(harness, supervisor)
    ending = asyncio.create_task(idle.next_frame())
    while not ending.done():
        await served(busy, ask(harness))
    assert ending.result() is None


async def test_an_operation_that_was_never_sent_does_no_harm(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """Too large to be passed on: the relay that it had is as it was, or is closed."""
    relay = await used_once(harness, supervisor)
    request = files_pb2.StatFileRequest(
        sandbox=files_pb2.SandboxRef(id=SANDBOX), remote_path="x" * (MAX_MESSAGE_BYTES // 2)
    )
    request.remote_path += "x" * (MAX_MESSAGE_BYTES - request.ByteSize() - 2)
    large = cast("Any", harness.channel().unary_unary(methods.STAT_FILE))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await large(request.SerializeToString(), metadata=harness.user())
    assert reason_of(refused.value) == "INVALID_REQUEST"
    asking = ask(harness)
    if await relay.next_frame() is None:
        relay = await supervisor.take_relay()
        await served(relay, asking)
    else:
        await relay.answer(ANSWER)
        await asking


async def test_a_sandbox_that_floods_is_refused_also_where_a_relay_rests(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """RLY-10."""
    asking, flooded = ask(harness), ask(harness)
    resting, flooding = [await supervisor.take_relay(), await supervisor.take_relay()]
    await resting.next_frame()
    await resting.answer(ANSWER)
    empty = openshell_pb2.RelayFrame(data=b"").SerializeToString()
    await pour(flooding.call, empty)
    for operation in (asking, flooded):
        with suppress(grpc.aio.AioRpcError):
            await operation
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await harness.stat()
    assert reason_of(refused.value) == "SUPERVISOR_FLOODS"


WRONG = file_relay_pb2.FileRelayResponse(list_uploads=files_pb2.ListUploadsResponse())
BROKEN = file_relay_pb2.FileRelayResponse(
    error=file_relay_pb2.FileRelayError(reason="AGENT_PROTOCOL_ERROR", message="no frames", code=13)
)


@pytest.mark.parametrize("frame", [WRONG, BROKEN], ids=["another answer", "lost count of frames"])
async def test_one_whose_agent_is_confused_is_not_used_again(
    harness: GatewayHarness, supervisor: FakeSupervisor, frame: file_relay_pb2.FileRelayResponse
) -> None:
    """FRM-9: its next words could be taken for the answer to somebody else."""
    asking = ask(harness)
    relay = await supervisor.take_relay()
    await relay.next_frame()
    await relay.answer(frame)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asking
    assert reason_of(refused.value) == "AGENT_PROTOCOL_ERROR"
    assert await relay.next_frame() is None
    await used_once(harness, supervisor)


def upload(harness: GatewayHarness, request_id: str = "") -> asyncio.Task[object]:
    """Upload three bytes as a client of the RFC alone does, and more if it is said."""
    about = files_pb2.UploadFileMetadata(
        sandbox_id=SANDBOX, remote_path="/f", size_bytes=3, request_id=request_id
    )
    messages = (
        files_pb2.UploadFileRequest(metadata=about).SerializeToString(),
        files_pb2.UploadFileRequest(chunk=b"abc").SerializeToString(),
    )

    return asyncio.create_task(sent(harness, messages))


async def sent(harness: GatewayHarness, messages: Sequence[bytes]) -> object:
    """Send an upload's messages, and wait for its end."""
    method = cast("Any", harness.channel().stream_unary(methods.UPLOAD_FILE))
    return await method(iter(messages), metadata=harness.user())


async def whole_upload(relay: FakeRelay) -> None:
    """Take an upload and answer it."""
    kinds: list[str | None] = []
    while "input_end" not in kinds:
        frame = await relay.next_frame()
        assert frame is not None
        kinds.append(frame.WhichOneof("frame"))
        if frame.WhichOneof("frame") == "upload":
            assert frame.upload.chunk == b"abc"
    assert kinds == ["open", "upload", "input_end"]
    answer = files_pb2.UploadFileResponse(bytes_written=3)
    await relay.answer(file_relay_pb2.FileRelayResponse(upload=answer))


async def test_a_small_file_goes_in_one_piece(harness: GatewayHarness, supervisor: FakeSupervisor) -> None:
    """FRM-4, FRM-6: content and end, behind the `open` that the agent is busy with meanwhile."""
    uploading = upload(harness)
    relay = await supervisor.take_relay()
    for kinds in (["open"], ["upload", "input_end"]):
        assert [frame.WhichOneof("frame") for frame in await relay.next_write()] == kinds
    answer = files_pb2.UploadFileResponse(bytes_written=3)
    await relay.answer(file_relay_pb2.FileRelayResponse(upload=answer))
    await uploading


@pytest.mark.parametrize("kind", ["question", "upload"])
async def test_one_that_ends_as_it_is_used_again_costs_nobody_the_operation(
    harness: GatewayHarness, supervisor: FakeSupervisor, kind: str
) -> None:
    """FRM-9: the agent may end it at any time, so the operation begins anew where nothing was heard."""
    old = await used_once(harness, supervisor)
    asking = ask(harness) if kind == "question" else None
    uploading = upload(harness) if kind == "upload" else None
    assert await old.next_frame() is not None
    await old.call.done_writing()
    relay = await supervisor.take_relay()
    if asking is not None:
        await served(relay, asking)
    if uploading is not None:
        await whole_upload(relay)
        await uploading


@pytest.mark.parametrize("again", [False, True])
async def test_an_upload_that_may_have_happened_is_not_repeated(
    harness: GatewayHarness, supervisor: FakeSupervisor, *, again: bool
) -> None:
    """Unless its request id makes two of it one (RSM-1)."""
    relay = await used_once(harness, supervisor)
    uploading = upload(harness, str(uuid.uuid4()) if again else "")
    assert await relay.next_frame() is not None
    relay.call.cancel()
    if again:
        await whole_upload(await supervisor.take_relay())
        await uploading
        return
    with pytest.raises(grpc.aio.AioRpcError) as lost:
        await uploading
    assert reason_of(lost.value) == "RELAY_LOST"


async def test_a_supervisor_that_is_dead_without_a_sign_is_not_waited_for(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """RLY-4: what it was asked for goes to the new session, on a used relay as on a new one."""
    old = await used_once(harness, supervisor)
    asking = ask(harness)
    assert await old.next_frame() is not None
    newer = harness.supervisor()
    await newer.connect(KEEPS)
    await served(await newer.take_relay(), asking)


async def test_more_than_is_held_waits_for_a_sign_of_the_agent(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """A large upload on a used relay: what is sent before `accepted` is bounded."""
    relay = await used_once(harness, supervisor)
    chunk, count = b"x" * (128 << 10), 6
    about = files_pb2.UploadFileMetadata(sandbox_id=SANDBOX, remote_path="/f", size_bytes=len(chunk) * count)
    messages = [files_pb2.UploadFileRequest(metadata=about).SerializeToString()]
    messages += [files_pb2.UploadFileRequest(chunk=chunk).SerializeToString()] * count
    call = asyncio.create_task(sent(harness, messages))
    received = 0
    accepted = False
    while received < len(chunk) * count:
        frame = await asyncio.wait_for(relay.next_frame(), 5)
        assert frame is not None
        received += len(frame.upload.chunk)
        if received >= 256 << 10 and not accepted:
            accepted = True
            await relay.answer(
                file_relay_pb2.FileRelayResponse(
                    accepted=file_relay_pb2.FileRelayAccepted(protocol_version=1)
                )
            )
    answer = files_pb2.UploadFileResponse(bytes_written=received)
    await relay.answer(file_relay_pb2.FileRelayResponse(upload=answer))
    await call
