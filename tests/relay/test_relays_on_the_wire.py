"""Sessions and relays as supervisors and callers see them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from functools import partial

import grpc
import pytest
from conditions import until
from gateway_harness import FILES, OTHER_SANDBOX, SANDBOX, GatewayHarness, running_gateway
from openshell_files_gateway.config.tables import RelaySettings
from openshell_files_gateway.relay.broker import RelayBroker
from openshell_files_gateway.relay.channel import RelayChannel
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2, openshell_pb2
from openshell_supervisor_sim.relay.byte_stream import open_stream

STAT_ANSWER = file_relay_pb2.FileRelayResponse(
    stat_file=files_pb2.StatFileResponse(file=files_pb2.FileInfo(path="/f", size_bytes=5))
)
FAST = RelaySettings(session_wait_timeout=0.3, claim_timeout=0.5)


@pytest.fixture
async def harness() -> AsyncGenerator[GatewayHarness, None]:
    async with running_gateway() as running:
        yield running


@pytest.fixture
async def hasty() -> AsyncGenerator[GatewayHarness, None]:
    """A gateway that waits for nobody."""
    async with running_gateway(relay=FAST) as running:
        yield running


async def test_a_question_and_its_answer(harness: GatewayHarness) -> None:
    """FRM-2, FRM-3; upstream: relay_round_trips_bytes, claim_relay_connects_both_ends,
    require_persisted_sandbox_accepts_existing_sandbox."""
    supervisor = harness.supervisor()
    await supervisor.connect()
    asking = asyncio.create_task(harness.stat())
    relay = await supervisor.take_relay()
    frame = await relay.next_frame()
    assert frame is not None
    assert frame.open.stat_file.remote_path == "/f"
    assert frame.open.principal.endswith("|" + harness.identity_provider.client_id)
    await relay.answer(file_relay_pb2.FileRelayResponse(accepted=file_relay_pb2.FileRelayAccepted()))
    await relay.answer(STAT_ANSWER)
    assert (await asking).file.size_bytes == 5
    # The gateway ends the relay; nobody has to cancel anything.
    assert await relay.next_frame() is None
    assert await relay.call.code() is grpc.StatusCode.OK


async def test_two_relays_of_one_sandbox_do_not_mix(harness: GatewayHarness) -> None:
    """Upstream: concurrent_relays_multiplex_independently."""
    supervisor = harness.supervisor()
    await supervisor.connect()
    first, second = asyncio.create_task(harness.stat()), asyncio.create_task(harness.stat())
    relays = [await supervisor.take_relay(), await supervisor.take_relay()]
    for size, relay in enumerate(relays, start=1):
        answer = files_pb2.StatFileResponse(file=files_pb2.FileInfo(size_bytes=size))
        await relay.answer(file_relay_pb2.FileRelayResponse(stat_file=answer))
    assert sorted([(await first).file.size_bytes, (await second).file.size_bytes]) == [1, 2]


async def test_no_session_within_the_time(hasty: GatewayHarness) -> None:
    """Upstream: open_relay_times_out_when_no_session."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await hasty.stat()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "supervisor session not connected" in str(caught.value.details())


async def test_a_session_that_comes_in_time(harness: GatewayHarness) -> None:
    """Upstream: open_relay_waits_for_session_to_appear."""
    asking = asyncio.create_task(harness.stat())
    supervisor = harness.supervisor()
    await supervisor.connect()
    await (await supervisor.take_relay()).answer(STAT_ANSWER)
    assert (await asking).file.size_bytes == 5


async def test_an_open_is_never_sent_to_a_supervisor_that_serves_no_files(harness: GatewayHarness) -> None:
    """RLY-1: an older supervisor reads an unknown target as SSH."""
    supervisor = harness.supervisor()
    await supervisor.connect(files=None)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await harness.stat()
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "did not announce file transfer" in str(caught.value.details())
    await supervisor.call.done_writing()
    assert await supervisor.hear() is None


async def test_initial_metadata_before_the_gateway_has_anything_to_say(
    harness: GatewayHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RLY-2: the claim alone is answered; the requester does not take the channel up yet."""
    held: list[Callable[[], None]] = []
    deliver = RelayBroker.deliver

    def hold(broker: RelayBroker, channel: RelayChannel) -> None:
        held.append(partial(deliver, broker, channel))

    monkeypatch.setattr(RelayBroker, "deliver", hold)
    supervisor = harness.supervisor()
    await supervisor.connect()
    asking = asyncio.create_task(harness.stat())
    opened = await supervisor.next_open()
    # Returns only once the initial metadata came.
    relay = await asyncio.wait_for(supervisor.claim(opened.channel_id), 5)
    await until(lambda: held, "the channel is handed on")
    held[0]()
    await relay.answer(STAT_ANSWER)
    assert (await asking).file.size_bytes == 5


async def test_a_relay_that_nobody_claims(hasty: GatewayHarness) -> None:
    """RLY-14; upstream: relay open timed out."""
    supervisor = hasty.supervisor()
    await supervisor.connect()
    asking = asyncio.create_task(hasty.stat())
    opened = await supervisor.next_open()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asking
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    relay = await supervisor.claim(opened.channel_id)
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await relay.next_frame()
    assert late.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_supervisor_that_refuses(harness: GatewayHarness) -> None:
    """RLY-5, RLY-17; upstream: relay_open_failure_completes_pending_waiter."""
    supervisor = harness.supervisor()
    await supervisor.connect()
    asking = asyncio.create_task(harness.stat())
    opened = await supervisor.next_open()
    result = openshell_pb2.RelayOpenResult(
        channel_id=opened.channel_id, success=False, error="target refused"
    )
    await supervisor.say(openshell_pb2.SupervisorMessage(relay_open_result=result))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asking
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "target refused" in str(caught.value.details())


async def test_another_sandbox_cannot_claim(harness: GatewayHarness) -> None:
    """RLY-15: and the rightful one still can."""
    supervisor, thief = harness.supervisor(), harness.supervisor(OTHER_SANDBOX)
    await supervisor.connect()
    asking = asyncio.create_task(harness.stat())
    opened = await supervisor.next_open()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (await thief.claim(opened.channel_id)).next_frame()
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    await (await supervisor.claim(opened.channel_id)).answer(STAT_ANSWER)
    assert (await asking).file.size_bytes == 5


async def test_a_user_cannot_claim(harness: GatewayHarness) -> None:
    """AUT-10; upstream: claim_relay_rejects_user_principal."""
    call = open_stream(harness.channel(), methods.RELAY_STREAM, harness.user())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_newer_session_takes_over_and_is_told_what_waits(harness: GatewayHarness) -> None:
    """RLY-4, RLY-16; upstream: replay_pending_relays_reissues_open_to_superseding_session, and
    register_signals_shutdown_to_previous_session."""
    old, new = harness.supervisor(), harness.supervisor()
    await old.connect()
    asking = asyncio.create_task(harness.stat())
    opened = await old.next_open()
    await new.connect()
    assert (await new.next_open()).channel_id == opened.channel_id
    assert await old.hear() is None
    assert await old.call.code() is grpc.StatusCode.OK
    await (await new.claim(opened.channel_id)).answer(STAT_ANSWER)
    assert (await asking).file.size_bytes == 5


async def test_a_relay_that_ends_without_a_result(harness: GatewayHarness) -> None:
    """FRM-14; upstream: relay_sees_eof_when_supervisor_closes, where EOF could mean anything."""
    supervisor = harness.supervisor()
    await supervisor.connect()
    asking = asyncio.create_task(harness.stat())
    relay = await supervisor.take_relay()
    await relay.call.done_writing()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asking
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "before the file agent gave a result" in str(caught.value.details())


async def test_an_ssh_server_at_the_other_end(harness: GatewayHarness) -> None:
    """FRM-15: what a supervisor that took the target for SSH would connect."""
    supervisor = harness.supervisor()
    await supervisor.connect()
    asking = asyncio.create_task(harness.stat())
    relay = await supervisor.take_relay()
    await relay.send_bytes(b"SSH-2.0-OpenSSH_9.2p1\r\n")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asking
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "SSH server" in str(caught.value.details())


async def test_the_caller_goes_away(harness: GatewayHarness) -> None:
    """Upstream: relay_closes_cleanly_when_gateway_drops; here the agent is told first (FRM-16)."""
    supervisor = harness.supervisor()
    await supervisor.connect()
    asking = asyncio.create_task(harness.stat())
    relay = await supervisor.take_relay()
    assert await relay.next_frame() is not None
    asking.cancel()
    told = await relay.next_frame()
    assert told is not None
    assert told.input_end.cancelled
    assert await relay.next_frame() is None


async def test_a_sandbox_that_does_not_exist(harness: GatewayHarness) -> None:
    """Upstream: require_persisted_sandbox_rejects_missing_sandbox; its token is good."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await harness.supervisor("44444444-4444-4444-8444-444444444444").connect()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (openshell_pb2.SupervisorMessage(heartbeat=openshell_pb2.SupervisorHeartbeat()), "INVALID_ARGUMENT"),
        (openshell_pb2.SupervisorMessage(hello=openshell_pb2.SupervisorHello()), "INVALID_ARGUMENT"),
        (
            openshell_pb2.SupervisorMessage(
                hello=openshell_pb2.SupervisorHello(sandbox_id=OTHER_SANDBOX, file_transfer=FILES)
            ),
            "PERMISSION_DENIED",
        ),
    ],
    ids=["no hello", "no sandbox", "another sandbox"],
)
async def test_a_wrong_hello(
    harness: GatewayHarness, hello: openshell_pb2.SupervisorMessage, code: str
) -> None:
    supervisor = harness.supervisor(SANDBOX)
    supervisor.call = supervisor.channel.stream_stream(methods.CONNECT_SUPERVISOR)(
        metadata=supervisor.metadata
    )
    await supervisor.say(hello)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await supervisor.hear()
    assert caught.value.code().name == code
