"""Relays that are used for several operations, and agents behind a port."""

from __future__ import annotations

import hmac
from typing import Final

from openshell_files_conformance.cases.gateway.relay_opening import asked, described
from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_conformance.peers.caller import OK
from openshell_files_conformance.peers.gateway_env import GatewayEnv
from openshell_files_conformance.peers.supervisor import (
    Response,
    SupervisorRelay,
    accepted,
    failure,
    file_transfer,
)
from openshell_files_conformance.registry import case

_NEEDS: Final = ("suite-supervisor", "keeps-relays")
_PORT: Final = ("suite-supervisor", "agent-port")
_SECRET: Final = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"


@case("gateway/reuse/only-if-announced", profile="relay", needs=("suite-supervisor",), clauses=("FRM-23",))
async def only_if_announced(env: GatewayEnv) -> None:
    """`keep_relay` is set only for a supervisor that announced it; without it the next operation has a relay of its own."""
    sandbox = await env.sandbox()
    channels = set[str]()
    for number in range(2):
        call = await asked(sandbox)
        relay = await sandbox.session.take_up()
        channels.add(relay.channel_id)
        opened = await relay.opened()
        env.check(f"not-set-{number}", opened.keep_relay, equals=False, clause="FRM-23")
        await relay.send(accepted(), described())
        await call.end()
    env.check("own-relays", len(channels), equals=2, clause="FRM-23")


@case("gateway/reuse/next-operation", profile="relay", needs=_NEEDS, clauses=("FRM-26", "FRM-27", "FRM-2"))
async def next_operation(env: GatewayEnv) -> None:
    """A kept relay serves the next operation, which has its own `open` with its own caller."""
    sandbox = await env.sandbox(file_transfer=file_transfer(keeps_relays=True))
    call = await asked(sandbox)
    relay = await sandbox.session.take_up()
    first = await relay.opened()
    env.require("kept", first.keep_relay, equals=True, clause="FRM-26")
    await relay.send(accepted(), described("/first"))
    await call.end()
    other = sandbox.other.open("StatFile")
    await other.send(files_pb2.StatFileRequest(sandbox=sandbox.other.sandbox, remote_path="second"))
    await other.half_close()
    frame = await relay.until("open", env.scaled(5.0))
    env.require("same-relay", frame is not None, equals=True, clause="FRM-26")
    assert frame is not None
    env.check("own-path", frame.open.stat_file.remote_path, equals="second", clause="FRM-2")
    env.check("own-principal", frame.open.principal != first.principal, equals=True, clause="FRM-27")
    await relay.send(accepted(), described("/second"))
    ended = await other.end()
    env.check("answer", ended.ok and ended.answer.file.path, equals="/second", clause="FRM-26")
    denied = env.user("conformance-one", sandbox.facts, roles=[])
    refused = await denied.stat("third")
    env.check("authorized-by-itself", refused.reason, equals="ROLE_REQUIRED", clause="FRM-27")
    opens = [one for one in relay.frames if one.HasField("open")]
    env.check("no-open-for-it", len(opens), equals=2, clause="FRM-27")


async def _kept(env: GatewayEnv, answer: Response) -> tuple[bool, SupervisorRelay, object]:
    """Answer one operation on a relay that is kept; call again, and return whether the relay was used again."""
    sandbox = await env.sandbox(file_transfer=file_transfer(keeps_relays=True))
    call = await asked(sandbox)
    relay = await sandbox.session.take_up()
    await relay.opened()
    await relay.send(accepted(), answer)
    await call.end()
    again = await asked(sandbox)
    opened = await sandbox.session.next_open()
    second = await sandbox.session.claim(opened)
    await second.opened()
    await second.send(accepted(), described("/again"))
    ended = await again.end()
    return ended.ok, relay, opened


@case(
    "gateway/reuse/not-after-a-broken-protocol", profile="relay", needs=_NEEDS, clauses=("FRM-25", "FRM-26")
)
async def not_after_a_broken_protocol(env: GatewayEnv) -> None:
    """After AGENT_PROTOCOL_ERROR, INTERNAL, and a frame behind the last one the relay is not used again."""
    served, relay, _ = await _kept(env, failure("INTERNAL"))
    env.check("after-internal", served, equals=True, clause="FRM-25")
    env.check("internal-relay-ends", await relay.wait_over(env.scaled(5.0)), equals=True, clause="FRM-25")
    served, relay, _ = await _kept(env, failure("AGENT_PROTOCOL_ERROR"))
    env.check("after-agent-protocol-error", served, equals=True, clause="FRM-25")
    sandbox = await env.sandbox(file_transfer=file_transfer(keeps_relays=True))
    call = await asked(sandbox)
    relay = await sandbox.session.take_up()
    await relay.opened()
    await relay.send(accepted(), described(), described("/behind"))
    await call.end()
    await env.caller.capabilities()
    again = await asked(sandbox)
    second = await sandbox.session.take_up()
    await second.opened()
    await second.send(accepted(), described("/right"))
    ended = await again.end()
    env.check("after-more", ended.ok and ended.answer.file.path, equals="/right", clause="FRM-26")


@case("gateway/reuse/agent-ends-an-idle-relay", profile="relay", needs=_NEEDS, clauses=("FRM-28", "FRM-29"))
async def agent_ends_an_idle_relay(env: GatewayEnv) -> None:
    """An idle relay may end at any time; the next operation has another one, or ends with RELAY_LOST, and is never sent twice."""
    sandbox = await env.sandbox(file_transfer=file_transfer(keeps_relays=True))
    call = await asked(sandbox)
    relay = await sandbox.session.take_up()
    await relay.opened()
    await relay.send(accepted(), described())
    await call.end()
    await relay.half_close()
    await relay.wait_over(env.scaled(5.0))
    again = await asked(sandbox)
    second = await sandbox.session.take_up()
    await second.opened()
    await second.send(accepted(), described("/new"))
    ended = await again.end()
    env.check("next", ended.reason, equals=OK, clause="FRM-28")
    # One that ends while the gateway already uses it: the call is lost, and not repeated.
    third = await asked(sandbox)
    frame = await second.until("open", env.scaled(5.0))
    if frame is not None:
        second.reset()
        lost = await third.end()
        env.check("lost", lost.reason, equals="RELAY_LOST", clause="FRM-29")
        env.check("not-repeated", await sandbox.session.no_open(0.3), equals=True, clause="FRM-29")
    else:
        env.check("lost", "not reused", equals="reused", clause="FRM-29")


@case("gateway/reuse/newer-session", profile="relay", needs=_NEEDS, clauses=("FRM-30", "FRM-26"))
async def newer_session(env: GatewayEnv) -> None:
    """A relay of an older session is not used again once a newer one came."""
    sandbox = await env.sandbox(file_transfer=file_transfer(keeps_relays=True))
    call = await asked(sandbox)
    relay = await sandbox.session.take_up()
    await relay.opened()
    await relay.send(accepted(), described())
    await call.end()
    await sandbox.reconnect(file_transfer=file_transfer(keeps_relays=True))
    again = await asked(sandbox)
    second = await sandbox.session.take_up()
    await second.opened()
    await second.send(accepted(), described("/new"))
    ended = await again.end()
    env.check("by-the-newer", ended.ok and ended.answer.file.path, equals="/new", clause="FRM-26")
    env.check(
        "no-open-on-the-older", sum(one.HasField("open") for one in relay.frames), equals=1, clause="FRM-30"
    )


# An agent behind a port


async def _greeted(
    relay: SupervisorRelay, env: GatewayEnv, *, secret: str, name: bytes = b"openshell-files agent"
) -> bytes:
    """Answer `authenticate` by a challenge; return the gateway's nonce."""
    frame = await relay.next()
    env.check(
        "authenticates",
        frame is not None and frame.WhichOneof("frame"),
        equals="authenticate",
        clause="FRM-8",
    )
    nonce: bytes = frame.authenticate.nonce if frame is not None else b""
    mine = bytes(range(32))
    proof = hmac.digest(secret.encode(), name + nonce + mine, "sha256")
    await relay.send(Response(challenge=file_relay_pb2.FileRelayChallenge(nonce=mine, proof=proof)))
    return nonce


@case(
    "gateway/agent-port/handshake",
    profile="relay",
    needs=_PORT,
    clauses=("FRM-8", "FRM-19", "FRM-22"),
    launch={"agent_secret": _SECRET},
)
async def handshake(env: GatewayEnv) -> None:
    """Before `open` gateway and agent behind a port prove to each other that they know the secret."""
    sandbox = await env.sandbox(file_transfer=None)
    call = await asked(sandbox)
    opened = await sandbox.session.next_open()
    env.check("target", opened.WhichOneof("target"), equals="tcp", clause="FRM-8")
    relay = await sandbox.session.claim(opened)
    nonce = await _greeted(relay, env, secret=_SECRET)
    env.check("nonce", len(nonce), equals=32, clause="FRM-22")
    frame = await relay.next()
    wanted = hmac.digest(_SECRET.encode(), b"openshell-files gateway" + nonce + bytes(range(32)), "sha256")
    proof = frame.proof.proof if frame is not None else b""
    env.check("proof", proof == wanted, equals=True, clause="FRM-19")
    await relay.opened()
    await relay.send(accepted(), described())
    env.check("served", (await call.end()).reason, equals=OK, clause="FRM-8")


@case(
    "gateway/agent-port/wrong-proof",
    profile="relay",
    needs=_PORT,
    clauses=("FRM-21", "FRM-8"),
    launch={"agent_secret": _SECRET},
)
async def wrong_proof(env: GatewayEnv) -> None:
    """An agent whose proof is wrong, or the gateway's own sent back, gets no `open`."""
    sandbox = await env.sandbox(file_transfer=None)
    call = await asked(sandbox)
    relay = await sandbox.session.take_up()
    await _greeted(relay, env, secret="f" * 64)
    ended = await call.end()
    env.check(
        "reason",
        (ended.code.name, ended.reason),
        equals=("FAILED_PRECONDITION", "AGENT_UNAUTHENTICATED"),
        clause="FRM-21",
    )
    await relay.wait_over(env.scaled(5.0))
    env.check("no-open", [one for one in relay.frames if one.HasField("open")], equals=[], clause="FRM-21")
    call = await asked(sandbox)
    relay = await sandbox.session.take_up()
    frame = await relay.next()
    if frame is None:
        raise CannotGoOnError("the gateway ended the relay before its handshake")
    await relay.send(accepted(), described())
    ended = await call.end()
    env.check("no-handshake", ended.ok, equals=False, clause="FRM-21")
    env.check(
        "no-open-without-it",
        [one for one in relay.frames if one.HasField("open")],
        equals=[],
        clause="FRM-21",
    )
