"""A gateway with a supervisor that a test makes lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

import grpc
import pytest
from conditions import until
from gateway_harness import (
    OTHER_SANDBOX,
    SANDBOX,
    FakeRelay,
    FakeSupervisor,
    GatewayHarness,
    running_gateway,
)
from openshell_files_gateway.config import consistency
from openshell_files_gateway.config.tables import LimitSettings, RelaySettings
from openshell_files_protocol import methods
from openshell_files_protocol.framing import frame_segments
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2, openshell_pb2
from openshell_supervisor_sim.relay.byte_stream import open_stream
from stack_client import reason_of

ANSWER = file_relay_pb2.FileRelayResponse(
    stat_file=files_pb2.StatFileResponse(file=files_pb2.FileInfo(path="/f", size_bytes=5))
)


ANSWER_BYTES = b"".join(frame_segments([ANSWER.SerializeToString()]))


DOWNLOADED = file_relay_pb2.FileRelayResponse(download=files_pb2.DownloadFileResponse(chunk=b"content"))


UPLOAD = files_pb2.UploadFileRequest(
    metadata=files_pb2.UploadFileMetadata(sandbox_id=SANDBOX, remote_path="/f", explicit_finish=True)
)


#: Short, but long enough for an honest supervisor on a busy machine.
WAITS = RelaySettings(
    session_wait_timeout=1.0, claim_timeout=1.0, heartbeat_interval=0.3, silence_timeout=1.5
)


IDLE = LimitSettings(idle_timeout=2.0)


OK = "OK"


@dataclass
class Scene:
    """One sandbox whose supervisor lies, and one whose supervisor does not."""

    harness: GatewayHarness
    liar: FakeSupervisor
    honest: FakeSupervisor
    _saying: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def outcome(self, asking: Awaitable[object]) -> str:
        """Return the reason with which a call ends."""
        try:
            await asking
        except grpc.aio.AioRpcError as error:
            return reason_of(error)
        return OK

    async def end_of(self, relay: FakeRelay) -> str:
        """Return the reason with which a RelayStream call ends, whatever is sent in it before."""
        with suppress(grpc.aio.AioRpcError):
            while await relay.next_frame() is not None:
                pass
        status: grpc.StatusCode = await relay.call.code()
        if status is grpc.StatusCode.OK:
            return OK
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await relay.call.read()
        return reason_of(caught.value)

    async def claim(self, channel_id: str, supervisor: FakeSupervisor | None = None) -> FakeRelay:
        """Claim without waiting for the gateway's answer."""
        liar = supervisor or self.liar
        call = open_stream(liar.channel, methods.RELAY_STREAM, liar.metadata)
        frame = openshell_pb2.RelayFrame(init=openshell_pb2.RelayInit(channel_id=channel_id))
        await call.write(frame.SerializeToString())
        return FakeRelay(call)

    def ask(self) -> asyncio.Task[str]:
        """Call into the lying sandbox."""
        return asyncio.create_task(self.outcome(self.harness.stat()))

    async def say(self, supervisor: FakeSupervisor, message: openshell_pb2.SupervisorMessage) -> None:
        """Send a control message; a call takes one at a time."""
        async with self._saying:
            await supervisor.say(message)

    async def refuse(self, channel_id: str) -> None:
        """Say that the lying supervisor cannot take a relay up."""
        result = openshell_pb2.RelayOpenResult(channel_id=channel_id, success=False, error="refused")
        await self.say(self.liar, openshell_pb2.SupervisorMessage(relay_open_result=result))

    async def keep_alive(self, supervisor: FakeSupervisor, over: asyncio.Event) -> None:
        """Send heartbeats, so that only the lie is a lie."""
        heartbeat = openshell_pb2.SupervisorMessage(heartbeat=openshell_pb2.SupervisorHeartbeat())
        while not over.is_set() and not supervisor.call.done():
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self.say(supervisor, heartbeat)
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 0.2)

    async def end(self, supervisor: FakeSupervisor) -> None:
        """End a session as a supervisor does that stops."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await supervisor.call.done_writing()
        with suppress(grpc.aio.AioRpcError):
            while await supervisor.hear() is not None:
                pass

    @staticmethod
    async def end_heard(supervisor: FakeSupervisor) -> None:
        """Listen to the gateway until the session ends."""
        while await supervisor.hear() is not None:
            pass

    async def serve(self) -> None:
        """Let the honest supervisor answer one call."""
        relay = await self.honest.take_relay()
        await relay.answer(ANSWER)
        assert await self.end_of(relay) == OK


@contextmanager
def grpc_poller() -> Generator[None]:
    """Keep gRPC's poller over all tests: it has descriptors, and comes and goes with the last object that uses it."""
    with grpc.insecure_channel("127.0.0.1:1"):
        yield


@asynccontextmanager
async def lying(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Scene]:
    """Run a gateway with a supervisor that lies and an honest one; afterwards the gateway holds nothing."""
    # Settings that are refused, as no supervisor but these sends heartbeats as often.
    monkeypatch.setattr(consistency, "LEAST_HEARTBEAT_SECONDS", WAITS.heartbeat_interval)
    async with running_gateway(relay=WAITS, limits=IDLE) as harness:
        liar, honest = harness.supervisor(), harness.supervisor(OTHER_SANDBOX)
        await liar.connect()
        await honest.connect()
        scene = Scene(harness, liar, honest)
        over = asyncio.Event()
        alive = [asyncio.create_task(scene.keep_alive(one, over)) for one in (liar, honest)]
        yield scene
        over.set()
        await asyncio.gather(*alive)
        for one in (liar, honest):
            await scene.end(one)
        statistics = harness.gateway.statistics
        await until(lambda: statistics().idle, lambda: f"nothing is held: {statistics()}")
