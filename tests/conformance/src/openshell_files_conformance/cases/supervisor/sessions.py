"""The control stream: hello, token, heartbeats, reconnection, and opens that cannot be taken up."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import grpc

from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import file_relay_pb2, openshell_pb2
from openshell_files_conformance.peers.gateway import RelayRefusedError
from openshell_files_conformance.peers.gateway_streams import GatewaySession
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.registry import case

_RECONNECT = 31.0


@case("supervisor/session/hello", profile="rfc", clauses=("RLY-1", "AUT-3", "FRM-9", "DIG-13", "CAP-14"))
async def hello(env: SupervisorEnv) -> None:
    """The first message is a hello of the sandbox, with the token in the header, and says that files are served."""
    said = env.session.first
    env.check("first", said.WhichOneof("payload"), equals="hello", clause="RLY-1")
    env.check("sandbox", said.hello.sandbox_id, equals=env.target.sandbox_id, clause="AUT-3")
    wanted = f"bearer {env.target.token}"
    scheme, _, token = env.session.authorization.partition(" ")
    env.check("token", f"{scheme.lower()} {token}" == wanted, equals=True, clause="AUT-3")
    env.check("instance", bool(said.hello.instance_id), equals=True, clause="RLY-1")
    env.check("files", said.hello.HasField("file_transfer"), equals=True, clause="RLY-1")
    files = said.hello.file_transfer
    env.check(
        "version",
        files.protocol_version,
        satisfies=("at least 1", lambda version: version >= 1),
        clause="FRM-9",
    )
    limit = files.max_chunk_bytes
    env.check(
        "chunks",
        limit,
        satisfies=("unset, or at least 256 KiB", lambda size: size == 0 or size >= 256 << 10),
        clause="CAP-14",
    )
    digests = list(files.digests)
    env.check(
        "digests",
        digests,
        satisfies=(
            "SHA-256 among them, none twice",
            lambda listed: 1 in listed and len(set(listed)) == len(listed),
        ),
        clause="DIG-13",
    )


@case("supervisor/session/token-on-relays", profile="rfc", clauses=("AUT-3",))
async def token_on_relays(env: SupervisorEnv) -> None:
    """Every relay is claimed with the sandbox's token."""
    relay = await env.relay()
    scheme, _, token = relay.relay.authorization.partition(" ")
    env.check("token", (scheme.lower(), token == env.target.token), equals=("bearer", True), clause="AUT-3")


@case("supervisor/session/refused-targets", profile="relay", clauses=("RLY-5",))
async def refused_targets(env: SupervisorEnv) -> None:
    """A relay that cannot be taken up is answered at once, and the session stays."""
    unknown = openshell_pb2.RelayOpen.FromString(bytes.fromhex("c23e00"))
    closed = openshell_pb2.TcpRelayTarget(host="127.0.0.1", port=1)
    for name, opened in (
        ("closed-port", openshell_pb2.RelayOpen(tcp=closed)),
        ("unknown-target", unknown),
    ):
        seen = "claimed"
        try:
            await env.byte_relay(opened)
        except RelayRefusedError:
            seen = "refused"
        # Upstream's supervisors read an unknown target as SSH, so a claim says nothing about it.
        allowed = ("refused",) if name == "closed-port" else ("refused", "claimed")
        env.check(name, seen, one_of=allowed, clause="RLY-5")
    env.check("session-stays", env.session.over.is_set(), equals=False, clause="RLY-5")
    env.check("still-serves", (await env.stat(env.home)).reason, equals="OK", clause="RLY-5")


@case("supervisor/session/opened-twice", profile="relay", clauses=("RLY-3", "RLY-16"))
async def opened_twice(env: SupervisorEnv) -> None:
    """An open that the gateway repeats is claimed once, while the relay of the first runs."""
    channel = env.gateway.new_channel()
    opened = openshell_pb2.RelayOpen(channel_id=channel, file=file_relay_pb2.FileRelayTarget())
    relay = await env.byte_relay(opened)
    await env.session.send(openshell_pb2.GatewayMessage(relay_open=opened))
    # What is opened behind it is claimed behind it.
    await env.relay()
    env.check("claims", env.gateway.claims.count(channel), equals=1, clause="RLY-3")
    env.check("stays", relay.ended.is_set(), equals=False, clause="RLY-16")


@case("supervisor/session/refused-claim", profile="relay", clauses=("RLY-3", "RLY-2"))
async def refused_claim(env: SupervisorEnv) -> None:
    """A claim that the gateway refuses, or whose answer is late, does not disturb the session."""
    channel = env.gateway.new_channel()
    opened = openshell_pb2.RelayOpen(channel_id=channel, file=file_relay_pb2.FileRelayTarget())
    # Nothing waits under this id, so the gateway answers NOT_FOUND.
    await env.session.send(openshell_pb2.GatewayMessage(relay_open=opened))
    env.check("still-serves", (await env.stat(env.home)).reason, equals="OK", clause="RLY-3")
    late = asyncio.Event()
    other = openshell_pb2.RelayOpen(
        channel_id=env.gateway.new_channel(), file=file_relay_pb2.FileRelayTarget()
    )
    claimed = env.gateway.expect(other.channel_id, metadata_after=late)
    await env.session.send(openshell_pb2.GatewayMessage(relay_open=other))
    env.check("meanwhile", (await env.stat(env.home)).reason, equals="OK", clause="RLY-2")
    late.set()
    relay = await asyncio.wait_for(claimed, env.scaled(10))
    relay.end()
    env.check("claimed", relay.channel_id, equals=other.channel_id, clause="RLY-2")


@case(
    "supervisor/session/reconnects",
    profile="relay",
    clauses=("RLY-6", "RLY-20", "RLY-4"),
    alone=True,
    timeout=60,
)
async def reconnects(env: SupervisorEnv) -> None:
    """After the end of a session, and after an error, the same instance connects again, as a later connection; relays go on."""
    first = env.session
    relay = await env.begin_upload(env.path("through"))
    await relay.until("accepted")
    for name, code in (("end", grpc.StatusCode.OK), ("error", grpc.StatusCode.UNAVAILABLE)):
        before, sessions = env.session.hello, len(env.gateway.sessions)
        env.session.end(code)
        await env.gateway.session(after=sessions, seconds=env.scaled(_RECONNECT))
        await env.new_session()
        now = env.session.hello
        env.check(f"{name}-instance", now.instance_id, equals=before.instance_id, clause="RLY-6")
        later = now.connection_epoch > before.connection_epoch
        env.check(f"{name}-epoch", later, equals=True, clause="RLY-6")
        env.check(f"{name}-serves", (await env.stat(env.home)).reason, equals="OK", clause="RLY-20")
    await relay.input_end()
    env.check(
        "relay-outlives-sessions", (await relay.outcome()).reason, equals="UPLOAD_INCOMPLETE", clause="RLY-4"
    )
    env.check("first-is-over", first.over.is_set(), equals=True, clause="RLY-4")


@case("supervisor/session/rejected", profile="relay", clauses=("RLY-19",), alone=True, timeout=60)
async def rejected(env: SupervisorEnv) -> None:
    """A supervisor that is rejected, that gets nonsense as an answer, or whose call is refused, tries again later."""
    env.gateway.answer = _reject
    sessions = len(env.gateway.sessions)
    env.session.end()
    await env.gateway.session(after=sessions, seconds=env.scaled(_RECONNECT))
    env.gateway.answer = _nonsense
    await env.gateway.session(after=sessions + 1, seconds=env.scaled(_RECONNECT))
    env.gateway.answer = _refuse
    await env.gateway.session(after=sessions + 2, seconds=env.scaled(_RECONNECT))
    env.gateway.answer = _accept
    await env.gateway.session(after=sessions + 3, seconds=env.scaled(_RECONNECT))
    await env.new_session()
    env.check("serves", (await env.stat(env.home)).reason, equals="OK", clause="RLY-19")


async def _accept(session: GatewaySession) -> None:
    await session.accept()


async def _reject(session: GatewaySession) -> None:
    await session.send(
        openshell_pb2.GatewayMessage(session_rejected=openshell_pb2.SessionRejected(reason="not now"))
    )
    session.end()


async def _nonsense(session: GatewaySession) -> None:
    await session.heartbeat()
    session.end()


async def _refuse(session: GatewaySession) -> None:
    session.end(grpc.StatusCode.RESOURCE_EXHAUSTED)


@case("supervisor/session/unknown-messages", profile="relay", clauses=("RLY-4",))
async def unknown_messages(env: SupervisorEnv) -> None:
    """Messages that a later gateway sends, and a RelayClose of an unknown relay, do not end the session."""
    await env.session.send(openshell_pb2.GatewayMessage.FromString(bytes.fromhex("c23e00")))
    await env.session.send(
        openshell_pb2.GatewayMessage(relay_close=openshell_pb2.RelayClose(channel_id="none"))
    )
    await env.session.heartbeat()
    env.check("still-serves", (await env.stat(env.home)).reason, equals="OK", clause="RLY-4")
    env.check("session-stays", env.session.over.is_set(), equals=False, clause="RLY-4")


@case(
    "supervisor/session/heartbeats-and-silence",
    profile="relay",
    clauses=("RLY-30", "RLY-29", "RLY-28"),
    alone=True,
    timeout=45,
)
async def heartbeats_and_silence(env: SupervisorEnv) -> None:
    """Heartbeats come every 5 seconds; a gateway that announces 5 seconds in the old field and is silent is dead after 15, and not before."""
    sessions, came = len(env.gateway.sessions), asyncio.get_running_loop().time()

    async def old_announcement(session: GatewaySession) -> None:
        nonlocal came
        # Field 2 of the 0.0.x generation: seconds, as a varint.
        accepted = openshell_pb2.SessionAccepted.FromString(b"\x0a\x03old\x10\x05")
        await session.send(openshell_pb2.GatewayMessage(session_accepted=accepted))
        came = asyncio.get_running_loop().time()

    env.gateway.answer = old_announcement
    env.session.end()
    silent = await env.gateway.session(after=sessions, seconds=env.scaled(_RECONNECT))
    with suppress(CannotGoOnError):
        await silent.wait_for(lambda message: message.HasField("heartbeat"), seconds=env.scaled(7))
    first = asyncio.get_running_loop().time() - came
    env.check(
        "heartbeat",
        first,
        satisfies=("after 4 to 7 s", lambda after: 4 <= after <= 7 * env.scaled(1)),
        clause="RLY-30",
    )
    env.gateway.answer = _accept
    again = False
    with suppress(TimeoutError):
        async with asyncio.timeout(env.scaled(20)):
            await silent.over.wait()
            again = True
    dead = asyncio.get_running_loop().time() - came
    env.check("dead", again, equals=True, clause="RLY-28")
    env.check(
        "not-before", dead, satisfies=("after at least 14.5 s", lambda after: after >= 14.5), clause="RLY-29"
    )
    await env.gateway.session(after=sessions + 1, seconds=env.scaled(_RECONNECT))
    await env.new_session()
    env.check("connects-again", (await env.stat(env.home)).reason, equals="OK", clause="RLY-29")
