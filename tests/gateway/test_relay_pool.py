"""Relays that are used again for the next operation of the same sandbox (FRM-26)."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, cast

import grpc
import pytest
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
from openshell_files_gateway.config.tables import RelaySettings, WorkspaceMember, WorkspaceSettings
from openshell_files_gateway.relay import pool
from openshell_files_gateway.relay.core.relay_states import RelayState
from openshell_files_gateway.relay.file_relay import FileRelay
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
    """Have two operations at the same time; their relays, the one that is idle longer first."""
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


async def test_each_operation_on_a_relay_is_authorized_by_itself() -> None:
    """FRM-27: a caller who may not use the sandbox gets nothing of an idle relay; the agent is told who asks now."""
    members = tuple(WorkspaceMember(subject=name) for name in ("alice", "carol"))
    workspaces = (
        WorkspaceSettings(name="default", members=members),
        WorkspaceSettings(name="theirs", members=()),
    )
    async with running_gateway(changes={"workspaces": workspaces}) as harness:
        supervisor = harness.supervisor()
        await supervisor.connect(KEEPS)
        request = files_pb2.StatFileRequest(sandbox=files_pb2.SandboxRef(id=SANDBOX), remote_path="/f")
        method = cast("Any", harness.channel().unary_unary(methods.STAT_FILE))

        async def asked_by(name: str) -> object:
            bearer = f"Bearer {harness.identity_provider.issue(sub=name)}"
            return await method(request.SerializeToString(), metadata=(("authorization", bearer),))

        relay: FakeRelay | None = None
        principals = list[str]()
        for name in ("alice", "mallory", "carol"):
            asking = asyncio.create_task(asked_by(name))
            if name == "mallory":
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await asking
                assert reason_of(refused.value) == "SANDBOX_NOT_FOUND"
                continue
            relay = relay or await supervisor.take_relay()
            frame = await relay.next_frame()
            assert frame is not None
            principals.append(frame.open.principal.rpartition("|")[2])
            await relay.answer(ANSWER)
            await asking
        assert principals == ["alice", "carol"]


async def test_a_supervisor_that_does_not_keep_relays_is_not_asked_to(harness: GatewayHarness) -> None:
    """FRM-23: its relay ends with the operation."""
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


async def test_a_relay_whose_operation_failed_in_order_is_reused(
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


async def test_a_relay_whose_caller_left_is_not_reused(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    asking = ask(harness)
    relay = await supervisor.take_relay()
    await relay.next_frame()
    asking.cancel()
    while await relay.next_frame() is not None:
        pass
    await used_once(harness, supervisor)


async def test_a_relay_that_is_idle_too_long_ends(
    harness: GatewayHarness, supervisor: FakeSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "IDLE_SECONDS", 0.05)
    relay = await used_once(harness, supervisor)
    assert await relay.next_frame() is None
    await used_once(harness, supervisor)


async def test_an_old_relay_ends_with_its_operation(
    harness: GatewayHarness, supervisor: FakeSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a connection that is to be replaced would never be without calls."""
    monkeypatch.setattr(pool, "MAX_AGE_SECONDS", 0.0)
    monkeypatch.setattr(pool, "IDLE_SECONDS", 3600.0)
    relay = await used_once(harness, supervisor)
    # The gateway ends a session that says nothing, and its relays; it must not come to that.
    async with asyncio.timeout(RelaySettings().silence_timeout / 2):
        assert await relay.next_frame() is None


async def test_no_more_relays_are_idle_than_may_be(
    harness: GatewayHarness, supervisor: FakeSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MAX_IDLE", 1)
    first, second = await used_at_once(harness, supervisor)
    assert await second.next_frame() is None
    await served(first, ask(harness))


@pytest.mark.parametrize("how", ["ends", "cancels", "speaks"])
async def test_a_relay_that_the_supervisor_ends_while_idle_is_not_used(
    harness: GatewayHarness, supervisor: FakeSupervisor, how: str
) -> None:
    """FRM-26, FRM-28: even if it only says something without being asked."""
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
    """FRM-26."""
    old = await used_once(harness, supervisor)
    newer = harness.supervisor()
    await newer.connect(KEEPS)
    await used_once(harness, newer)
    assert await old.next_frame() is None


async def test_a_gateway_that_stops_ends_idle_relays(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """RLY-21: nobody waits for them."""
    relay = await used_once(harness, supervisor)
    stopping = asyncio.create_task(harness.gateway.stop())
    assert await asyncio.wait_for(relay.next_frame(), 3) is None
    await stopping


async def test_an_idle_relay_ends_in_its_time_although_others_are_used(
    harness: GatewayHarness, supervisor: FakeSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own time, however busy the sandbox is."""
    monkeypatch.setattr(pool, "IDLE_SECONDS", 0.5)
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


async def test_a_sandbox_that_floods_is_refused_even_if_a_relay_is_idle(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """RLY-26."""
    asking, flooded = ask(harness), ask(harness)
    idle, flooding = [await supervisor.take_relay(), await supervisor.take_relay()]
    await idle.next_frame()
    await idle.answer(ANSWER)
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
async def test_a_relay_whose_agent_is_confused_is_not_reused(
    harness: GatewayHarness, supervisor: FakeSupervisor, frame: file_relay_pb2.FileRelayResponse
) -> None:
    """FRM-25: its next words could be taken for the answer to somebody else."""
    asking = ask(harness)
    relay = await supervisor.take_relay()
    await relay.next_frame()
    await relay.answer(frame)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asking
    assert reason_of(refused.value) == "AGENT_PROTOCOL_ERROR"
    assert await relay.next_frame() is None
    await used_once(harness, supervisor)


def relays_in_use(harness: GatewayHarness) -> set[FileRelay]:
    """Return the relays of the sandbox that operations have."""
    return harness.gateway._pool._in_use.get(SANDBOX, set())


def upload(harness: GatewayHarness) -> asyncio.Task[object]:
    """Upload three bytes as a client of the RFC alone does."""
    about = files_pb2.UploadFileMetadata(sandbox_id=SANDBOX, remote_path="/f", size_bytes=3)
    messages = (
        files_pb2.UploadFileRequest(metadata=about).SerializeToString(),
        files_pb2.UploadFileRequest(chunk=b"abc").SerializeToString(),
    )

    return asyncio.create_task(sent(harness, messages))


async def sent(harness: GatewayHarness, messages: Sequence[bytes]) -> object:
    """Send an upload's messages, and wait for its end."""
    method = cast("Any", harness.channel().stream_unary(methods.UPLOAD_FILE))
    return await method(iter(messages), metadata=harness.user())


async def test_a_small_file_goes_in_one_piece(harness: GatewayHarness, supervisor: FakeSupervisor) -> None:
    """FRM-4, FRM-6: content and end, behind the `open` that the agent is busy with meanwhile."""
    uploading = upload(harness)
    relay = await supervisor.take_relay()
    for kinds in (["open"], ["upload", "input_end"]):
        assert [frame.WhichOneof("frame") for frame in await relay.next_write()] == kinds
    answer = files_pb2.UploadFileResponse(bytes_written=3)
    await relay.answer(file_relay_pb2.FileRelayResponse(upload=answer))
    await uploading


@pytest.mark.parametrize("how", ["ends", "breaks"])
@pytest.mark.parametrize("kind", ["question", "upload"])
async def test_an_operation_whose_reused_relay_is_over_is_lost(
    harness: GatewayHarness, supervisor: FakeSupervisor, kind: str, how: str
) -> None:
    """FRM-29: the caller's retry takes it from there, on a relay that works."""
    relay = await used_once(harness, supervisor)
    operation = ask(harness) if kind == "question" else upload(harness)
    assert await relay.next_frame() is not None
    if how == "ends":
        await relay.call.done_writing()
    else:
        relay.call.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as lost:
        await operation
    assert reason_of(lost.value) == "RELAY_LOST"
    await used_once(harness, supervisor)


async def test_a_supervisor_that_is_dead_without_a_sign_is_not_waited_for(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """FRM-30: a newer session ends an operation on a reused relay of which the agent has said nothing."""
    relay = await used_once(harness, supervisor)
    asking = ask(harness)
    assert await relay.next_frame() is not None
    newer = harness.supervisor()
    await newer.connect(KEEPS)
    with pytest.raises(grpc.aio.AioRpcError) as lost:
        await asking
    assert reason_of(lost.value) == "RELAY_LOST"
    await used_once(harness, newer)


async def test_an_operation_on_a_new_relay_outlives_its_session(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """FRM-30: the supervisor claimed the relay for this operation, so it is there although its agent said nothing yet."""
    asking = ask(harness)
    relay = await supervisor.take_relay()
    assert await relay.next_frame() is not None
    newer = harness.supervisor()
    await newer.connect(KEEPS)
    await relay.answer(ANSWER)
    assert (await asking).file.size_bytes == 5


async def test_an_operation_that_was_answered_outlives_its_session(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """FRM-30: the agent is heard, so the supervisor is there, whatever became of its session."""
    relay = await used_once(harness, supervisor)
    asking = ask(harness)
    assert await relay.next_frame() is not None
    accepted = file_relay_pb2.FileRelayAccepted(protocol_version=1)
    await relay.answer(file_relay_pb2.FileRelayResponse(accepted=accepted))
    await until(lambda: any(used.heard for used in relays_in_use(harness)), "the gateway heard it")
    newer = harness.supervisor()
    await newer.connect(KEEPS)
    await relay.answer(ANSWER)
    assert (await asking).file.size_bytes == 5


async def test_a_relay_with_input_on_its_way_is_not_reused(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """FRM-26: the agent refused an upload whose caller still sends; a frame may be cut."""
    about = files_pb2.UploadFileMetadata(sandbox_id=SANDBOX, remote_path="/f", size_bytes=1 << 40)
    call = cast("Any", harness.channel().stream_unary(methods.UPLOAD_FILE))(metadata=harness.user())
    await call.write(files_pb2.UploadFileRequest(metadata=about).SerializeToString())
    relay = await supervisor.take_relay()
    assert await relay.next_frame() is not None
    await relay.answer(MISSING)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    assert reason_of(refused.value) == "FILE_NOT_FOUND"
    async with asyncio.timeout(PATIENCE_SECONDS):
        await used_once(harness, supervisor)


async def test_the_states_of_relays_are_counted(harness: GatewayHarness, supervisor: FakeSupervisor) -> None:
    """Opening, in use, idle, and nothing of one that is closed."""
    count = harness.gateway.statistics().relays
    assert not count
    asking = ask(harness)
    await until(lambda: harness.gateway.statistics().relays == {RelayState.OPENING: 1}, "it opens")
    relay = await supervisor.take_relay()
    await relay.next_frame()
    assert harness.gateway.statistics().relays == {RelayState.IN_USE: 1}
    await relay.answer(ANSWER)
    await asking
    await until(lambda: harness.gateway.statistics().relays == {RelayState.IDLE: 1}, "it is idle")
    relay.call.cancel()
    await used_once(harness, supervisor)
    await until(lambda: harness.gateway.statistics().relays == {RelayState.IDLE: 1}, "the broken one is gone")
