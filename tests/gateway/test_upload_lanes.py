"""An upload that travels over several streams (LAN-1), at the gateway."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import grpc
import pytest
from conditions import until
from gateway_harness import (
    OTHER_SANDBOX,
    FakeSupervisor,
    GatewayHarness,
    running_gateway,
)
from lane_scene import ANSWER, UPLOAD, content, first, further, numbers, opened, taken, waiting
from openshell_files_gateway.config.tables import DEFAULT_ADMIN_ROLE, DEFAULT_USER_ROLE, LimitSettings
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2
from stack_client import reason_of


@pytest.fixture
async def harness() -> AsyncGenerator[GatewayHarness]:
    async with running_gateway(limits=LimitSettings(principal_share=1)) as running:
        yield running
        await until(lambda: running.gateway.statistics().lanes.taken == 0, "all lanes are given back")


@pytest.fixture
async def impatient(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[GatewayHarness]:
    """A gateway that does not wait long for streams."""
    monkeypatch.setattr("openshell_files_gateway.gateway.ARRIVAL_SECONDS", 0.3)
    async with running_gateway() as running:
        yield running
        await until(lambda: running.gateway.statistics().lanes.taken == 0, "all lanes are given back")


@pytest.fixture
async def supervisor(harness: GatewayHarness) -> FakeSupervisor:
    supervisor = harness.supervisor()
    await supervisor.connect()
    return supervisor


async def test_messages_reach_the_agent_in_their_order(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """LAN-1, LAN-12, LAN-2, LAN-5, LAN-7: message k on stream k mod n; the agent sees one stream, and its answer ends all."""
    streams = [await first(harness, 3), await further(harness, 1), await further(harness, 2)]
    relay, metadata = await opened(supervisor)
    assert (metadata.upload_id, metadata.lanes) == (UPLOAD, 0)
    assert taken(harness) == 2
    # The last stream's come first, and wait for their turn.
    for index in (2, 1, 0):
        for number in range(index, 8, 3):
            await streams[index].say(content(number))
        await streams[index].end()
    assert await numbers(relay, 8) == list(range(8))
    frame = await relay.next_frame()
    assert frame is not None
    assert frame.WhichOneof("frame") == "input_end"
    assert not frame.input_end.cancelled
    await relay.answer(ANSWER)
    assert [(await stream.answer()).bytes_written for stream in streams] == [9, 0, 0]
    await until(lambda: taken(harness) == 0, "the lanes are given back")


async def test_a_lane_may_come_before_its_upload(harness: GatewayHarness, supervisor: FakeSupervisor) -> None:
    """LAN-6: it waits."""
    lane = await further(harness, 1)
    await until(lambda: waiting(harness) == 1, "the lane waits")
    main = await first(harness, 2)
    relay, _ = await opened(supervisor)
    assert waiting(harness) == 0
    await main.say(content(0))
    await lane.say(content(1))
    assert await numbers(relay, 2) == [0, 1]
    await relay.answer(ANSWER)
    assert (await main.answer()).bytes_written == 9
    await lane.answer()


async def test_what_comes_after_the_end_is_not_read(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """LAN-16: the first stream that has no message at its turn is the end."""
    main, lane = await first(harness, 2), await further(harness, 1)
    relay, _ = await opened(supervisor)
    await lane.say(content(1))
    await lane.say(content(3))
    await main.say(content(0))
    await main.end()
    assert await numbers(relay, 2) == [0, 1]
    frame = await relay.next_frame()
    assert frame is not None
    assert frame.WhichOneof("frame") == "input_end"
    # Nor does it matter any more what becomes of the lane.
    lane.call.cancel()
    await relay.answer(ANSWER)
    assert (await main.answer()).bytes_written == 9


async def test_a_lane_that_breaks_off_ends_the_upload(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """LAN-8, LAN-17, UPL-1: with an error that may be tried again, and never as the end of the content."""
    main, lane = await first(harness, 3), await further(harness, 1)
    other = await further(harness, 2)
    relay, _ = await opened(supervisor)
    await main.say(content(0))
    await lane.say(content(1))
    assert await numbers(relay, 2) == [0, 1]
    lane.call.cancel()
    refusal = await main.refusal()
    assert (reason_of(refusal), refusal.code()) == ("LANE_LOST", grpc.StatusCode.UNAVAILABLE)
    await other.answer()
    frame = await relay.next_frame()
    assert frame is None or frame.input_end.cancelled


async def test_a_lane_that_breaks_off_out_of_turn(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """LAN-8: also while the first stream's next message is waited for."""
    main, lane = await first(harness, 2), await further(harness, 1)
    await opened(supervisor)
    await until(lambda: taken(harness) == 1, "the upload is here")
    await lane.say(content(1))
    await main.say(content(0))
    lane.call.cancel()
    assert reason_of(await main.refusal()) == "LANE_LOST"


async def test_a_lane_that_died_before_its_upload_came(impatient: GatewayHarness) -> None:
    """LAN-8: the upload does not wait for it longer than for any other."""
    supervisor = impatient.supervisor()
    await supervisor.connect()
    lane = await further(impatient, 1)
    await until(lambda: waiting(impatient) == 1, "the lane waits")
    lane.call.cancel()
    await until(lambda: waiting(impatient) == 0, "the lane is gone")
    main = await first(impatient, 2)
    await opened(supervisor)
    await main.say(content(0))
    assert reason_of(await main.refusal()) == "LANE_LOST"


async def test_lanes_that_are_never_opened(impatient: GatewayHarness) -> None:
    """LAN-6: an upload waits for its streams for a bounded time, and gives back what it took."""
    supervisor = impatient.supervisor()
    await supervisor.connect()
    main = await first(impatient, 8)
    await opened(supervisor)
    assert taken(impatient) == 7
    await main.say(content(0))
    assert reason_of(await main.refusal()) == "LANE_LOST"
    await until(lambda: taken(impatient) == 0, "the lanes are given back")


async def test_a_lane_whose_upload_does_not_come(impatient: GatewayHarness) -> None:
    """LAN-6: it waits for a bounded time."""
    lane = await further(impatient, 1)
    assert reason_of(await lane.refusal()) == "LANE_LOST"
    assert waiting(impatient) == 0


@pytest.mark.parametrize("how", ["cancelled", "refused", "relay ends", "agent says nonsense"])
async def test_lanes_end_with_their_upload(
    harness: GatewayHarness, supervisor: FakeSupervisor, how: str
) -> None:
    """LAN-7: for whatever reason it is over; a lane has nothing to say of that."""
    main = await first(harness, 3)
    lanes = [await further(harness, 1), await further(harness, 2)]
    relay, _ = await opened(supervisor)
    await main.say(content(0))
    assert await numbers(relay, 1) == [0]
    match how:
        case "cancelled":
            main.call.cancel()
        case "refused":
            error = file_relay_pb2.FileRelayError(reason="DISK_FULL", message="full", code=8)
            await relay.answer(file_relay_pb2.FileRelayResponse(error=error))
            assert reason_of(await main.refusal()) == "DISK_FULL"
        case "relay ends":
            relay.call.cancel()
            assert reason_of(await main.refusal()) == "RELAY_LOST"
        case _:
            await relay.send_bytes(b"\xff" * 16)
            await main.refusal()
    for lane in lanes:
        assert (await lane.answer()).bytes_written == 0
    await until(lambda: taken(harness) == 0, "the lanes are given back")


async def test_a_lane_of_something_else_is_not_this_uploads(impatient: GatewayHarness) -> None:
    """LAN-4: principal, sandbox, upload and attempt are all the same, or it waits for another upload."""
    supervisor = impatient.supervisor()
    await supervisor.connect()
    main = await first(impatient, 2)
    await opened(supervisor)
    administrator = impatient.identity_provider.issue(
        sub="somebody-else", realm_access={"roles": [DEFAULT_ADMIN_ROLE, DEFAULT_USER_ROLE]}
    )
    somebody = (("authorization", f"Bearer {administrator}"),)
    strangers = [
        await further(impatient, 1, metadata=somebody),
        await further(impatient, 1, sandbox_id=OTHER_SANDBOX),
        await further(impatient, 1, upload_id="upload-2"),
        await further(impatient, 1, epoch=2),
    ]
    assert {reason_of(await stranger.refusal()) for stranger in strangers} == {"LANE_LOST"}
    main.call.cancel()


async def test_a_newer_attempt_has_lanes_of_its_own(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """LAN-4, RSM-5: the streams of two attempts do not mix."""
    old, old_lane = await first(harness, 2, epoch=1), await further(harness, 1, epoch=1)
    old_relay, _ = await opened(supervisor)
    new_lane = await further(harness, 1, epoch=2)
    new = await first(harness, 2, epoch=2)
    new_relay, metadata = await opened(supervisor)
    assert metadata.epoch == 2
    for number, stream in ((10, new), (11, new_lane), (0, old), (1, old_lane)):
        await stream.say(content(number))
    assert await numbers(new_relay, 2) == [10, 11]
    assert await numbers(old_relay, 2) == [0, 1]
    error = file_relay_pb2.FileRelayError(reason="SUPERSEDED", message="newer", code=10)
    await old_relay.answer(file_relay_pb2.FileRelayResponse(error=error))
    assert reason_of(await old.refusal()) == "SUPERSEDED"
    await old_lane.answer()
    await new_relay.answer(ANSWER)
    assert (await new.answer()).bytes_written == 9
    await new_lane.answer()


async def test_a_second_call_for_the_same_attempt(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """LAN-3: gets the streams that come from then on; the first one keeps what it has."""
    one, lane_of_one = await first(harness, 2), await further(harness, 1)
    relay_of_one, _ = await opened(supervisor)
    await one.say(content(0))
    await lane_of_one.say(content(1))
    assert await numbers(relay_of_one, 2) == [0, 1]
    two = await first(harness, 2)
    relay_of_two, _ = await opened(supervisor)
    lane_of_two = await further(harness, 1)
    await two.say(content(10))
    await lane_of_two.say(content(11))
    assert await numbers(relay_of_two, 2) == [10, 11]
    await relay_of_one.answer(ANSWER)
    await one.answer()
    await lane_of_one.answer()
    # What ended was not what the table knows now.
    assert taken(harness) == 1
    await relay_of_two.answer(ANSWER)
    await two.answer()
    await lane_of_two.answer()


async def test_a_gateway_that_stops_lets_none_hang(
    harness: GatewayHarness, supervisor: FakeSupervisor
) -> None:
    """RLY-21: neither an upload with lanes nor a lane that waits."""
    main, lane = await first(harness, 2), await further(harness, 1)
    lost = await further(harness, 1, upload_id="upload-2")
    await opened(supervisor)
    await until(lambda: waiting(harness) == 1, "the lane waits")
    await harness.gateway.stop()
    for stream in (main, lane, lost):
        await until(stream.call.done, "the call is over")
    # grpc.aio tells the callers first, and the calls a moment later.
    await until(lambda: taken(harness) == waiting(harness) == 0, "the lanes are given back")
