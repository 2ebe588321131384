"""Uploads over several streams, and uploads whose source has nothing to read for a while."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from openshell_files_conformance.cases.gateway.relay_opening import SHORT
from openshell_files_conformance.cases.gateway.resuming import RECEIVING, begin_named, staged, status_of
from openshell_files_conformance.cases.gateway.rfc_round_trips import content_of
from openshell_files_conformance.pb.openshell.v1 import file_options_pb2, files_pb2
from openshell_files_conformance.peers.caller import OK, Caller, Up, chunks, data, finish
from openshell_files_conformance.peers.client import Call
from openshell_files_conformance.peers.gateway_env import ONE, GatewayEnv
from openshell_files_conformance.registry import case

_LANES: Final = ("lanes", "resume")
_WAITING: Final = ("waiting", "resume")
WAITING: Final = Up(waiting=file_options_pb2.UploadWaiting())


async def lane(
    caller: Caller, status: files_pb2.UploadStatus, index: int, *messages: Up, **fields: Any
) -> Call[Any]:
    """Begin a further stream of an upload."""
    named: dict[str, Any] = {
        "sandbox_id": caller.sandbox_id,
        "upload_id": status.upload_id,
        "epoch": status.epoch,
        "index": index,
        **fields,
    }
    call = caller.open("UploadFile")
    await call.send(Up(lane=file_options_pb2.UploadLane(**named)), *messages)
    return call


async def first_lane(
    caller: Caller, path: str, status: files_pb2.UploadStatus, lanes: int, *messages: Up
) -> Call[Any]:
    """Begin the stream with the metadata."""
    return await begin_named(caller, path, status, *messages, explicit_finish=True, lanes=lanes)


def _register(lanes: int, count: int) -> None:
    async def run(env: GatewayEnv) -> None:
        path, content = env.path(), content_of(count * 50_000)
        status = status_of(await env.caller.start(path))
        messages = [*chunks(content, size=50_000), finish(content)]
        callers = [env.user(ONE, env.stack, channel=env.connection()) for _ in range(lanes)]
        # The streams may come in any order.
        calls: dict[int, Call[Any]] = {}
        for index in reversed(range(lanes)):
            mine = messages[index::lanes]
            if index:
                calls[index] = await lane(callers[index], status, index, *mine)
            else:
                calls[0] = await first_lane(callers[0], path, status, lanes, *mine)
        for call in calls.values():
            await call.half_close()
        done = await calls[0].end()
        env.require("answer", done.reason, equals=OK, clause="LAN-2")
        env.check("content", await env.caller.content(path) == content, equals=True, clause="LAN-5")
        for index in range(1, lanes):
            other = await calls[index].end()
            empty = other.ok and other.answer is not None and not other.answer.ByteSize()
            env.check(f"lane-{index}", empty, equals=True, clause="LAN-7")

    run.__doc__ = f"An upload of {count} chunks over {lanes} streams, each on a connection of its own, is put together in order."
    case(
        f"gateway/lanes/{count}-chunks-over-{lanes}",
        profile="lanes",
        needs=_LANES,
        clauses=("LAN-2", "LAN-5", "LAN-7"),
    )(run)


for _lanes, _count in ((2, 0), (2, 1), (2, 5), (3, 3), (4, 21)):
    _register(_lanes, _count)


@case(
    "gateway/lanes/one-stream-to-the-agent",
    profile="lanes",
    needs=(*_LANES, "suite-supervisor"),
    clauses=("LAN-12", "LAN-1"),
)
async def one_stream_to_the_agent(env: GatewayEnv) -> None:
    """The agent has one relay, with the messages in their order and no lanes in them."""
    sandbox = await env.sandbox(agent=True)
    told = (await sandbox.caller.capabilities()).answer
    env.check(
        "announced", told.lanes.max_lanes, satisfies=("at least 2", lambda most: most >= 2), clause="LAN-1"
    )
    path = "lanes"
    status = status_of(await sandbox.caller.start(path))
    second = await lane(sandbox.caller, status, 1, data(3, b"two"), finish(b"onetwosix"))
    first = await first_lane(sandbox.caller, path, status, 2, data(0, b"one"), data(6, b"six"))
    done = await first.end()
    env.require("answer", done.reason, equals=OK, clause="LAN-12")
    await second.end()
    assert sandbox.agent is not None
    uploads = [one for one in sandbox.agent.opened if one.WhichOneof("operation") == "upload"]
    env.check("one-operation", len(uploads), equals=1, clause="LAN-12")
    env.check(
        "content", sandbox.agent.files.files["/sandbox/lanes"].content, equals=b"onetwosix", clause="LAN-12"
    )


@case("gateway/lanes/without-a-name", profile="lanes", needs=_LANES, clauses=("LAN-13",))
async def without_a_name(env: GatewayEnv) -> None:
    """Lanes without upload_id, or without explicit_finish, are refused."""
    path = env.path()
    call = await env.caller.begin(path, lanes=2, explicit_finish=True)
    env.check("no-upload-id", (await call.end()).reason, equals="INVALID_REQUEST", clause="LAN-13")
    status = status_of(await env.caller.start(path))
    call = await begin_named(env.caller, path, status, lanes=2)
    env.check("no-explicit-finish", (await call.end()).reason, equals="INVALID_REQUEST", clause="LAN-13")


@case("gateway/lanes/wrong-index", profile="lanes", needs=_LANES, clauses=("LAN-14",))
async def wrong_index(env: GatewayEnv) -> None:
    """A second stream with an index, and one with an index that the upload does not have, are refused and disturb nothing."""
    path = env.path()
    status = status_of(await env.caller.start(path))
    first = await first_lane(env.caller, path, status, 2, data(0, b"one"))
    good = await lane(env.caller, status, 1, data(3, b"two"))
    await staged(env, status, 6)
    for name, index in (("again", 1), ("beyond", 2), ("zero", 0)):
        wrong = await lane(env.caller, status, index, data(0, b"x"))
        env.check(name, (await wrong.end()).reason, equals="INVALID_REQUEST", clause="LAN-14")
    await first.send(finish(b"onetwo"))
    env.check("undisturbed", (await first.end()).reason, equals=OK, clause="LAN-14")
    await good.end()


@case(
    "gateway/lanes/of-another",
    profile="lanes",
    needs=_LANES,
    clauses=("LAN-4", "LAN-15", "LAN-17"),
    launch=SHORT,
    timeout=40,
)
async def of_another(env: GatewayEnv) -> None:
    """A lane joins only an upload of its principal, sandbox, id and epoch; and it needs a token like every call."""
    path = env.path()
    status = status_of(await env.caller.start(path))
    wrong = [
        ("another-principal", await lane(env.other, status, 1, data(3, b"bad"))),
        ("another-epoch", await lane(env.caller, status, 1, data(3, b"bad"), epoch=status.epoch + 1)),
        ("another-upload", await lane(env.caller, status, 1, data(3, b"bad"), upload_id="someone-elses")),
    ]
    anonymous = env.channel.open("UploadFile", token=None)
    await anonymous.send(
        Up(
            lane=file_options_pb2.UploadLane(
                sandbox_id=env.stack.id, upload_id=status.upload_id, epoch=1, index=1
            )
        )
    )
    env.check("no-token", (await anonymous.end()).reason, equals="TOKEN_MISSING", clause="LAN-15")
    first = await first_lane(env.caller, path, status, 2, data(0, b"one"))
    ended = await first.end()
    # Both times end together (LAN-6).
    env.check("no-lane-came", ended.reason, one_of=("LANE_LOST", "TRANSFER_IDLE"), clause="LAN-17")
    for name, call in wrong:
        other = await call.end()
        env.check(name, other.ok, equals=False, clause="LAN-4")
    told = status_of(await env.caller.get(upload_id=status.upload_id))
    env.check("nothing-of-them", told.staged_bytes, one_of=(0, 3), clause="LAN-4")
    env.check("unpublished", await env.caller.content(path), equals="FILE_NOT_FOUND", clause="LAN-17")


@case(
    "gateway/lanes/alone", profile="lanes", needs=_LANES, clauses=("LAN-6", "LAN-8"), launch=SHORT, timeout=40
)
async def alone(env: GatewayEnv) -> None:
    """A lane without its upload, and an upload without its lane, wait for each other no longer than the idle timeout."""
    path = env.path()
    status = status_of(await env.caller.start(path))
    start = time.monotonic()
    waiting = await lane(env.caller, status, 1, data(3, b"two"))
    ended = await waiting.end(env.scaled(10.0))
    env.check("lane-ends", ended.ok, equals=False, clause="LAN-6")
    first = await first_lane(env.caller, path, status, 2, data(0, b"one"))
    ended = await first.end(env.scaled(10.0))
    env.check("upload-ends", ended.reason, one_of=("LANE_LOST", "TRANSFER_IDLE"), clause="LAN-8")
    env.check(
        "in-time",
        time.monotonic() - start,
        satisfies=("some seconds", lambda seconds: seconds < env.scaled(12.0)),
        clause="LAN-6",
    )


@case("gateway/lanes/lost", profile="lanes", needs=_LANES, clauses=("LAN-8", "LAN-17", "LAN-10", "UPL-1"))
async def lost(env: GatewayEnv) -> None:
    """A lane that breaks off ends the upload with LANE_LOST, publishes nothing, and the upload goes on after a takeover."""
    path, content = env.path(), b"onetwothree"
    status = status_of(await env.caller.start(path))
    first = await first_lane(env.caller, path, status, 2, data(0, b"one"))
    second = await lane(env.caller, status, 1, data(3, b"two"))
    await staged(env, status, 6)
    second.cancel()
    ended = await first.end()
    env.check("reason", (ended.code.name, ended.reason), equals=("UNAVAILABLE", "LANE_LOST"), clause="LAN-8")
    env.check("unpublished", await env.caller.content(path), equals="FILE_NOT_FOUND", clause="UPL-1")
    again = status_of(await env.caller.start(path, upload_id=status.upload_id))
    env.check("kept", (again.state, again.staged_bytes), equals=(RECEIVING, 6), clause="LAN-17")
    first = await first_lane(env.caller, path, again, 2, data(6, b"three"))
    late = await lane(env.caller, status, 1, finish(b"bad"))
    right = await lane(env.caller, again, 1, finish(content))
    done = await first.end()
    env.check("resumed", done.reason, equals=OK, clause="LAN-10")
    await right.end()
    late.cancel()


@case("gateway/lanes/end-of-input", profile="lanes", needs=_LANES, clauses=("LAN-16", "UPL-11"))
async def end_of_input(env: GatewayEnv) -> None:
    """The first stream that is at its end when its turn comes ends the input; what the others still hold is not read."""
    path = env.path()
    status = status_of(await env.caller.start(path))
    first = await first_lane(env.caller, path, status, 2, data(0, b"one"))
    # Message 1 is missing; message 3, a finish, must not take its place.
    second = await lane(env.caller, status, 1)
    await second.half_close()
    await first.send(data(3, b"two"), finish(b"onetwo"))
    ended = await first.end()
    env.check("reason", ended.reason, one_of=("UPLOAD_INCOMPLETE", "LANE_LOST"), clause="UPL-11")
    env.check("unpublished", await env.caller.content(path), equals="FILE_NOT_FOUND", clause="LAN-16")
    told = status_of(await env.caller.get(upload_id=status.upload_id))
    env.check("before-it", told.staged_bytes, equals=3, clause="LAN-16")


@case(
    "gateway/lanes/too-many",
    profile="lanes",
    needs=_LANES,
    clauses=("LAN-9", "LAN-18", "CAP-3"),
    launch={"max_upload_lanes": 2},
)
async def too_many(env: GatewayEnv) -> None:
    """More streams than are free end the upload before anything reaches the sandbox, and the error says how many are free."""
    told = (await env.caller.capabilities()).answer
    most = told.lanes.max_lanes
    env.require("announced", most, satisfies=("2 to 3", lambda count: 2 <= count <= 3), clause="CAP-3")
    busy = env.path()
    first = status_of(await env.caller.start(busy))
    running = await first_lane(env.caller, busy, first, most, data(0, b"one"))
    await staged(env, first, 3)
    path = env.path()
    status = status_of(await env.caller.start(path))
    call = await first_lane(env.caller, path, status, most, data(0, b"one"))
    ended = await call.end()
    env.check(
        "reason",
        (ended.code.name, ended.reason),
        equals=("RESOURCE_EXHAUSTED", "TOO_MANY_LANES"),
        clause="LAN-9",
    )
    free = ended.metadata.get("lanes", "")
    env.check("free", free.isdecimal() and 1 <= int(free) < most, equals=True, clause="LAN-9")
    after = status_of(await env.caller.get(upload_id=status.upload_id))
    env.check("nothing-staged", after.staged_bytes, equals=0, clause="LAN-9")
    again = status_of(await env.caller.start(path, upload_id=status.upload_id))
    one = await begin_named(
        env.caller, path, again, data(0, b"one"), finish(b"one"), explicit_finish=True, lanes=1
    )
    env.check("one-is-free", (await one.end()).reason, equals=OK, clause="LAN-18")
    running.cancel()


# Waiting


@case(
    "gateway/waiting/counts-as-movement",
    profile="core",
    needs=_WAITING,
    clauses=("WAI-6", "WAI-3", "WAI-1", "WAI-7"),
    launch=SHORT,
    timeout=40,
)
async def counts_as_movement(env: GatewayEnv) -> None:
    """`waiting` keeps an upload alive beyond the idle timeout and changes no offset; behind the finish it is refused."""
    path = env.path()
    status = status_of(await env.caller.start(path))
    call = await begin_named(env.caller, path, status, WAITING, data(0, b"one"))
    start = time.monotonic()
    while time.monotonic() - start < 3.4 and not call.over:
        await call.send(WAITING)
        await asyncio.sleep(0.2)
    env.check("alive", call.over, equals=False, clause="WAI-6")
    await call.send(data(3, b"two"), WAITING, finish(b"onetwo"))
    done = await call.end()
    env.check("finished", done.reason, equals=OK, clause="WAI-3")
    env.check("content", await env.caller.content(path), equals=b"onetwo", clause="WAI-1")
    behind = await env.caller.begin(env.path(), finish(b""), WAITING, explicit_finish=True)
    env.check(
        "behind-the-finish", (await behind.end()).reason, one_of=("INVALID_REQUEST", OK), clause="WAI-7"
    )


@case(
    "gateway/waiting/too-long",
    profile="core",
    needs=_WAITING,
    clauses=("WAI-4", "RSM-10"),
    launch={"idle_timeout_s": 2, "max_pause_s": 3},
    timeout=40,
)
async def too_long(env: GatewayEnv) -> None:
    """An upload of which nothing but `waiting` comes for longer than max_pause ends, and what was staged is kept."""
    path = env.path()
    status = status_of(await env.caller.start(path))
    call = await begin_named(env.caller, path, status, data(0, b"one"))
    start = time.monotonic()
    while time.monotonic() - start < env.scaled(10.0) and not call.over:
        await call.send(WAITING)
        await asyncio.sleep(0.2)
    seconds = time.monotonic() - start
    ended = await call.end()
    env.check("reason", ended.reason, equals="TRANSFER_IDLE", clause="WAI-4")
    env.check("after", seconds, satisfies=("at least 2.5 s", lambda one: one >= 2.5), clause="WAI-4")
    env.check("kept", await staged(env, status, 3), equals=True, clause="RSM-10")
