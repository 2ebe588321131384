"""Sessions of supervisors: accepted, superseded, outdated, silent, flooding, and ended by a gateway that stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import Any, Final

from openshell_files_conformance.cases.gateway.relay_opening import NEEDS, asked, described
from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import files_pb2, openshell_pb2
from openshell_files_conformance.peers.caller import OK, Up, data, finish
from openshell_files_conformance.peers.gateway_env import GatewayEnv
from openshell_files_conformance.peers.relay_frames import encode_frame
from openshell_files_conformance.peers.supervisor import Response, ToGateway, accepted
from openshell_files_conformance.registry import case

_HEARTBEAT: Final = ToGateway(heartbeat=openshell_pb2.SupervisorHeartbeat())


@case("gateway/session/accepted", profile="relay", needs=NEEDS, clauses=("RLY-11", "RLY-31", "RLY-18"))
async def session_accepted(env: GatewayEnv) -> None:
    """A session is accepted with the interval of heartbeats, in field 102, of at most an hour."""
    sandbox = await env.sandbox()
    told = sandbox.session.accepted
    assert told is not None
    env.check("announced", told.HasField("heartbeat_interval"), equals=True, clause="RLY-11")
    seconds = told.heartbeat_interval.ToNanoseconds() / 1e9
    env.check(
        "at-most-an-hour", seconds, satisfies=("0 to 3600 s", lambda one: 0 < one <= 3600), clause="RLY-31"
    )
    env.check("has-an-id", bool(told.session_id), equals=True, clause="RLY-11")
    # A supervisor's heartbeat may be a whole interval late.
    env.check("still-open", sandbox.session.over, equals=False, clause="RLY-18")


@case("gateway/session/superseded", profile="relay", needs=NEEDS, clauses=("RLY-4", "RLY-20"))
async def superseded(env: GatewayEnv) -> None:
    """A newer session supersedes the older one, which ends, and gets all further relays."""
    sandbox = await env.sandbox()
    newer = await env.supervisor(sandbox.facts).connected()
    ended = await sandbox.session.wait_over()
    env.check("older-ends", sandbox.session.over, equals=True, clause="RLY-4")
    env.check(
        "in-order", ended.code.name, one_of=("OK", "ABORTED", "CANCELLED", "UNAVAILABLE"), clause="RLY-20"
    )
    call = await asked(sandbox)
    relay = await newer.take_up()
    await relay.opened()
    await relay.send(accepted(), described())
    env.check("newer-serves", (await call.end()).reason, equals=OK, clause="RLY-4")


@case("gateway/session/outdated", profile="relay", needs=NEEDS, clauses=("RLY-6",))
async def outdated(env: GatewayEnv) -> None:
    """An earlier connection of the same instance, which arrives late, does not supersede the later one."""
    sandbox = await env.sandbox(session=False)
    late = sandbox.supervisor.hello()
    current = await sandbox.supervisor.connected()
    second = await sandbox.supervisor.connect(late)
    env.check("not-accepted", second.accepted is None, equals=True, clause="RLY-6")
    reason = second.ended.reason if second.ended is not None else "rejected"
    env.check("reason", reason, one_of=("SESSION_OUTDATED", "rejected"), clause="RLY-6")
    call = await asked(sandbox)
    relay = await current.take_up()
    await relay.opened()
    await relay.send(accepted(), described())
    env.check("later-one-serves", (await call.end()).reason, equals=OK, clause="RLY-6")


@case("gateway/session/hello-first", profile="relay", needs=NEEDS, clauses=("RLY-7", "AUT-3"))
async def hello_first(env: GatewayEnv) -> None:
    """A session that begins with something else than a hello, or names another sandbox, is not accepted."""
    sandbox = await env.sandbox(session=False)
    for name, first, clause in (
        ("heartbeat", _HEARTBEAT, "RLY-7"),
        ("nothing", ToGateway(), "RLY-7"),
        (
            "other-sandbox",
            ToGateway(
                hello=openshell_pb2.SupervisorHello(
                    sandbox_id=env.stack.id, instance_id="i", connection_epoch=1
                )
            ),
            "AUT-3",
        ),
    ):
        call = sandbox.supervisor.open("ConnectSupervisor")
        await call.send(first)
        ended = await call.end()
        taken = any(one.HasField("session_accepted") for one in ended.answers)
        env.check(name, taken, equals=False, clause=clause)
    right = await sandbox.supervisor.connect()
    env.check("a-hello", right.accepted is not None, equals=True, clause="RLY-7")


@case(
    "gateway/session/silent",
    profile="relay",
    needs=NEEDS,
    clauses=("RLY-7", "RLY-11"),
    launch={"heartbeat_interval_s": 1, "silence_timeout_s": 10},
    timeout=40,
)
async def silent(env: GatewayEnv) -> None:
    """A session without a message within the silence timeout is closed; one with heartbeats is not; the gateway sends its own."""
    quiet, talking = await env.sandbox(session=False), await env.sandbox(session=False)
    start = time.monotonic()
    first = await quiet.supervisor.connect(heartbeats=False)
    second = await talking.supervisor.connected()
    env.check(
        "gateways-heartbeats",
        await second.wait_heard("heartbeat", 2, env.scaled(8.0)),
        equals=True,
        clause="RLY-11",
    )
    await first.wait_over(env.scaled(20.0))
    env.check(
        "closed",
        time.monotonic() - start,
        satisfies=("about 10 s", lambda seconds: 8 < seconds < env.scaled(20.0)),
        clause="RLY-7",
    )
    env.check("talking-stays", second.over, equals=False, clause="RLY-7")


@case("gateway/session/control-messages-are-delayed", profile="relay", needs=NEEDS, clauses=("RLY-10",))
async def control_messages_are_delayed(env: GatewayEnv) -> None:
    """A burst of control messages is taken, at the gateway's pace, and the session goes on."""
    sandbox = await env.sandbox(spoils=True)
    await sandbox.session.send(*([_HEARTBEAT] * 60))
    call = await asked(sandbox)
    relay = await sandbox.session.take_up()
    await relay.opened()
    await relay.send(accepted(), described())
    env.check("served", (await call.end()).reason, equals=OK, clause="RLY-10")
    env.check("open", sandbox.session.over, equals=False, clause="RLY-10")


@case("gateway/session/flood", profile="relay", needs=NEEDS, clauses=("RLY-25", "RLY-26"), timeout=60)
async def flood(env: GatewayEnv) -> None:
    """A supervisor that floods its session ends with SUPERVISOR_FLOODS, and so do its next session and the sandbox's next call."""
    sandbox = await env.sandbox(spoils=True)
    deadline = time.monotonic() + env.scaled(30.0)
    while not sandbox.session.over and time.monotonic() < deadline:
        if not await sandbox.session.call.send(*([_HEARTBEAT] * 100), quiet=True):
            break
        await asyncio.sleep(0)
    ended = await sandbox.session.wait_over(env.scaled(20.0))
    env.check(
        "session",
        (ended.code.name, ended.reason),
        equals=("RESOURCE_EXHAUSTED", "SUPERVISOR_FLOODS"),
        clause="RLY-25",
    )
    again = await sandbox.supervisor.connect()
    reason = again.ended.reason if again.ended is not None else "accepted"
    env.check("next-session", reason, equals="SUPERVISOR_FLOODS", clause="RLY-26")
    retry = again.ended.retry_after if again.ended is not None else None
    env.check(
        "retry-info",
        retry,
        satisfies=("up to half a minute", lambda one: one is not None and 0 < one <= 31),
        clause="RLY-26",
    )


@case("gateway/session/flooded-relay", profile="relay", needs=NEEDS, clauses=("RLY-25", "RLY-26"), timeout=60)
async def flooded_relay(env: GatewayEnv) -> None:
    """A supervisor that floods a file relay with tiny pieces ends that call with SUPERVISOR_FLOODS."""
    sandbox = await env.sandbox(spoils=True)
    request = files_pb2.DownloadFileRequest(sandbox_id=sandbox.facts.id, remote_path="file")
    call = sandbox.caller.open("DownloadFile")
    await call.send(request)
    await call.half_close()
    relay = await sandbox.session.take_up()
    await relay.opened()
    header = files_pb2.DownloadFileHeader(size_bytes=1 << 30)
    await relay.send(accepted(), Response(download=files_pb2.DownloadFileResponse(header=header)))
    piece = Response(download=files_pb2.DownloadFileResponse(chunk=b"x"))
    pieces = encode_frame(piece) * 20
    reading = asyncio.ensure_future(call.end(env.scaled(40.0)))
    while not reading.done():
        if not await relay.send_bytes(pieces, cuts=[1] * len(pieces)):
            break
        await asyncio.sleep(0)
    ended = await reading
    env.check(
        "call",
        (ended.code.name, ended.reason),
        equals=("RESOURCE_EXHAUSTED", "SUPERVISOR_FLOODS"),
        clause="RLY-25",
    )
    again = await sandbox.caller.stat("file")
    env.check("next-call", again.reason, equals="SUPERVISOR_FLOODS", clause="RLY-26")
    env.check("retry-info", again.retry_after is not None, equals=True, clause="RLY-26")


@case("gateway/session/small-pieces-are-no-flood", profile="relay", needs=NEEDS, clauses=("RLY-10", "FRM-1"))
async def small_pieces(env: GatewayEnv) -> None:
    """A download whose frames come cut into small pieces, of no more than the pace, arrives whole."""
    sandbox = await env.sandbox(spoils=True)
    call = sandbox.caller.open("DownloadFile")
    await call.send(files_pb2.DownloadFileRequest(sandbox_id=sandbox.facts.id, remote_path="file"))
    await call.half_close()
    relay = await sandbox.session.take_up()
    await relay.opened()
    content = bytes(range(256)) * 16
    frames = (
        accepted(),
        Response(
            download=files_pb2.DownloadFileResponse(
                header=files_pb2.DownloadFileHeader(size_bytes=len(content))
            )
        ),
        Response(download=files_pb2.DownloadFileResponse(chunk=content)),
    )
    await relay.send(*frames, cuts=[1, 2, 3, 5, 7, 11, 13] * 4)
    last = Response()
    last.download_end.bytes_sent = len(content)
    await relay.send(last, cuts=[1])
    ended = await call.end()
    env.check("reason", ended.reason, equals=OK, clause="RLY-10")
    env.check("content", b"".join(one.chunk for one in ended.answers) == content, equals=True, clause="FRM-1")


@case(
    "gateway/stopping/in-order",
    profile="relay",
    needs=NEEDS,
    clauses=("RLY-8", "RLY-19", "RLY-20", "RLY-21"),
    launch={"stop_timeout_s": 6},
    alone=True,
    timeout=60,
)
async def stopping(env: GatewayEnv) -> None:
    """A gateway that stops says so by Health first, refuses new calls and sessions, lets transfers finish, and ends in time."""
    sandbox = await env.sandbox(agent=True)
    running = await sandbox.caller.begin("running", data(0, b"before"), explicit_finish=True)
    await sandbox.caller.stat("barrier")
    if env.target.pid is None:
        raise CannotGoOnError("the ready message has no pid, so the gateway cannot be told to stop")
    health = env.connection().open("/grpc.health.v1.Health/Watch", token=None)
    await health.send(openshell_pb2.HealthRequest())
    await health.next()
    channel = env.connection()
    await channel.call("Health", openshell_pb2.HealthRequest(), token=None)
    start = time.monotonic()
    os.kill(env.target.pid, signal.SIGTERM)
    with contextlib.suppress(CannotGoOnError):
        await health.next(env.scaled(5.0))
    told = [one.status for one in health.messages]
    # NOT_SERVING of the health service is 2, as is DEGRADED of the message that stands for it here.
    env.check("not-serving", told[-1:], equals=[2], clause="RLY-8")
    state = await channel.call("Health", openshell_pb2.HealthRequest(), token=None)
    seen = state.answer.status if state.ok else state.reason
    # It may have closed its port by now, which refuses a call without a word.
    closed = ("UNAVAILABLE without a reason", "CANCELLED without a reason")
    env.check("unhealthy", seen, one_of=(openshell_pb2.SERVICE_STATUS_UNHEALTHY, *closed), clause="RLY-8")
    request = files_pb2.StatFileRequest(sandbox=sandbox.caller.sandbox, remote_path="x")
    refused = await channel.call("StatFile", request, token=sandbox.caller.token)
    env.check("new-call", refused.reason, one_of=("GATEWAY_SHUTTING_DOWN", *closed), clause="RLY-19")
    await sandbox.session.wait_over()
    env.check("session-ends", sandbox.session.over, equals=True, clause="RLY-20")
    await running.send(data(6, b" and after"), finish(b"before and after"))
    done = await running.end()
    env.check("transfer-finishes", done.reason, equals=OK, clause="RLY-21")

    async def gone() -> bool:
        try:
            os.kill(env.target.pid or 0, 0)
        except ProcessLookupError:
            return True
        with open(f"/proc/{env.target.pid}/stat", encoding="ascii") as stat:  # noqa: ASYNC230
            return stat.read().rsplit(")", 1)[1].split()[0] == "Z"

    env.check("ends", await env.eventually(gone, 15), equals=True, clause="RLY-21")
    env.check(
        "in-time",
        time.monotonic() - start,
        satisfies=("its stop timeout and a few seconds", lambda one: one < env.scaled(14.0)),
        clause="RLY-21",
    )


@case(
    "gateway/stopping/cuts-transfers",
    profile="relay",
    needs=NEEDS,
    clauses=("RLY-21", "UPL-1"),
    launch={"stop_timeout_s": 1},
    alone=True,
    timeout=60,
)
async def cuts_transfers(env: GatewayEnv) -> None:
    """A transfer that does not end is cut at the stop timeout, and the agent is told that its caller does not wait: nothing is published."""
    sandbox = await env.sandbox(agent=True)
    running = await sandbox.caller.begin("running", Up(chunk=b"all of it"), size_bytes=9)
    await sandbox.caller.stat("barrier")
    if env.target.pid is None:
        raise CannotGoOnError("the ready message has no pid, so the gateway cannot be told to stop")
    os.kill(env.target.pid, signal.SIGTERM)
    done: Any = await running.end(env.scaled(15.0))
    env.check("cut", done.ok, equals=False, clause="RLY-21")
    assert sandbox.agent is not None
    env.check(
        "nothing-published", "/sandbox/running" in sandbox.agent.files.files, equals=False, clause="UPL-1"
    )
