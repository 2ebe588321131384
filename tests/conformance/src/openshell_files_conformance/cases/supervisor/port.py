"""An agent behind a port of the sandbox, which a supervisor without file support bridges."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import files_pb2, openshell_pb2
from openshell_files_conformance.peers.agent_port import AGENT, GATEWAY, challenged, nonce, proof, prove
from openshell_files_conformance.peers.operation import OK, FileRelay, Outcome, Request, data
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.registry import case

_LAUNCH = {"agent_port": True}
_NEEDS = ("tcp",)
_UNAUTHENTICATED = "AGENT_UNAUTHENTICATED"


def _secret(env: SupervisorEnv) -> bytes:
    return str(env.target.facts["agent"]["secret"]).encode()


async def _relay(env: SupervisorEnv) -> FileRelay:
    told = env.target.facts.get("agent", {})
    if "port" not in told or "secret" not in told:
        raise CannotGoOnError("the launcher did not say in `agent` which port and secret its agent has")
    target = openshell_pb2.TcpRelayTarget(host="127.0.0.1", port=int(told["port"]))
    return FileRelay(
        await env.byte_relay(openshell_pb2.RelayOpen(tcp=target)), env.transcript, env.scaled(10)
    )


async def _end(relay: FileRelay) -> Outcome:
    """Read what the agent still says."""
    with suppress(CannotGoOnError):
        return await relay.outcome()
    return Outcome("", relay.frames, "nothing came")


@case(
    "supervisor/port/handshake",
    profile="relay",
    clauses=("FRM-8", "FRM-19", "FRM-22"),
    needs=_NEEDS,
    launch=_LAUNCH,
)
async def handshake(env: SupervisorEnv) -> None:
    """Gateway and agent prove to each other that they know the secret; then an operation is carried out."""
    nonces = list[bytes]()
    for turn in range(2):
        relay = await _relay(env)
        own = nonce()
        answer = await challenged(relay, own)
        challenge = answer.challenge if answer is not None else None
        if challenge is None or not challenge.nonce:
            env.require(
                f"challenge-{turn}", answer, satisfies=("a challenge", lambda _: False), clause="FRM-8"
            )
            return
        nonces.append(challenge.nonce)
        wanted = proof(_secret(env), AGENT, own, challenge.nonce)
        env.check(f"proof-{turn}", challenge.proof, equals=wanted, clause="FRM-19")
        await prove(relay, proof(_secret(env), GATEWAY, own, challenge.nonce))
        content = b"by a port"
        await relay.begin(
            env.opening(
                upload=env.metadata(env.path(str(turn)), explicit_finish=False, size_bytes=len(content))
            )
        )
        await relay.upload(files_pb2.UploadFileRequest(chunk=content))
        await relay.input_end()
        env.check(f"upload-{turn}", (await relay.outcome()).reason, equals=OK, clause="FRM-8")
        env.check(
            f"content-{turn}", await env.files.read(env.path(str(turn))), equals=content, clause="FRM-8"
        )
    sizes = [len(one) for one in nonces]
    env.check("nonces", (sizes, len(set(nonces))), equals=([32, 32], 2), clause="FRM-22")


@case("supervisor/port/wrong-proof", profile="relay", clauses=("FRM-20",), needs=_NEEDS, launch=_LAUNCH)
async def wrong_proof(env: SupervisorEnv) -> None:
    """A wrong proof, the agent's own proof sent back, and an operation without a proof get nothing but the refusal."""
    stat = Request(open=env.opening(stat_file=files_pb2.StatFileRequest(remote_path=env.home)))
    for way in ("wrong", "reflected", "other-secret", "empty", "none"):
        relay = await _relay(env)
        own = nonce()
        answer = await challenged(relay, own)
        theirs = answer.challenge if answer is not None else None
        if theirs is None:
            env.untestable(way, "the agent sends no challenge", clause="FRM-20")
            continue
        given = {
            "wrong": bytes(32),
            "reflected": theirs.proof,
            "other-secret": proof(b"x" * 64, GATEWAY, own, theirs.nonce),
            "empty": b"",
        }
        with suppress(CannotGoOnError):
            if way in given:
                await prove(relay, given[way])
            await relay.send(stat)
        done = await _end(relay)
        env.check(way, done.reason, equals=_UNAUTHENTICATED, clause="FRM-20")
        with suppress(CannotGoOnError):
            await relay.rest()
        env.check(f"{way}-closed", relay.relay.ended.is_set(), equals=True, clause="FRM-20")


@case(
    "supervisor/port/first-frame", profile="relay", clauses=("FRM-20", "FRM-8"), needs=_NEEDS, launch=_LAUNCH
)
async def first_frame(env: SupervisorEnv) -> None:
    """An operation before the handshake, and a short nonce, are refused, and nothing is done."""
    relay = await _relay(env)
    metadata = env.metadata(env.path(), explicit_finish=False, size_bytes=1)
    with suppress(CannotGoOnError):
        await relay.send(Request(open=env.opening(upload=metadata)), Request(upload=data(0, b"x")))
        await relay.input_end()
    env.check("operation", (await _end(relay)).reason, equals=_UNAUTHENTICATED, clause="FRM-20")
    env.check("nothing-done", await env.files.exists(env.path()), equals=False, clause="FRM-20")
    short = await _relay(env)
    answer = await challenged(short, b"short")
    kind = answer.WhichOneof("frame") if answer is not None else "ended"
    env.check("short-nonce", kind, one_of=("error", "ended"), clause="FRM-8")


@case("supervisor/port/slow", profile="relay", clauses=("FRM-20",), needs=_NEEDS, launch=_LAUNCH, timeout=25)
async def slow(env: SupervisorEnv) -> None:
    """A peer that says nothing is closed after 5 seconds."""
    relay = await _relay(env)
    done = Outcome()
    with suppress(CannotGoOnError):
        done = await relay.outcome(env.scaled(9))
    env.check("reason", done.reason, equals=_UNAUTHENTICATED, clause="FRM-20")
    env.check(
        "closed", relay.relay.ended.is_set() or not await relay.relay.receive(), equals=True, clause="FRM-20"
    )


@case("supervisor/port/bridged", profile="relay", clauses=("RLY-5",), needs=_NEEDS)
async def bridged(env: SupervisorEnv) -> None:
    """A port of the sandbox is bridged as bytes, in both directions."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while received := await reader.read(65536):
            writer.write(received.upper())
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        relay = await env.byte_relay(
            openshell_pb2.RelayOpen(tcp=openshell_pb2.TcpRelayTarget(host="127.0.0.1", port=port))
        )
        await relay.send(b"conformance" * 1000)
        received = b""
        while len(received) < 11_000 and (more := await relay.receive()):
            received += more
        env.check("echoed", received == b"CONFORMANCE" * 1000, equals=True, clause="RLY-5")
    finally:
        server.close()
