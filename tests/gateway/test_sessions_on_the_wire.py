"""Which session speaks for a sandbox, as supervisors see it."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
from gateway_harness import SANDBOX, FakeSupervisor, GatewayHarness, running_gateway
from openshell_files_gateway.config.tables import RelaySettings
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2
from openshell_supervisor_sim.relay.byte_stream import open_stream
from status_details import reason_in


@pytest.fixture
async def harness() -> AsyncGenerator[GatewayHarness, None]:
    async with running_gateway() as running:
        yield running


async def hello(supervisor: FakeSupervisor, instance_id: str, epoch: int) -> Any:
    """Say hello and return the call."""
    call: Any = open_stream(supervisor.channel, methods.CONNECT_SUPERVISOR, supervisor.metadata)
    said = openshell_pb2.SupervisorHello(
        sandbox_id=supervisor.sandbox_id, instance_id=instance_id, connection_epoch=epoch
    )
    await call.write(openshell_pb2.SupervisorMessage(hello=said).SerializeToString())
    return call


async def accepted(call: Any) -> str:
    message = openshell_pb2.GatewayMessage.FromString(await call.read())
    return message.session_accepted.session_id


async def test_the_interval_of_heartbeats_is_announced() -> None:
    """RLY-11: as the setting has it."""
    async with running_gateway(relay=RelaySettings(heartbeat_interval=20, silence_timeout=60)) as running:
        call = await hello(running.supervisor(), "one", 1)
        message = openshell_pb2.GatewayMessage.FromString(await call.read())
        assert message.session_accepted.heartbeat_interval.seconds == 20


async def test_an_earlier_connection_that_arrives_late(harness: GatewayHarness) -> None:
    """RLY-6: it ends with SESSION_OUTDATED, and the later one goes on; another supervisor counts for itself."""
    supervisor = harness.supervisor()
    second = await hello(supervisor, "one", 2)
    current = await accepted(second)
    first = await hello(supervisor, "one", 1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await first.read()
    assert reason_in(caught.value) == "SESSION_OUTDATED"
    session = harness.gateway._broker.session_of(SANDBOX)
    assert session is not None
    assert session.session_id == current
    assert not second.done()
    other = await hello(supervisor, "two", 1)
    assert await accepted(other)
    assert await second.read() is grpc.aio.EOF


async def test_a_gateway_that_shuts_down(harness: GatewayHarness) -> None:
    """RLY-19, RLY-20: sessions end, and new ones, transfers and commands are refused with the reason."""
    supervisor = harness.supervisor()
    await supervisor.connect()
    await harness.gateway._broker.drain(1.0)
    assert await supervisor.hear() is None
    late = await hello(supervisor, "late", 1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await late.read()
    assert reason_in(caught.value) == "GATEWAY_SHUTTING_DOWN"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await harness.stat()
    assert reason_in(caught.value) == "GATEWAY_SHUTTING_DOWN"
