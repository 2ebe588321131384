"""What a supervisor's messages cost in its rate limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any, cast

import pytest
from conditions import until
from gateway_harness import (
    OTHER_SANDBOX,
    SANDBOX,
)
from lying_scene import ANSWER, DOWNLOADED, OK, Scene, grpc_poller, lying
from openshell_files_gateway.server.core.pace import Pace
from openshell_files_protocol import methods
from openshell_files_protocol.framing import frame_segments
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2, openshell_pb2


@pytest.fixture(scope="module", autouse=True)
def poller() -> Generator[None]:
    with grpc_poller():
        yield


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Scene]:
    async with lying(monkeypatch) as scene:
        yield scene


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was counted against supervisors' paces."""
    counted: list[float] = []
    take = Pace.take

    def spy(pace: Pace, now: float, cost: float = 1.0) -> float:
        counted.append(cost)
        return take(pace, now, cost)

    monkeypatch.setattr(Pace, "take", spy)
    return counted


async def test_refused_claims_count_more(costs: list[float], scene: Scene) -> None:
    """RLY-10: a supervisor that guesses channels slows down itself, and nobody else."""
    costs.clear()
    assert await scene.end_of(await scene.claim("no-such-channel")) == "RELAY_UNKNOWN"
    assert max(costs) == 9.0, "besides the one that each call counts for"
    costs.clear()
    asking = asyncio.create_task(scene.harness.stat(OTHER_SANDBOX))
    await scene.serve()
    await asking
    assert set(costs) == {1.0}


async def test_a_large_control_message_counts_for_several(costs: list[float], scene: Scene) -> None:
    huge = openshell_pb2.RelayOpenResult(channel_id="no-such-channel", success=False, error="x" * 500_000)
    await scene.say(scene.liar, openshell_pb2.SupervisorMessage(relay_open_result=huge))
    asking = scene.ask()
    await (await scene.liar.take_relay()).answer(ANSWER)
    assert await asking == OK
    await until(lambda: costs and max(costs) == pytest.approx(122, abs=1), "it was read")


async def test_small_pieces_of_a_relay_are_counted_and_content_pays(costs: list[float], scene: Scene) -> None:
    """RLY-10: a short operation costs nothing beyond its call, one cut into single bytes does, and full messages pay for others."""
    asking = scene.ask()
    relay = await scene.liar.take_relay()
    await relay.answer(ANSWER)
    assert await asking == OK
    assert set(costs) == {1.0}, "calls and control messages"
    costs.clear()
    request = files_pb2.DownloadFileRequest(sandbox_id=SANDBOX, remote_path="/f")
    method = cast("Any", scene.harness.channel().unary_stream(methods.DOWNLOAD_FILE))
    call = method(request.SerializeToString(), metadata=scene.harness.user())
    relay = await scene.liar.take_relay()
    frame = b"".join(frame_segments([DOWNLOADED.SerializeToString()]))
    for _ in range(10):
        for byte in frame:
            await relay.send_bytes(bytes([byte]))
    for _ in range(10):
        await call.read()
    pieces = [cost for cost in costs if cost not in {1.0, 9.0}]
    assert all(0.9 < cost < 1 for cost in pieces)
    assert len(pieces) > 10 * len(frame) - 30
    costs.clear()
    await relay.answer(
        file_relay_pb2.FileRelayResponse(download=files_pb2.DownloadFileResponse(chunk=bytes(512 * 1024)))
    )
    await call.read()
    assert min(costs) == pytest.approx(-511, abs=1)
    call.cancel()
