"""Agents that say what no agent should: they must not cost other sandboxes anything."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, cast

import grpc
import pytest
from gateway_harness import SANDBOX, running_gateway
from openshell_files_gateway.config.tables import LimitSettings
from openshell_files_gateway.relay.channel import RelayChannel
from openshell_files_gateway.relay.core.relay_states import RelayEvent, RelayLife
from openshell_files_gateway.relay.file_relay import FileRelay
from openshell_files_gateway.relay.supervisor_session import SupervisorSession
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.framing import frame_segments
from openshell_files_protocol.limits import MAX_MESSAGE_BYTES
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2, openshell_pb2
from openshell_files_protocol.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

EMPTY_FRAMES = 2000


class ScriptedChannel:
    """A channel on which the agent has said everything already."""

    def __init__(self, *said: bytes) -> None:
        self._said = deque(said)

    async def receive(self) -> memoryview:
        return memoryview(self._said.popleft() if self._said else b"")

    async def keep_pace(self, size: int) -> None:
        pass


def relay_that_says(*said: bytes) -> FileRelay:
    life = RelayLife()
    life.after(RelayEvent.CLAIM)
    channel = cast("RelayChannel", ScriptedChannel(*said))
    hello = openshell_pb2.SupervisorHello(sandbox_id="sandbox")
    return FileRelay(channel, SupervisorSession("session", hello), life, expires=0.0)


async def test_a_message_of_empty_frames_does_not_stop_the_others() -> None:
    """A frame that means nothing costs a turn of the loop, and nothing is kept of it."""
    answer = file_relay_pb2.FileRelayResponse(stat_file=files_pb2.StatFileResponse())
    relay = relay_that_says(b"\0" * EMPTY_FRAMES + b"".join(frame_segments([answer.SerializeToString()])))
    asking = asyncio.create_task(relay.next_frame())
    turns = 0
    while not asking.done():
        await asyncio.sleep(0)
        turns += 1
    assert await asking == answer
    assert turns >= EMPTY_FRAMES


async def test_what_came_before_a_broken_frame_counts() -> None:
    """FRM-5: the peer has said a frame, so it is an agent, and it broke the protocol."""
    accepted = file_relay_pb2.FileRelayResponse(accepted=file_relay_pb2.FileRelayAccepted())
    good = b"".join(frame_segments([accepted.SerializeToString()]))
    with pytest.raises(TransferError) as caught:
        await relay_that_says(good + b"\xff" * 10).next_frame()
    assert caught.value.reason is Reason.AGENT_PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("seconds", "passed_on"), [(3, 3.0), (-3, 0.0), (2**62, 86_400.0)], ids=["usual", "negative", "huge"]
)
async def test_advice_to_wait_that_is_no_duration(seconds: int, passed_on: float) -> None:
    response = file_relay_pb2.FileRelayResponse(
        error=file_relay_pb2.FileRelayError(reason="QUOTA_EXCEEDED", code=8, message="full")
    )
    response.error.retry_delay.seconds = seconds
    with pytest.raises(TransferError) as caught:
        await relay_that_says(b"".join(frame_segments([response.SerializeToString()]))).next_frame()
    assert caught.value.reason is Reason.QUOTA_EXCEEDED
    assert caught.value.retry_delay == passed_on


async def test_a_supervisor_that_takes_no_first_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRANSFER_IDLE: the first frame is watched like all others."""

    async def send(_channel: RelayChannel, _segments: Sequence[bytes | memoryview]) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(RelayChannel, "send", send)
    async with running_gateway(limits=LimitSettings(idle_timeout=0.2)) as harness:
        supervisor = harness.supervisor()
        await supervisor.connect()
        asking = asyncio.create_task(harness.stat())
        await supervisor.take_relay()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asking
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "nothing moved" in str(caught.value.details())


async def test_a_request_that_leaves_no_room_for_the_frame() -> None:
    """FRM-11: the caller's fault, and not that of the agent that would refuse the frame."""
    async with running_gateway() as harness:
        supervisor = harness.supervisor()
        await supervisor.connect()
        request = files_pb2.StatFileRequest(
            sandbox=files_pb2.SandboxRef(id=SANDBOX), remote_path="x" * (MAX_MESSAGE_BYTES - 64)
        )
        stat = harness.channel().unary_unary(
            methods.STAT_FILE,
            request_serializer=files_pb2.StatFileRequest.SerializeToString,
            response_deserializer=files_pb2.StatFileResponse.FromString,
        )
        call = stat(request, metadata=harness.user())
        relay = await supervisor.take_relay()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "too large" in str(caught.value.details())
        assert await relay.next_frame() is None
