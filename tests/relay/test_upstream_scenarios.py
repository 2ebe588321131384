"""Upstream's scenarios for sessions and relays that no other test here is about, each with its upstream name.

Where our answer differs, the test says how, and why.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from openshell_files_gateway.relay.broker import RelayBroker
from openshell_files_gateway.relay.channel import RelayChannel
from openshell_files_gateway.relay.core.waiting_relays import RelayTable
from openshell_files_gateway.relay.supervisor_session import SupervisorSession
from openshell_files_gateway.relay.targets import FileAgentTarget, PortTarget
from openshell_files_gateway.sandboxes import phases
from openshell_files_gateway.sandboxes.phases import Event
from openshell_files_gateway.simulation.core.sandbox_message import changed_by, new_message
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, openshell_pb2
from openshell_files_protocol.reasons import Code, Reason

FILES = file_relay_pb2.FileTransferCapability(protocol_version=1)
TARGET = FileAgentTarget("transfer")


def make_broker(*, session_wait: float = 5, claim_wait: float = 5, **bounds: int) -> RelayBroker:
    return RelayBroker(RelayTable(**bounds), session_wait_seconds=session_wait, claim_wait_seconds=claim_wait)


def make_session(session_id: str, sandbox_id: str = "a") -> SupervisorSession:
    return SupervisorSession(
        session_id, openshell_pb2.SupervisorHello(sandbox_id=sandbox_id, file_transfer=FILES)
    )


async def relay_open(session: SupervisorSession) -> openshell_pb2.RelayOpen:
    message = await session.next_outbound()
    assert message.WhichOneof("payload") == "relay_open"
    return message.relay_open


async def refused(opening: asyncio.Task[Any]) -> TransferError:
    with pytest.raises(TransferError) as caught:
        await opening
    return caught.value


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_burst_of_opens() -> None:
    """RLY-9; upstream: open_relay_enforces_per_sandbox_cap_under_concurrent_burst. 32 wait, 32 are refused; another
    sandbox is unaffected. Better than upstream: the refusal reaches the caller as it is, with a delay to wait."""
    broker = make_broker()
    session, other = make_session("1"), make_session("2", "b")
    await broker.connect(session)
    await broker.connect(other)
    burst = [asyncio.create_task(broker.open_relay("a", TARGET)) for _ in range(64)]
    done, waiting = await asyncio.wait(burst, timeout=1, return_when=asyncio.FIRST_COMPLETED)
    while len(done) < 32:
        more, waiting = await asyncio.wait(waiting, timeout=1, return_when=asyncio.FIRST_COMPLETED)
        done |= more
    errors = [await refused(task) for task in done]
    assert len(errors) == len(waiting) == 32
    assert {error.code for error in errors} == {Code.RESOURCE_EXHAUSTED}
    assert {error.reason for error in errors} == {Reason.TOO_MANY_TRANSFERS}
    assert all(error.retry_delay for error in errors)
    elsewhere = asyncio.create_task(broker.open_relay("b", TARGET))
    assert (await relay_open(other)).channel_id
    await cancelled(*waiting, elsewhere)
    assert broker.statistics().relays.pending == 0


async def test_a_removed_session() -> None:
    """Upstream: registry_remove, remove_if_current_removes_matching_session."""
    broker = make_broker(session_wait=0.05)
    session = make_session("1")
    await broker.connect(session)
    assert broker.disconnect(session)
    assert broker.session_of("a") is None


async def test_the_open_is_queued() -> None:
    """Upstream: open_relay_sends_relay_open_to_registered_session. The target is ours and not SSH."""
    broker = make_broker()
    session = make_session("1")
    await broker.connect(session)
    opening = asyncio.create_task(broker.open_relay("a", TARGET))
    asked = await relay_open(session)
    assert asked.WhichOneof("target") == "file"
    channel = RelayChannel(asked.channel_id, cast("Any", None))
    assert broker.take(asked.channel_id, "a").transfer_id == "transfer"
    broker.deliver(channel)
    assert await opening == (channel, session)


async def test_a_port_is_asked_for_as_upstream_does() -> None:
    """Upstream's TcpRelayTarget: an older supervisor knows it too."""
    broker = make_broker()
    old = SupervisorSession("1", openshell_pb2.SupervisorHello(sandbox_id="a"))
    await broker.connect(old)
    opening = asyncio.create_task(broker.open_relay("a", PortTarget("transfer", 4711)))
    asked = await relay_open(old)
    assert (asked.tcp.host, asked.tcp.port) == ("127.0.0.1", 4711)
    await cancelled(opening)


async def test_nobody_connects() -> None:
    """Upstream: open_relay_times_out_without_session. Ours waits for the session and not for the next look at it."""
    error = await refused(asyncio.create_task(make_broker(session_wait=0.05).open_relay("a", TARGET)))
    assert (error.code, error.reason) == (Code.UNAVAILABLE, Reason.SUPERVISOR_NOT_CONNECTED)


async def test_the_session_is_over() -> None:
    """Upstream: open_relay_fails_when_session_receiver_dropped; no relay is left that waits."""
    broker = make_broker()
    session = make_session("1")
    await broker.connect(session)
    session.end("its stream ended")
    error = await refused(asyncio.create_task(broker.open_relay("a", TARGET)))
    assert (error.code, error.reason) == (Code.UNAVAILABLE, Reason.SUPERVISOR_NOT_CONNECTED)
    assert broker.statistics().relays.pending == 0


async def test_the_newest_session_is_asked() -> None:
    """RLY-4; upstream: open_relay_uses_newest_session_after_supersede."""
    broker = make_broker()
    old, new = make_session("1"), make_session("2")
    await broker.connect(old)
    await broker.connect(new)
    await asyncio.wait_for(old.wait_ended(), 5)
    opening = asyncio.create_task(broker.open_relay("a", TARGET))
    assert (await relay_open(new)).channel_id
    assert "0 queued" in repr(old)
    await cancelled(opening)


async def test_a_replay_to_a_supervisor_that_knows_less() -> None:
    """RLY-1, RLY-16: the newer session is not sent what it would read as SSH; the caller is told."""
    broker = make_broker()
    session = make_session("1")
    await broker.connect(session)
    opening = asyncio.create_task(broker.open_relay("a", TARGET))
    await relay_open(session)
    old = SupervisorSession("2", openshell_pb2.SupervisorHello(sandbox_id="a"))
    await broker.connect(old)
    assert (await refused(opening)).reason is Reason.FILES_UNSUPPORTED
    assert "0 queued" in repr(old)


async def test_the_requester_is_gone() -> None:
    """Upstream: claim_relay_receiver_dropped_returns_internal. With ours the channel is unknown as soon as nobody
    waits for it, and INTERNAL is left for who gives up between claim and delivery."""
    broker = make_broker()
    session = make_session("1")
    await broker.connect(session)
    opening = asyncio.create_task(broker.open_relay("a", TARGET))
    channel_id = (await relay_open(session)).channel_id
    broker.take(channel_id, "a")
    await cancelled(opening)
    with pytest.raises(TransferError) as caught:
        broker.deliver(RelayChannel(channel_id, cast("Any", None)))
    assert (caught.value.code, caught.value.reason) == (Code.INTERNAL, Reason.RELAY_REQUESTER_GONE)
    with pytest.raises(TransferError) as unknown:
        broker.take(channel_id, "a")
    assert unknown.value.reason is Reason.RELAY_UNKNOWN


async def test_a_fresh_relay_is_not_reaped() -> None:
    """Upstream: reap_expired_relays_keeps_fresh_entries. Ours reaps whenever another relay is opened."""
    relays = RelayTable(pending_seconds=10)
    relays.open("old", "a", "1", 0.0)
    relays.open("fresh", "a", "1", 5.0)
    assert [relay.channel_id for relay in relays.expire(10.5)] == ["old"]
    assert relays.claim("fresh", "a", 10.5).channel_id == "fresh"


@pytest.mark.parametrize("event", list(Event))
def test_a_sandbox_that_is_being_deleted(event: Event) -> None:
    """Upstream: sandbox_proto_terminating_detects_deleting_phase, sandbox_proto_terminating_detects_deletion_timestamp;
    expected_transport_close_is_nonfatal_only_during_shutdown. Ours asks the phase: the end of a session, however it
    came, changes nothing of a sandbox that is being deleted, and is no error."""
    deleting = changed_by(new_message("id", "name", "default", 1.0), Event.DELETE, "", 2.0)
    assert deleting is not None
    assert deleting.status.phase == phases.DELETING
    assert deleting.metadata.deletion_time.seconds == 2
    assert changed_by(deleting, event, "", 3.0) is None


def test_a_sandbox_that_runs() -> None:
    """Upstream: sandbox_proto_running_is_not_terminating, unexpected_transport_error_stays_fatal_during_shutdown: the end
    of its session shows."""
    made = new_message("id", "name", "default", 1.0)
    assert not made.metadata.HasField("deletion_time")
    ready = changed_by(made, Event.CONNECTED, "", 2.0)
    assert ready is not None
    lost = changed_by(ready, Event.DISCONNECTED, "Supervisor session disconnected", 3.0)
    assert lost is not None
    assert lost.status.phase == phases.PROVISIONING
    [condition] = lost.status.conditions
    assert (condition.status, condition.reason) == ("False", "DependenciesNotReady")
    assert condition.message == "Supervisor session disconnected"
