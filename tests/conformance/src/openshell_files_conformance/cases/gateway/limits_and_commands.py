"""Limits on what runs at a time, and commands over a relay."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from openshell_files_conformance.cases.gateway.relay_opening import NEEDS
from openshell_files_conformance.pb.openshell.datamodel.v1 import datamodel_pb2
from openshell_files_conformance.pb.openshell.v1 import exec_pb2, exec_relay_pb2, file_relay_pb2
from openshell_files_conformance.peers.caller import OK, Up, data, finish
from openshell_files_conformance.peers.client import Call
from openshell_files_conformance.peers.gateway_env import GatewayEnv, SuiteSandbox
from openshell_files_conformance.peers.relay_frames import encode_varint
from openshell_files_conformance.peers.wire import framed
from openshell_files_conformance.registry import case

#: With three quarters for one caller: three of these four.
_FOUR: Final = {"max_transfers_per_sandbox": 4, "transfer_wait_s": 3}
_EXEC: Final = ("suite-supervisor", "exec")
_Event = exec_relay_pb2.ExecRelayResponse


async def _occupy(sandbox: SuiteSandbox, count: int) -> list[Call[Any]]:
    """Begin uploads that go on until the case ends them."""
    return [
        await sandbox.caller.begin(f"busy-{n}", data(0, b"x"), explicit_finish=True) for n in range(count)
    ]


@case(
    "gateway/limits/of-one-caller",
    profile="relay",
    needs=NEEDS,
    clauses=("RLY-9", "RLY-12", "RLY-24", "RLY-22"),
    launch=_FOUR,
)
async def of_one_caller(env: GatewayEnv) -> None:
    """One caller has its share of a sandbox's transfers; a further call waits, is refused with a time to wait, and another caller is served."""
    sandbox = await env.sandbox(agent=True)
    share = (await sandbox.caller.capabilities()).answer.max_concurrent_transfers
    env.require("share", share, satisfies=("1 to 3 of 4", lambda count: 1 <= count <= 3), clause="RLY-24")
    calls = await _occupy(sandbox, share)
    assert sandbox.agent is not None
    agent = sandbox.agent

    async def all_run() -> bool:
        return bool(len(agent.opened) >= share)

    env.check("as-many-as-announced", await env.eventually(all_run), equals=True, clause="RLY-24")
    start = time.monotonic()
    ended = await sandbox.caller.stat("x")
    env.check(
        "refused",
        (ended.code.name, ended.reason),
        equals=("RESOURCE_EXHAUSTED", "TOO_MANY_TRANSFERS"),
        clause="RLY-9",
    )
    env.check("retry-info", ended.retry_after is not None, equals=True, clause="RLY-9")
    env.check(
        "waited",
        time.monotonic() - start,
        satisfies=("about 3 s", lambda one: 2 < one < env.scaled(8.0)),
        clause="RLY-22",
    )
    other = await sandbox.other.stat("x")
    env.check("another-caller", other.reason, equals="FILE_NOT_FOUND", clause="RLY-12")
    await calls[0].send(finish(b"x"))
    env.check("first-ends", (await calls[0].end()).reason, equals=OK, clause="RLY-9")
    again = await sandbox.caller.stat("x")
    env.check("free-again", again.reason, equals="FILE_NOT_FOUND", clause="RLY-9")


@case(
    "gateway/limits/waits-for-a-turn",
    profile="relay",
    needs=NEEDS,
    clauses=("RLY-22", "RLY-34"),
    launch=_FOUR,
)
async def waits_for_a_turn(env: GatewayEnv) -> None:
    """A transfer that finds no free slot waits for its turn; an upload's content is not read ahead meanwhile."""
    sandbox = await env.sandbox(agent=True)
    share = (await sandbox.caller.capabilities()).answer.max_concurrent_transfers
    calls = await _occupy(sandbox, share)
    assert sandbox.agent is not None
    agent = sandbox.agent

    async def all_run() -> bool:
        return bool(len(agent.opened) >= share)

    await env.eventually(all_run)
    wire = await env.wire()
    number = await wire.open("UploadFile", token=sandbox.caller.token)
    metadata = Up(metadata=sandbox.caller.metadata("late", explicit_finish=True))
    body = framed(metadata) + b"".join(
        framed(data(at, bytes(256 << 10))) for at in range(0, 24 << 20, 256 << 10)
    )
    left = await wire.send(number, body, seconds=0.6)
    env.check(
        "not-read-ahead",
        left,
        satisfies=("something left of 24 MiB", lambda count: count > 0),
        clause="RLY-34",
    )
    await calls[0].send(finish(b"x"))
    await calls[0].end()

    async def its_turn() -> bool:
        return any(one.upload.remote_path == "late" for one in agent.opened)

    env.check("its-turn", await env.eventually(its_turn, 3), equals=True, clause="RLY-22")


@case(
    "gateway/limits/turns-go-round",
    profile="relay",
    needs=NEEDS,
    clauses=("RLY-23",),
    launch=_FOUR,
    timeout=40,
)
async def turns_go_round(env: GatewayEnv) -> None:
    """A caller with one waiting call does not stand behind all calls of a caller with many."""
    sandbox = await env.sandbox(agent=True)
    share = (await sandbox.caller.capabilities()).answer.max_concurrent_transfers
    mine = await _occupy(sandbox, share)
    theirs = [
        await sandbox.other.begin(f"theirs-{n}", data(0, b"x"), explicit_finish=True)
        for n in range(4 - share)
    ]
    assert sandbox.agent is not None
    agent = sandbox.agent

    async def all_run() -> bool:
        return len(agent.opened) >= 4

    await env.eventually(all_run)
    many = [await sandbox.caller.begin(f"many-{n}", data(0, b"x"), explicit_finish=True) for n in range(4)]
    await env.caller.capabilities()
    one = await sandbox.other.begin("the-one", data(0, b"x"), explicit_finish=True)
    await env.caller.capabilities()
    for call in (*theirs, mine[0]):
        await call.send(finish(b"x"))
    order = list[str]()

    async def two_more() -> bool:
        order[:] = [opened.upload.remote_path for opened in agent.opened[4:]]
        return len(order) >= 2

    await env.eventually(two_more)
    env.check("among-the-first", "the-one" in order[:2], equals=True, clause="RLY-23")
    for call in (*many, *mine, one):
        call.cancel()


@case(
    "gateway/limits/without-a-first-message",
    profile="relay",
    needs=(),
    clauses=("RLY-33",),
    launch={"max_transfers": 4},
    alone=True,
)
async def without_a_first_message(env: GatewayEnv) -> None:
    """Uploads of which no first message came are bounded, and others are served beside them."""
    channels = [env.connection() for _ in range(2)]
    calls = [channels[n % 2].open("UploadFile", token=env.caller.token) for n in range(12)]
    over = 0

    async def refused() -> bool:
        nonlocal over
        over = sum(call.over for call in calls)
        return over >= len(calls) - 4

    # A call sends its headers with its first message or, as here, by being waited for.
    for call in calls:
        await call.connected()
    bounded = await env.eventually(refused)
    env.check("bounded", bounded, equals=True, clause="RLY-33")
    ended = [await call.end() for call in calls if call.over]
    env.check("reason", {one.reason for one in ended}, equals={"TOO_MANY_TRANSFERS"}, clause="RLY-33")
    for call in calls:
        call.cancel()
    done = await env.caller.rfc_upload(env.path(), b"x")
    env.check("served-afterwards", done.reason, equals=OK, clause="RLY-33")


@case(
    "gateway/limits/largest-file",
    profile="core",
    clauses=("UPL-27", "CAP-2"),
    launch={"max_file_bytes": 1000},
)
async def largest_file(env: GatewayEnv) -> None:
    """A declared size, and content, beyond the limit end the call as soon as they are seen."""
    told = (await env.caller.capabilities()).answer
    env.check("announced", told.max_file_bytes, equals=1000, clause="CAP-2")
    declared = await env.caller.begin(env.path(), size_bytes=1001)
    ended = await declared.end()
    env.check(
        "declared",
        (ended.code.name, ended.reason),
        equals=("INVALID_ARGUMENT", "FILE_TOO_LARGE"),
        clause="UPL-27",
    )
    grown = await env.caller.begin(env.path(), data(0, bytes(1000)), data(1000, b"x"), explicit_finish=True)
    env.check("grown", (await grown.end()).reason, equals="FILE_TOO_LARGE", clause="UPL-27")
    most = await env.caller.rfc_upload(env.path(), bytes(1000))
    env.check("most", most.reason, equals=OK, clause="UPL-27")


@case(
    "gateway/limits/largest-chunk",
    profile="core",
    clauses=("UPL-24", "UPL-6", "CAP-2"),
    launch={"max_chunk_bytes": 262144, "upload_expiry_s": 1},
)
async def largest_chunk(env: GatewayEnv) -> None:
    """A chunk beyond max_chunk_bytes ends with CHUNK_TOO_LARGE; one of 256 KiB is always taken."""
    told = (await env.caller.capabilities()).answer
    env.check("announced", told.max_chunk_bytes, equals=262144, clause="CAP-2")
    for name, message, fields in (
        ("chunk", Up(chunk=bytes(262_145)), {"size_bytes": 262_145}),
        ("data", data(0, bytes(262_145)), {"explicit_finish": True}),
    ):
        call = await env.caller.begin(env.path(), message, **fields)
        ended = await call.end()
        env.check(
            name,
            (ended.code.name, ended.reason),
            equals=("INVALID_ARGUMENT", "CHUNK_TOO_LARGE"),
            clause="UPL-24",
        )
    most = await env.caller.upload(env.path(), bytes(524_288))
    env.check("256-kib", most.reason, equals=OK, clause="UPL-6")


# Commands


async def command(sandbox: SuiteSandbox, **fields: Any) -> Call[Any]:
    """Begin a command."""
    call = sandbox.caller.open("ExecSandbox")
    scope = datamodel_pb2.WorkspaceSelector(workspace="default")
    known: dict[str, Any] = {"sandbox": sandbox.facts.name, "command": ["true"], "workspace_scope": scope}
    await call.send(exec_pb2.ExecSandboxRequest(**{**known, **fields}))
    await call.half_close()
    return call


def event(**payload: Any) -> _Event:
    """A frame with an event of a command."""
    return _Event(event=exec_pb2.ExecSandboxEvent(**payload))


def out(text: bytes) -> _Event:
    """Standard output."""
    return event(stdout=exec_pb2.ExecSandboxStdout(data=text))


def exit_with(code: int) -> _Event:
    """The last event."""
    return event(exit=exec_pb2.ExecSandboxExit(exit_code=code))


@case("gateway/commands/run", profile="relay", needs=_EXEC, clauses=("EXE-1", "EXE-10", "EXE-11"))
async def run(env: GatewayEnv) -> None:
    """A command's request goes to the supervisor in one frame, and its events come back unchanged to the exit."""
    sandbox = await env.sandbox(exec=exec_relay_pb2.ExecCapability(protocol_version=1))
    call = await command(
        sandbox, command=["echo", "a b", "$HOME"], workdir="/sandbox", environment={"A": "b"}, stdin=b"in"
    )
    opened = await sandbox.session.next_open()
    env.check("target", opened.WhichOneof("target"), equals="exec", clause="EXE-1")
    relay = (await sandbox.session.claim(opened)).for_commands()
    frame = await relay.next()
    request = frame.open.request if frame is not None else exec_pb2.ExecSandboxRequest()
    env.check("arguments", list(request.command), equals=["echo", "a b", "$HOME"], clause="EXE-1")
    env.check(
        "rest",
        (request.workdir, dict(request.environment), request.stdin),
        equals=("/sandbox", {"A": "b"}, b"in"),
        clause="EXE-1",
    )
    events = [out(b"one"), event(stderr=exec_pb2.ExecSandboxStderr(data=b"two")), out(b"three"), exit_with(7)]
    await relay.send(*events)
    ended = await call.end()
    env.check("events", ended.messages == [one.event for one in events], equals=True, clause="EXE-11")
    env.check("ok", ended.reason, equals=OK, clause="EXE-11")
    env.check("one-frame", len(relay.frames), equals=1, clause="EXE-10")


@case("gateway/commands/lost", profile="relay", needs=_EXEC, clauses=("EXE-12", "EXE-11", "EXE-1"))
async def lost(env: GatewayEnv) -> None:
    """A relay that ends before the exit event ends the call with COMMAND_LOST, and the command is not run again."""
    sandbox = await env.sandbox(exec=exec_relay_pb2.ExecCapability(protocol_version=1))
    for name in ("half-close", "reset"):
        call = await command(sandbox)
        relay = (await sandbox.session.take_up()).for_commands()
        await relay.next()
        await relay.send(out(b"some"))
        if name == "reset":
            relay.reset()
        else:
            await relay.half_close()
        ended = await call.end()
        env.check(name, (ended.code.name, ended.reason), equals=("UNKNOWN", "COMMAND_LOST"), clause="EXE-12")
    env.check("not-again", await sandbox.session.no_open(0.2), equals=True, clause="EXE-12")
    call = await command(sandbox)
    relay = (await sandbox.session.take_up()).for_commands()
    await relay.next()
    await relay.send(_Event(error=file_relay_pb2.FileRelayError(reason="TOO_MANY_COMMANDS", message="full")))
    env.check("error", (await call.end()).reason, equals="TOO_MANY_COMMANDS", clause="EXE-11")
    call = await command(sandbox)
    relay = (await sandbox.session.take_up()).for_commands()
    await relay.next()
    await relay.send_bytes(encode_varint(3) + b"\xff\xff\xff")
    ended = await call.end()
    env.check("no-frames", ended.ok, equals=False, clause="EXE-1")


@case("gateway/commands/unsupported", profile="relay", needs=_EXEC, clauses=("EXE-9", "EXE-16"))
async def unsupported(env: GatewayEnv) -> None:
    """A supervisor that announced no commands is never asked for one; a terminal is refused."""
    sandbox = await env.sandbox()
    ended = await (await command(sandbox)).end()
    env.check(
        "reason",
        (ended.code.name, ended.reason),
        equals=("FAILED_PRECONDITION", "EXEC_UNSUPPORTED"),
        clause="EXE-9",
    )
    env.check("no-relay", await sandbox.session.no_open(0.2), equals=True, clause="EXE-9")
    await sandbox.reconnect(exec=exec_relay_pb2.ExecCapability(protocol_version=1))
    call = await command(sandbox, tty=True)
    if not await sandbox.session.no_open(0.3):
        # Then the supervisor refuses it, which the suite's does not: nothing is found out about the gateway.
        call.cancel()
        env.untestable("tty", "the gateway leaves a terminal to the supervisor", clause="EXE-16")
        return
    ended = await call.end()
    env.check("tty", ended.reason, equals="INVALID_REQUEST", clause="EXE-16")


@case("gateway/commands/small-pieces", profile="relay", needs=_EXEC, clauses=("RLY-27", "EXE-18"), timeout=40)
async def small_pieces(env: GatewayEnv) -> None:
    """A command that writes in tiny pieces is not ended for their size, and nothing of its output is dropped."""
    sandbox = await env.sandbox(exec=exec_relay_pb2.ExecCapability(protocol_version=1), spoils=True)
    call = await command(sandbox)
    relay = (await sandbox.session.take_up()).for_commands()
    await relay.next()
    pieces = [out(bytes([n % 256])) for n in range(3000)]
    reading = asyncio.ensure_future(call.end(env.scaled(30.0)))
    for at in range(0, len(pieces), 100):
        for piece in pieces[at : at + 100]:
            await relay.send(piece)
    await relay.send(exit_with(0))
    ended = await reading
    env.check("ok", ended.reason, equals=OK, clause="RLY-27")
    output = b"".join(one.stdout.data for one in ended.answers)
    env.check("whole", output == bytes(n % 256 for n in range(3000)), equals=True, clause="EXE-18")


@case("gateway/commands/cancelled", profile="relay", needs=_EXEC, clauses=("EXE-6",))
async def cancelled(env: GatewayEnv) -> None:
    """When a command's caller leaves the gateway ends its relay, so that the supervisor ends the command."""
    sandbox = await env.sandbox(exec=exec_relay_pb2.ExecCapability(protocol_version=1))
    call = await command(sandbox)
    relay = (await sandbox.session.take_up()).for_commands()
    await relay.next()
    await relay.send(out(b"some"))
    await call.next()
    call.cancel()
    env.check("relay-ends", await relay.wait_over(env.scaled(5.0)), equals=True, clause="EXE-6")


@case("gateway/commands/not-while-starting", profile="relay", needs=_EXEC, clauses=("SBX-10",))
async def not_while_starting(env: GatewayEnv) -> None:
    """A command for a sandbox without a supervisor ends at once; it does not wait as file methods do."""
    sandbox = await env.sandbox(session=False)
    start = time.monotonic()
    ended = await (await command(sandbox)).end()
    env.check("ends", ended.ok, equals=False, clause="SBX-10")
    env.check(
        "at-once",
        time.monotonic() - start,
        satisfies=("less than 3 s", lambda one: one < env.scaled(3.0)),
        clause="SBX-10",
    )
