"""Opening a relay: who claims it, when, how often, and what the caller gets if nobody does."""

from __future__ import annotations

from typing import Any, Final

from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.caller import OK
from openshell_files_conformance.peers.client import Call
from openshell_files_conformance.peers.gateway_env import GatewayEnv, SuiteSandbox
from openshell_files_conformance.peers.supervisor import Response, accepted
from openshell_files_conformance.registry import case

NEEDS: Final = ("suite-supervisor",)
#: A target whose times are short; one launch for all cases that wait for one of them.
SHORT: Final = {"idle_timeout_s": 2, "claim_timeout_s": 1, "session_wait_s": 1}


async def asked(sandbox: SuiteSandbox, path: str = "file") -> Call[Any]:
    """Begin a StatFile, which needs one relay and one answer."""
    call = sandbox.caller.open("StatFile")
    await call.send(files_pb2.StatFileRequest(sandbox=sandbox.caller.sandbox, remote_path=path))
    await call.half_close()
    return call


def described(path: str = "/file") -> Response:
    """The answer to it."""
    return Response(stat_file=files_pb2.StatFileResponse(file=files_pb2.FileInfo(path=path)))


@case(
    "gateway/relay/one-operation",
    profile="relay",
    needs=NEEDS,
    clauses=("RLY-2", "FRM-2", "FRM-10", "FRM-27"),
)
async def one_operation(env: GatewayEnv) -> None:
    """A relay is opened for a call, its initial metadata comes right after the claim, and the first frame is `open`."""
    sandbox = await env.sandbox()
    call = await asked(sandbox)
    opened = await sandbox.session.next_open()
    env.check("target", opened.WhichOneof("target"), equals="file", clause="FRM-2")
    relay = await sandbox.session.claim(opened)
    # The initial metadata must not wait for frames of the supervisor.
    try:
        await relay.call.headers(env.scaled(3.0))
        came = "came"
    except CannotGoOnError:
        came = "did not come within 3 s"
    env.check("initial-metadata", came, equals="came", clause="RLY-2")
    first = await relay.opened()
    env.check("operation", first.WhichOneof("operation"), equals="stat_file", clause="FRM-10")
    env.check("version", first.protocol_version, equals=1, clause="FRM-2")
    principal = first.principal
    env.check("principal", principal, satisfies=("names the caller", bool), clause="FRM-27")
    await relay.send(accepted(), described())
    ended = await call.end()
    env.check(
        "answer",
        (ended.reason, ended.answer.file.path if ended.ok else None),
        equals=(OK, "/file"),
        clause="FRM-10",
    )
    other = sandbox.other.open("StatFile")
    await other.send(files_pb2.StatFileRequest(sandbox=sandbox.other.sandbox, remote_path="file"))
    await other.half_close()
    relay = await sandbox.session.take_up()
    second = await relay.opened()
    env.check("another-principal", second.principal not in {"", principal}, equals=True, clause="FRM-27")
    await relay.send(accepted(), described())
    await other.end()


@case("gateway/relay/no-files", profile="relay", needs=NEEDS, clauses=("RLY-1",))
async def no_files(env: GatewayEnv) -> None:
    """A supervisor whose hello had no file_transfer is never asked for a file relay."""
    sandbox = await env.sandbox(file_transfer=None)
    for name, ended in (
        ("stat", await sandbox.caller.stat("file")),
        ("upload", await sandbox.caller.rfc_upload("file", b"x")),
        ("download", (await sandbox.caller.download("file")).ended),
    ):
        env.check(
            name,
            (ended.code.name, ended.reason),
            equals=("FAILED_PRECONDITION", "FILES_UNSUPPORTED"),
            clause="RLY-1",
        )
    env.check("no-relay", await sandbox.session.no_open(0.2), equals=True, clause="RLY-1")


@case("gateway/relay/claimed-twice", profile="relay", needs=NEEDS, clauses=("RLY-3",))
async def claimed_twice(env: GatewayEnv) -> None:
    """A channel is claimed once: a second claim is refused and does not disturb the first."""
    sandbox = await env.sandbox()
    call = await asked(sandbox)
    opened = await sandbox.session.next_open()
    relay = await sandbox.session.claim(opened)
    await relay.opened()
    second = await sandbox.session.claim(opened)
    ended = await second.end()
    env.check(
        "second", (ended.code.name, ended.reason), equals=("NOT_FOUND", "RELAY_UNKNOWN"), clause="RLY-3"
    )
    await relay.send(accepted(), described())
    env.check("first-goes-on", (await call.end()).reason, equals=OK, clause="RLY-3")
    late = await sandbox.session.claim(opened)
    env.check("afterwards", (await late.end()).reason, equals="RELAY_UNKNOWN", clause="RLY-3")
    never = await sandbox.session.claim("no-such-channel")
    env.check("never-opened", (await never.end()).reason, equals="RELAY_UNKNOWN", clause="RLY-3")


@case("gateway/relay/claimed-by-another-sandbox", profile="relay", needs=NEEDS, clauses=("RLY-15",))
async def claimed_by_another_sandbox(env: GatewayEnv) -> None:
    """Another sandbox's supervisor that learns the channel's id cannot claim it, and does not use it up."""
    sandbox, thief = await env.sandbox(), await env.sandbox()
    call = await asked(sandbox)
    opened = await sandbox.session.next_open()
    stolen = await sandbox.session.claim(opened, by=thief.supervisor)
    ended = await stolen.end()
    env.check(
        "refused",
        (ended.code.name, ended.reason),
        equals=("PERMISSION_DENIED", "SANDBOX_MISMATCH"),
        clause="RLY-15",
    )
    env.check("no-frame", stolen.frames, equals=[], clause="RLY-15")
    relay = await sandbox.session.claim(opened)
    await relay.opened()
    await relay.send(accepted(), described())
    env.check("not-used-up", (await call.end()).reason, equals=OK, clause="RLY-15")


@case("gateway/relay/refused-by-the-supervisor", profile="relay", needs=NEEDS, clauses=("RLY-17",))
async def refused_by_the_supervisor(env: GatewayEnv) -> None:
    """A supervisor that cannot take a relay up says so, and the caller gets its words."""
    sandbox = await env.sandbox()
    call = await asked(sandbox)
    await sandbox.session.refuse(await sandbox.session.next_open(), "no room for the relay today")
    ended = await call.end()
    env.check(
        "reason", (ended.code.name, ended.reason), equals=("UNAVAILABLE", "RELAY_REFUSED"), clause="RLY-17"
    )
    env.check("words", "no room for the relay today" in ended.details, equals=True, clause="RLY-17")
    call = await asked(sandbox)
    relay = await sandbox.session.take_up()
    await relay.opened()
    await relay.send(accepted(), described())
    env.check("next-call", (await call.end()).reason, equals=OK, clause="RLY-17")


@case("gateway/relay/not-claimed", profile="relay", needs=NEEDS, clauses=("RLY-14",), launch=SHORT)
async def not_claimed(env: GatewayEnv) -> None:
    """A channel that is not claimed in time cannot be claimed any more, and its caller gets RELAY_TIMEOUT."""
    sandbox = await env.sandbox()
    call = await asked(sandbox)
    opened = await sandbox.session.next_open()
    ended = await call.end()
    env.check(
        "reason",
        (ended.code.name, ended.reason),
        equals=("DEADLINE_EXCEEDED", "RELAY_TIMEOUT"),
        clause="RLY-14",
    )
    late = await sandbox.session.claim(opened)
    env.check("late-claim", (await late.end()).reason, equals="RELAY_UNKNOWN", clause="RLY-14")


@case(
    "gateway/relay/caller-leaves-before-the-claim", profile="relay", needs=NEEDS, clauses=("RLY-3", "RLY-9")
)
async def caller_leaves_before_the_claim(env: GatewayEnv) -> None:
    """A claim for a caller that has left gets nothing to do, and the next call is served."""
    sandbox = await env.sandbox()
    call = await asked(sandbox)
    opened = await sandbox.session.next_open()
    call.cancel()
    await env.caller.capabilities()
    relay = await sandbox.session.claim(opened)
    env.check("relay-ends", await relay.wait_over(env.scaled(5.0)), equals=True, clause="RLY-3")
    call = await asked(sandbox)
    relay = await sandbox.session.take_up()
    await relay.opened()
    await relay.send(accepted(), described())
    env.check("next-call", (await call.end()).reason, equals=OK, clause="RLY-9")


@case("gateway/relay/waits-for-the-supervisor", profile="relay", needs=NEEDS, clauses=("SBX-10", "RLY-16"))
async def waits_for_the_supervisor(env: GatewayEnv) -> None:
    """A call to a sandbox whose supervisor is about to connect waits for it."""
    sandbox = await env.sandbox(session=False)
    call = await asked(sandbox)
    await env.caller.capabilities()
    session = await sandbox.supervisor.connected()
    relay = await session.take_up()
    await relay.opened()
    await relay.send(accepted(), described())
    env.check("served", (await call.end()).reason, equals=OK, clause="SBX-10")
    # The open of a call that the old session did not take up goes to the new one.
    call = await asked(sandbox)
    await session.next_open()
    newer = await sandbox.supervisor.connected()
    relay = await newer.take_up()
    await relay.opened()
    await relay.send(accepted(), described())
    env.check("sent-again", (await call.end()).reason, equals=OK, clause="RLY-16")


@case("gateway/relay/no-supervisor", profile="relay", needs=NEEDS, clauses=("CAP-4",), launch=SHORT)
async def no_supervisor(env: GatewayEnv) -> None:
    """A call to a sandbox whose supervisor does not come ends, with a time to wait."""
    sandbox = await env.sandbox(session=False)
    ended = await sandbox.caller.stat("file")
    env.check(
        "reason",
        (ended.code.name, ended.reason),
        equals=("UNAVAILABLE", "SUPERVISOR_NOT_CONNECTED"),
        clause="CAP-4",
    )
    env.check("retry-info", ended.retry_after is not None, equals=True, clause="CAP-4")
