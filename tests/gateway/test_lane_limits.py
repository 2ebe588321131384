"""Which uploads may have lanes, and how many (LAN-3, LAN-9, LAN-13 to LAN-15)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
from conditions import until
from gateway_harness import (
    FakeSupervisor,
    GatewayHarness,
    running_gateway,
)
from lane_scene import ANSWER, UPLOAD, Stream, content, first, further, numbers, opened, waiting
from openshell_files_gateway.config.tables import LimitSettings
from stack_client import reason_of
from status_details import field_in, metadata_in, retry_seconds_in


@pytest.fixture
async def harness() -> AsyncGenerator[GatewayHarness]:
    async with running_gateway(limits=LimitSettings(principal_share=1)) as running:
        yield running
        await until(lambda: running.gateway.statistics().lanes.taken == 0, "all lanes are given back")


@pytest.fixture
async def supervisor(harness: GatewayHarness) -> FakeSupervisor:
    supervisor = harness.supervisor()
    await supervisor.connect()
    return supervisor


async def test_a_lane_needs_a_token(harness: GatewayHarness) -> None:
    """LAN-15, AUT-1."""
    # Nothing is written: grpc.aio replaces the status of a call that ends during a write by INTERNAL.
    lane = Stream(harness, metadata=(("authorization", "Bearer no"),))
    assert (await lane.refusal()).code() is grpc.StatusCode.UNAUTHENTICATED
    assert waiting(harness) == 0


async def test_each_lane_comes_once(harness: GatewayHarness, supervisor: FakeSupervisor) -> None:
    """LAN-14: a second one, or one that the upload did not name, is refused and does the upload no harm."""
    main, lane = await first(harness, 2), await further(harness, 1)
    relay, _ = await opened(supervisor)
    await main.say(content(0))
    await lane.say(content(1))
    assert await numbers(relay, 2) == [0, 1]
    for index in (1, 2):
        refusal = await (await further(harness, index)).refusal()
        assert (reason_of(refusal), field_in(refusal)) == ("INVALID_REQUEST", "lane.index")
    await relay.answer(ANSWER)
    assert (await main.answer()).bytes_written == 9


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"explicit_finish": False}, "metadata.explicit_finish"),
        ({"upload_id": ""}, "metadata.upload_id"),
        ({"lanes": 9}, "metadata.lanes"),
    ],
)
async def test_what_lanes_need(harness: GatewayHarness, changes: dict[str, Any], field: str) -> None:
    """LAN-13: an upload that was announced, a finish, and no more than eight streams."""
    main = await first(harness, **({"lanes": 2} | changes))
    refusal = await main.refusal()
    assert (reason_of(refusal), field_in(refusal)) == ("INVALID_REQUEST", field)


@pytest.mark.parametrize(
    ("index", "upload_id", "field"),
    [(0, UPLOAD, "lane.index"), (8, UPLOAD, "lane.index"), (1, "", "lane.upload_id")],
)
async def test_what_a_lane_says(harness: GatewayHarness, index: int, upload_id: str, field: str) -> None:
    """LAN-3."""
    refusal = await (await further(harness, index, upload_id=upload_id)).refusal()
    assert (reason_of(refusal), field_in(refusal)) == ("INVALID_REQUEST", field)


async def test_more_than_are_free_are_refused(harness: GatewayHarness, supervisor: FakeSupervisor) -> None:
    """LAN-9, LAN-18: before anything reaches the sandbox, at once, and without a pause; one stream is always free."""
    holding = [await first(harness, 8, epoch=number) for number in (1, 2)]
    for _ in holding:
        await opened(supervisor)
    refusal = await (await first(harness, 4, epoch=3)).refusal()
    assert (reason_of(refusal), refusal.code()) == ("TOO_MANY_LANES", grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert metadata_in(refusal)["lanes"] == "3"
    assert retry_seconds_in(refusal) is None
    alone = await first(harness, 1, epoch=3)
    relay, _ = await opened(supervisor)
    await alone.say(content(0))
    assert await numbers(relay, 1) == [0]
    assert harness.gateway.statistics().lanes.refused == 1
    for stream in (alone, *holding):
        stream.call.cancel()


async def test_lanes_can_be_switched_off() -> None:
    async with running_gateway(limits=LimitSettings(max_upload_lanes=0)) as harness:
        supervisor = harness.supervisor()
        await supervisor.connect()
        assert reason_of(await (await first(harness, 2)).refusal()) == "TOO_MANY_LANES"
        assert reason_of(await (await further(harness, 1)).refusal()) == "TOO_MANY_LANES"
