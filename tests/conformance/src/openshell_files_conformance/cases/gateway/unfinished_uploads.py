"""Unfinished uploads that are queried, listed and given up, that expire, and that are too many."""

from __future__ import annotations

import asyncio
from typing import Any

from openshell_files_conformance.cases.gateway.resuming import (
    ABORTED,
    EXPIRED,
    PUBLISHED,
    RECEIVING,
    RESUME,
    begin_named,
    staged,
    status_of,
)
from openshell_files_conformance.cases.gateway.rfc_round_trips import content_of
from openshell_files_conformance.peers.caller import (
    OK,
    chunks,
    data,
    digest_of,
    finish,
)
from openshell_files_conformance.peers.client import Ended
from openshell_files_conformance.peers.gateway_env import GatewayEnv
from openshell_files_conformance.registry import case


@case("gateway/resume/of-another-user", profile="resume", needs=RESUME, clauses=("RSM-2", "RSM-31", "RSM-24"))
async def of_another_user(env: GatewayEnv) -> None:
    """Knowledge of an id grants nothing: another user's upload is unknown to every method, and not listed."""
    path, request_id = env.path(), env.fresh_name("request")
    status = status_of(await env.caller.start(path, request_id=request_id))
    other = env.other
    stream = await begin_named(other, path, status, data(0, b"theirs"))
    for name, ended in (
        ("get", await other.get(upload_id=status.upload_id)),
        ("get-by-request-id", await other.get(request_id=request_id)),
        ("abort", await other.abort(status.upload_id)),
        ("start", await other.start(path, upload_id=status.upload_id)),
        ("upload", await stream.end()),
    ):
        env.check(
            name, (ended.code.name, ended.reason), equals=("NOT_FOUND", "UPLOAD_UNKNOWN"), clause="RSM-2"
        )
    theirs = [one.upload_id for one in (await other.list_uploads()).answer.uploads]
    env.check("not-listed", status.upload_id in theirs, equals=False, clause="RSM-31")
    mine = [one.upload_id for one in (await env.caller.list_uploads()).answer.uploads]
    env.check("listed", status.upload_id in mine, equals=True, clause="RSM-31")
    told = status_of(await env.caller.get(upload_id=status.upload_id))
    env.check(
        "untouched",
        (told.state, told.staged_bytes, told.epoch),
        equals=(RECEIVING, 0, status.epoch),
        clause="RSM-2",
    )
    same = status_of(await other.start(path, request_id=request_id))
    env.check("own-request-ids", same.upload_id != status.upload_id, equals=True, clause="RSM-2")
    none = await env.caller.get(upload_id="no-such-upload")
    env.check("unknown", none.reason, equals="UPLOAD_UNKNOWN", clause="RSM-24")


@case("gateway/resume/list", profile="resume", needs=RESUME, clauses=("RSM-31",))
async def listing(env: GatewayEnv) -> None:
    """ListUploads has the unfinished uploads, oldest first, and no finished ones."""
    paths = [env.path() for _ in range(3)]
    started = [status_of(await env.caller.start(path)).upload_id for path in paths]
    path = env.path()
    done = status_of(await env.caller.start(path, size_bytes=1))
    call = await begin_named(env.caller, path, done, data(0, b"x"), finish(b"x"), size_bytes=1)
    await call.end()
    await env.caller.abort(status_of(await env.caller.start(env.path())).upload_id)
    listed = await env.caller.list_uploads()
    ids = [one.upload_id for one in listed.answer.uploads]
    env.check("in-order", [one for one in ids if one in started], equals=started, clause="RSM-31")
    states = {one.state for one in listed.answer.uploads}
    env.check("unfinished", states, equals={RECEIVING}, clause="RSM-31")
    env.check("not-the-finished", done.upload_id in ids, equals=False, clause="RSM-31")


@case("gateway/resume/abort", profile="resume", needs=RESUME, clauses=("RSM-7", "RSM-34", "RSM-18"))
async def abort(env: GatewayEnv) -> None:
    """AbortUpload ends the upload and its stream, and frees what was staged; a finished one stays finished."""
    path = env.path()
    status = status_of(await env.caller.start(path))
    call = await begin_named(env.caller, path, status, data(0, b"staged"))
    await staged(env, status, 6)
    ended = status_of(await env.caller.abort(status.upload_id))
    env.check(
        "aborted",
        (ended.state, ended.staged_bytes, ended.failure_reason),
        equals=(ABORTED, 0, ""),
        clause="RSM-34",
    )
    await call.send(finish(b"staged"))
    stream = await call.end()
    env.check("stream", stream.reason, one_of=("UPLOAD_ABORTED", "SUPERSEDED"), clause="RSM-18")
    env.check("nothing-published", await env.caller.content(path), equals="FILE_NOT_FOUND", clause="RSM-34")
    told = status_of(await env.caller.get(upload_id=status.upload_id))
    env.check("remembered", told.state, equals=ABORTED, clause="RSM-7")
    late = await begin_named(env.caller, path, status, data(0, b"x"))
    env.check("no-more-content", (await late.end()).reason, equals="UPLOAD_ABORTED", clause="RSM-34")
    done = status_of(await env.caller.start(path))
    await (await begin_named(env.caller, path, done, data(0, b"x"), finish(b"x"))).end()
    after = status_of(await env.caller.abort(done.upload_id))
    env.check("finished-stays", after.state, equals=PUBLISHED, clause="RSM-7")


@case("gateway/resume/query-changes-nothing", profile="resume", needs=RESUME, clauses=("RSM-19", "RSM-7"))
async def query_changes_nothing(env: GatewayEnv) -> None:
    """GetUpload beside a stream does not disturb it, with a digest of what is staged or without."""
    path, content = env.path(), content_of(600_000)
    status = status_of(await env.caller.start(path))
    call = await begin_named(env.caller, path, status, *chunks(content)[:1])
    await staged(env, status, 1 << 18)
    told = [
        status_of(await env.caller.get(upload_id=status.upload_id, include_digest=True)) for _ in range(3)
    ]
    seen = {(one.state, one.epoch, one.staged_digest == digest_of(content[: 1 << 18])) for one in told}
    env.check("state", seen, equals={(RECEIVING, status.epoch, True)}, clause="RSM-7")
    await call.send(*chunks(content, 1 << 18), finish(content))
    env.check("stream-goes-on", (await call.end()).reason, equals=OK, clause="RSM-19")


@case(
    "gateway/resume/expiry",
    profile="resume",
    needs=("resume", "suite-supervisor"),
    clauses=("RSM-8", "RSM-7", "CAP-2"),
    launch={"max_chunk_bytes": 262144, "upload_expiry_s": 1},
)
async def expiry(env: GatewayEnv) -> None:
    """The agent is told after which time an unfinished upload expires, and its answer is passed on."""
    sandbox = await env.sandbox(agent=True)
    caller, path = sandbox.caller, env.path()
    status = status_of(await caller.start(path))
    told = await caller.capabilities()
    env.check("announced", told.ok and told.answer.upload_expiry.ToSeconds(), equals=1, clause="CAP-2")
    assert sandbox.agent is not None
    limits = sandbox.agent.opened[-1].limits
    env.check("agent-is-told", limits.upload_expiry.ToSeconds(), equals=1, clause="RSM-8")

    async def expired() -> bool:
        asked = await caller.get(upload_id=status.upload_id)
        return asked.ok and asked.answer.upload.state == EXPIRED

    env.check("expired", await env.eventually(expired, 8), equals=True, clause="RSM-8")
    late = await begin_named(caller, path, status, data(0, b"x"))
    env.check("no-more-content", (await late.end()).reason, equals="UPLOAD_EXPIRED", clause="RSM-7")


@case(
    "gateway/resume/too-many",
    profile="resume",
    needs=RESUME,
    clauses=("RSM-26", "RSM-27", "RSM-28", "RSM-29"),
    launch={"max_uploads_per_principal": 3},
    alone=True,
)
async def too_many(env: GatewayEnv) -> None:
    """An upload beyond the caller's limit expires the caller's own idle one, of nobody else; with streams on all, it is refused."""
    theirs = status_of(await env.other.start(env.path()))
    paths = [env.path() for _ in range(4)]
    first = [status_of(await env.caller.start(path)) for path in paths]
    told = status_of(await env.caller.get(upload_id=first[0].upload_id))
    env.check(
        "oldest-expires",
        (told.state, told.failure_reason),
        equals=(EXPIRED, "TOO_MANY_UPLOADS"),
        clause="RSM-27",
    )
    states = [status_of(await env.caller.get(upload_id=one.upload_id)).state for one in first[1:]]
    env.check("others-stay", states, equals=[RECEIVING] * 3, clause="RSM-26")
    kept = status_of(await env.other.get(upload_id=theirs.upload_id))
    env.check("of-another-caller", kept.state, equals=RECEIVING, clause="RSM-28")
    for path, one in zip(paths[1:], first[1:], strict=True):
        await begin_named(env.caller, path, one, data(0, b"busy"))
        await staged(env, one, 4)
    refused = await env.caller.start(env.path())
    env.check(
        "refused",
        (refused.code.name, refused.reason),
        equals=("RESOURCE_EXHAUSTED", "TOO_MANY_UPLOADS"),
        clause="RSM-29",
    )


@case("gateway/resume/many-at-once", profile="resume", needs=RESUME, clauses=("RSM-1",))
async def many_at_once(env: GatewayEnv) -> None:
    """The same StartUpload, sent several times at once, names one upload."""
    path, request_id = env.path(), env.fresh_name("request")
    ended: list[Ended[Any]] = await asyncio.gather(
        *(env.caller.start(path, request_id=request_id) for _ in range(5))
    )
    env.check("all", [one.reason for one in ended], equals=[OK] * 5, clause="RSM-1")
    ids = {one.answer.upload.upload_id for one in ended if one.ok}
    env.check("one-upload", len(ids - {""}), equals=1, clause="RSM-1")
