"""Relays that are used again for the next operation of the same sandbox (FRM-9)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import grpc
import pytest
from conditions import until
from gateway_harness import FILES, FakeRelay, FakeSupervisor, GatewayHarness, running_gateway
from openshell_files_gateway.relay import kept
from openshell_files_protocol.limits import MAX_CHUNK_BYTES
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from stack_client import reason_of

KEEPS = file_relay_pb2.FileTransferCapability(
    protocol_version=1, max_chunk_bytes=MAX_CHUNK_BYTES, keeps_relays=True
)
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
    first, second = ask(harness), ask(harness)
    relays = [await supervisor.take_relay(), await supervisor.take_relay()]
    for relay in relays:
        await relay.next_frame()
    for relay in relays:
        await relay.answer(ANSWER)
    await asyncio.gather(first, second)
    # The one that rested last is used first.
    assert await served(relays[1], ask(harness))


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
    first, second = ask(harness), ask(harness)
    relays = [await supervisor.take_relay(), await supervisor.take_relay()]
    for relay in relays:
        await relay.next_frame()
        await relay.answer(ANSWER)
    await asyncio.gather(first, second)
    assert await relays[1].next_frame() is None
    await served(relays[0], ask(harness))


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
