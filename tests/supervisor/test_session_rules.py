"""The control stream: upstream's scenarios by their names, and what this supervisor adds.

Two of upstream's have no counterpart here: `gateway_endpoint_parses_*` (the endpoint is an option of the form
HOST:PORT and not taken out of a URL for the audit) and `ssh_target_requires_authenticated_supervisor_peer_pid`
(there is no SSH target).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import structlog
from conditions import until
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, openshell_pb2
from openshell_supervisor_sim.relay.byte_stream import RelayByteStream
from openshell_supervisor_sim.relay.targets import RelayTargets
from openshell_supervisor_sim.session import control_stream as session_module
from openshell_supervisor_sim.session import heartbeats
from openshell_supervisor_sim.session.control_stream import SupervisorSession
from scripted_gateway import GatewaySession, ScriptedGateway, scripted_gateway
from structlog.testing import LogCapture
from supervisor_scene import SandboxPlaces, new_session


class Echo:
    """Serves a relay: sends back what it gets, until the gateway ends it."""

    def __init__(self) -> None:
        self.serving = 0

    async def serve(self, stream: RelayByteStream, /) -> None:
        self.serving += 1
        try:
            while data := await stream.receive():
                await stream.send(data)
        finally:
            self.serving -= 1

    capability = file_relay_pb2.FileTransferCapability(protocol_version=1, max_file_bytes=77)

    def finish(self) -> None:
        """It waits for nothing that could be ended."""


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> LogCapture:
    """What the session logs; it stands for upstream's audit events."""
    capture = LogCapture()
    monkeypatch.setattr(
        session_module, "log", structlog.wrap_logger(structlog.PrintLogger(), processors=[capture])
    )
    return capture


def events(log: LogCapture, name: str) -> list[dict[str, Any]]:
    return [dict(entry) for entry in log.entries if entry["event"] == name]


class Connection:
    """A supervisor's session that runs, and the gateway it talks to."""

    def __init__(self, gateway: ScriptedGateway, session: SupervisorSession, echo: Echo) -> None:
        self.gateway = gateway
        self.session = session
        self.echo = echo
        self.running = asyncio.create_task(session.run())


@asynccontextmanager
async def running_session(places: SandboxPlaces) -> AsyncGenerator[Connection]:
    echo = Echo()
    async with (
        scripted_gateway() as gateway,
        grpc.aio.insecure_channel(gateway.endpoint, [("grpc.use_local_subchannel_pool", 1)]) as channel,
    ):
        connection = Connection(
            gateway, new_session(gateway, channel, places.token, RelayTargets(files=echo)), echo
        )
        try:
            yield connection
        finally:
            connection.running.cancel()
            await asyncio.gather(connection.running, return_exceptions=True)


@pytest.fixture
async def connection(places: SandboxPlaces, log: LogCapture) -> AsyncGenerator[Connection]:
    assert log.entries == []
    async with running_session(places) as running:
        yield running


FILE = file_relay_pb2.FileRelayTarget(transfer_id="t")


async def test_the_hello_comes_first(connection: Connection, log: LogCapture) -> None:
    """session_established: with who it is, which attempt, and the token."""
    session = await connection.gateway.sessions.get()
    assert (session.hello.sandbox_id, session.hello.connection_epoch) == ("sandbox", 1)
    assert session.hello.instance_id == connection.session.instance_id
    assert session.hello.file_transfer == Echo.capability
    assert session.authorization == "Bearer secret-token"
    await session.accept()
    await connection.session.connected.wait()
    assert events(log, "session accepted")[0]["session_id"] == "session"


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"session_rejected": openshell_pb2.SessionRejected(reason="too old")}, "session rejected: too old"),
        ({"heartbeat": openshell_pb2.GatewayHeartbeat()}, "expected SessionAccepted or SessionRejected"),
        (
            {"relay_open": openshell_pb2.RelayOpen(channel_id="c")},
            "expected SessionAccepted or SessionRejected",
        ),
        ({}, "expected SessionAccepted or SessionRejected"),
    ],
)
async def test_the_first_answer(
    connection: Connection, log: LogCapture, payload: dict[str, Any], words: str
) -> None:
    """session_failed: anything but an acceptance ends the attempt; the next one follows, with the next epoch."""
    await (await connection.gateway.sessions.get()).say(**payload)
    second = await connection.gateway.sessions.get()
    assert second.hello.connection_epoch == 2
    failed = events(log, "session failed")[0]
    assert words in failed["reason"]
    assert failed["attempt"] == 1
    assert connection.gateway.claims == []


async def test_the_end_of_the_stream(connection: Connection, log: LogCapture) -> None:
    """map_stream_message_treats_eof_as_reconnectable_error."""
    (await connection.gateway.accepted_session()).end()
    await connection.gateway.accepted_session()
    assert events(log, "session failed")[0]["reason"] == "the gateway closed the stream"


async def test_an_attempt_that_fails_counts_until_one_succeeds(
    connection: Connection, log: LogCapture
) -> None:
    """session_failed has the number of the attempt; the backoff begins anew after a session (not in upstream)."""
    for _ in range(3):
        (await connection.gateway.sessions.get()).end()
    (await connection.gateway.accepted_session()).end()
    await connection.gateway.accepted_session()
    assert [event["attempt"] for event in events(log, "session failed")] == [1, 2, 3, 1]


@pytest.mark.parametrize(
    ("code", "option"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "--sandbox-id"),
        (grpc.StatusCode.UNAUTHENTICATED, "sandbox-token"),
        (grpc.StatusCode.NOT_FOUND, "the gateway's settings"),
    ],
    ids=lambda v: v.name if isinstance(v, grpc.StatusCode) else None,
)
async def test_a_refusal_that_no_retry_mends_has_its_remedy_once(
    connection: Connection, log: LogCapture, code: grpc.StatusCode, option: str
) -> None:
    """Once until a session is accepted; the retries go on, since the gateway's settings may change."""
    for _ in range(3):
        (await connection.gateway.sessions.get()).fail(code)
    session = await connection.gateway.accepted_session()
    session.fail(code)
    await connection.gateway.accepted_session()
    remedies = [event.get("remedy") for event in events(log, "session failed")]
    assert [remedy is not None for remedy in remedies] == [True, False, False, True]
    assert option in str(remedies[0])


async def test_a_lost_connection_has_no_remedy(connection: Connection, log: LogCapture) -> None:
    (await connection.gateway.sessions.get()).fail(grpc.StatusCode.UNAVAILABLE)
    await connection.gateway.accepted_session()
    assert "remedy" not in events(log, "session failed")[0]


async def test_messages_that_nobody_knows(connection: Connection, log: LogCapture) -> None:
    """Ignored, whether it is a field of a newer gateway, nothing at all, or an acceptance once more."""
    session = await connection.gateway.accepted_session()
    await session.context.write(b"\x32\x00")  # field 6, session_redirect of the wheel
    await session.say()
    await session.say(session_accepted=openshell_pb2.SessionAccepted(session_id="again"))
    relay = await connection.gateway.open_relay(session, file=FILE)
    await relay.send(b"still there")
    assert await relay.receive() == b"still there"
    relay.end()
    assert len(events(log, "gateway message ignored")) == 3
    assert events(log, "session failed") == []


async def test_bytes_that_are_no_message(connection: Connection, log: LogCapture) -> None:
    await (await connection.gateway.accepted_session()).context.write(b"\xff\xff\xff")
    await connection.gateway.accepted_session()
    assert "not a GatewayMessage" in events(log, "session failed")[0]["reason"]


async def test_a_relay_from_begin_to_end(connection: Connection, log: LogCapture) -> None:
    """relay_open, tcp_relay_open, relay_closed: with target and channel."""
    session = await connection.gateway.accepted_session()
    relay = await connection.gateway.open_relay(session, file=FILE)
    assert relay.authorization == "Bearer secret-token"
    relay.end()
    await until(lambda: bool(events(log, "relay closed")), "the relay is closed")
    for name in ("relay open", "relay closed"):
        assert events(log, name)[0]["target"] == "file"
        assert events(log, name)[0]["channel_id"] == "channel-1"
    assert (await session.result("channel-1")).success

    async def idle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(idle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        target = openshell_pb2.TcpRelayTarget(host="localhost", port=port)
        (await connection.gateway.open_relay(session, tcp=target)).end()
        await until(lambda: len(events(log, "relay closed")) == 2, "the relay is closed")
    assert events(log, "relay open")[1]["target"] == f"tcp localhost:{port}"


async def test_a_relay_that_is_refused_or_lost(connection: Connection, log: LogCapture) -> None:
    """relay_failed: an unknown target; a claim that is refused."""
    session = await connection.gateway.accepted_session()
    await session.say(relay_open=openshell_pb2.RelayOpen(channel_id="a", ssh=openshell_pb2.SshRelayTarget()))
    assert not (await session.result("a")).success
    await session.say(relay_open=openshell_pb2.RelayOpen(channel_id="nobody-waits", file=FILE))
    await until(lambda: bool(events(log, "relay failed")), "the claim was refused")
    assert "NOT_FOUND" in events(log, "relay failed")[0]["reason"]
    assert events(log, "relay refused")[0]["target"] == "ssh"
    assert connection.session.connected.is_set()


async def test_a_close_from_the_gateway(connection: Connection, log: LogCapture) -> None:
    """relay_close_from_gateway is an event and closes nothing."""
    session = await connection.gateway.accepted_session()
    relay = await connection.gateway.open_relay(session, file=FILE)
    await session.say(relay_close=openshell_pb2.RelayClose(channel_id="channel-1", reason="enough"))
    await relay.send(b"goes on")
    assert await relay.receive() == b"goes on"
    relay.end()
    assert events(log, "gateway closed a relay")[0]["reason"] == "enough"


async def test_a_relay_survives_its_session(connection: Connection) -> None:
    """RLY-4: a relay is a call of its own."""
    session = await connection.gateway.accepted_session()
    relay = await connection.gateway.open_relay(session, file=FILE)
    session.end()
    await connection.gateway.accepted_session()
    await relay.send(b"still there")
    assert await relay.receive() == b"still there"
    relay.end()


async def test_an_open_that_comes_again(connection: Connection, log: LogCapture) -> None:
    """RLY-16: a relay that is served is not served twice; the new session gets the open again."""
    session = await connection.gateway.accepted_session()
    relay = await connection.gateway.open_relay(session, file=FILE)
    session.end()
    again = await connection.gateway.accepted_session()
    await again.say(relay_open=openshell_pb2.RelayOpen(channel_id="channel-1", file=FILE))
    await until(lambda: bool(events(log, "relay is served already")), "it was noticed")
    assert connection.gateway.claims == ["channel-1"]
    assert connection.echo.serving == 1
    relay.end()


async def test_heartbeats(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """RLY-30: every interval that the gateway announces, and not more often than the floor."""
    monkeypatch.setattr(heartbeats, "SENDING_FLOOR_SECONDS", 0.05)
    session = await connection.gateway.accepted_session(heartbeat_seconds=0)
    for _ in range(3):
        message = await session.hear()
        assert message is not None
        assert message.WhichOneof("payload") == "heartbeat"
        await session.say(heartbeat=openshell_pb2.GatewayHeartbeat())


async def _beats(session: GatewaySession, count: int, seconds: float) -> None:
    for _ in range(count):
        await asyncio.sleep(seconds)
        await session.say(heartbeat=openshell_pb2.GatewayHeartbeat())


async def _holds(connection: Connection, log: LogCapture, accepted: bytes, beat_seconds: float) -> None:
    """Hold a session for ten heartbeats while a relay is idle, then for ten while it transfers."""
    session = await connection.gateway.sessions.get()
    message = openshell_pb2.SessionAccepted.FromString(b"\x0a\x07session" + accepted)
    await session.say(session_accepted=message)
    relay = await connection.gateway.open_relay(session, file=FILE)
    await _beats(session, 10, beat_seconds)
    beating = asyncio.create_task(_beats(session, 10, beat_seconds))
    while not beating.done():
        await relay.send(b"x" * 10_000)
        received = 0
        while received < 10_000:
            received += len(await relay.receive())
    await beating
    relay.end()
    assert events(log, "session failed") == []
    assert connection.gateway.sessions.empty()
    assert session.hello.connection_epoch == 1


async def test_a_gateway_of_the_first_generation(
    connection: Connection, log: LogCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RLY-28: ten heartbeats long, idle and under transfer; in hundredths of the real times."""
    monkeypatch.setattr(heartbeats, "SENDING_FLOOR_SECONDS", 0.05)
    monkeypatch.setattr(heartbeats, "SILENCE_FLOOR_SECONDS", 0.15)
    real = heartbeats.announced_seconds

    def in_hundredths(accepted: openshell_pb2.SessionAccepted) -> float:
        return (real(accepted) or 0) / 100

    monkeypatch.setattr(heartbeats, "announced_seconds", in_hundredths)
    await _holds(connection, log, b"\x10\x0f", 0.15)


@pytest.mark.long
async def test_a_gateway_of_the_first_generation_in_real_time(
    connection: Connection, log: LogCapture
) -> None:
    """RLY-28: with the times of upstream, 15 s announced in field 2."""
    await _holds(connection, log, b"\x10\x0f", 15)


async def test_a_silent_gateway(
    connection: Connection, log: LogCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RLY-29: three intervals without a word, and the supervisor connects again."""
    monkeypatch.setattr(heartbeats, "SILENCE_FLOOR_SECONDS", 0.05)
    monkeypatch.setattr(heartbeats, "UNANNOUNCED_SECONDS", 0.05)
    await connection.gateway.accepted_session(heartbeat_seconds=0)
    await connection.gateway.accepted_session()
    assert events(log, "session failed")[0]["reason"] == "the gateway sent nothing for too long"


async def test_no_answer_to_the_hello(
    connection: Connection, log: LogCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "HELLO_SECONDS", 0.05)
    await connection.gateway.sessions.get()
    await connection.gateway.sessions.get()
    assert "no answer to the hello" in events(log, "session failed")[0]["reason"]


async def test_shutting_down_waits_for_relays(connection: Connection) -> None:
    """New relays are refused, those that run finish."""
    session = await connection.gateway.accepted_session()
    relay = await connection.gateway.open_relay(session, file=FILE)
    draining = asyncio.create_task(connection.session.drain(30))
    await asyncio.sleep(0)
    await session.say(relay_open=openshell_pb2.RelayOpen(channel_id="late", file=FILE))
    refused = await session.result("late")
    assert (refused.success, refused.error) == (False, "this supervisor is shutting down")
    await relay.send(b"still there")
    assert await relay.receive() == b"still there"
    assert not draining.done()
    relay.end()
    assert await draining == 0


async def test_shutting_down_does_not_wait_for_ever(connection: Connection) -> None:
    session = await connection.gateway.accepted_session()
    relay = await connection.gateway.open_relay(session, file=FILE)
    assert await connection.session.drain(0.05) == 1
    relay.end()


async def test_the_stream_ends_while_shutting_down(connection: Connection, log: LogCapture) -> None:
    """map_session_stream_message_allows_expected_close_during_shutdown, session_closed: no new attempt; relays go on."""
    session = await connection.gateway.accepted_session()
    relay = await connection.gateway.open_relay(session, file=FILE)
    draining = asyncio.create_task(connection.session.drain(30))
    await asyncio.sleep(0)
    session.end()
    await until(lambda: bool(events(log, "session closed")), "the end is noticed")
    await relay.send(b"still there")
    assert await relay.receive() == b"still there"
    relay.end()
    assert await draining == 0
    await connection.running
    assert connection.gateway.sessions.empty()
    assert events(log, "session failed") == []


async def test_the_connection_breaks_while_not_shutting_down(connection: Connection, log: LogCapture) -> None:
    """map_session_stream_message_keeps_transport_close_fatal_when_not_shutting_down."""
    session = await connection.gateway.accepted_session()
    session.fail(grpc.StatusCode.UNAVAILABLE)
    await connection.gateway.accepted_session()
    assert events(log, "session failed")[0]["reason"] == "UNAVAILABLE: as the test wants it"


async def test_something_else_goes_wrong_while_shutting_down(connection: Connection, log: LogCapture) -> None:
    """map_session_stream_message_keeps_unexpected_error_fatal_during_shutdown: it is told as a failure."""
    session = await connection.gateway.accepted_session()
    assert await connection.session.drain(0) == 0
    await session.context.write(b"\xff\xff\xff")
    await until(lambda: bool(events(log, "session failed")), "it is told")
    assert events(log, "session closed") == []
