"""Outcomes of uploads: asked for, repeated, given up, expired, and one too many."""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from openshell_files_conformance.cases.supervisor.resume_upload import CONTENT, HALF, send, started
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.operation import OK, SHA256, data, digest, finish
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.peers.waiting import holds
from openshell_files_conformance.registry import case


@case(
    "supervisor/resume/finished-again",
    profile="resume",
    clauses=("RSM-6", "RSM-21", "RSM-7", "CRS-7", "CRS-8", "RSM-22"),
)
async def finished_again(env: SupervisorEnv) -> None:
    """The outcome of a finish can be asked for, and repeated; another finish is a conflict."""
    status = await started(env)
    first = await send(env, status)
    env.require("first", first.reason, equals=OK, clause="RSM-6")
    asked = await env.get_upload(upload_id=status.upload_id)
    env.require("asked", asked.reason, equals=OK, clause="RSM-22")
    told = asked.answer.upload
    env.check("published", told.state, equals=files_pb2.UPLOAD_STATE_PUBLISHED, clause="RSM-7")
    env.check("result", told.result.file, equals=first.answer.file, clause="CRS-7")
    env.check("staged-bytes", told.staged_bytes, equals=len(CONTENT), clause="RSM-7")
    await env.files.write(env.path(), b"changed since")
    again = await started(env, upload_id=status.upload_id)
    env.check("start-tells", again.state, equals=files_pb2.UPLOAD_STATE_PUBLISHED, clause="CRS-8")
    relay = await env.begin_upload(env.path(), upload_id=status.upload_id, epoch=status.epoch)
    await relay.upload(finish(CONTENT))
    await relay.input_end()
    repeated = await relay.outcome()
    seen = (repeated.reason, repeated.ok and repeated.answer.replayed)
    env.check("replayed", seen, equals=(OK, True), clause="RSM-6")
    env.check("same-answer", repeated.ok and repeated.answer.file, equals=first.answer.file, clause="RSM-6")
    relay = await env.begin_upload(env.path(), upload_id=status.upload_id, epoch=status.epoch)
    await relay.upload(finish(b"other"))
    await relay.input_end()
    env.check("conflict", (await relay.outcome()).reason, equals="FINISH_CONFLICT", clause="RSM-21")
    env.check("not-written-again", await env.files.read(env.path()), equals=b"changed since", clause="RSM-6")


@case("supervisor/resume/aborted", profile="resume", clauses=("RSM-34", "RSM-7", "RSM-24"))
async def aborted(env: SupervisorEnv) -> None:
    """AbortUpload frees the bytes and is final; of a published upload it tells the outcome."""
    status = await started(env)
    await send(env, status, until=HALF)
    done = await env.abort_upload(status.upload_id)
    env.require("reason", done.reason, equals=OK, clause="RSM-34")
    env.check("state", done.answer.upload.state, equals=files_pb2.UPLOAD_STATE_ABORTED, clause="RSM-7")
    env.check("no-reason", done.answer.upload.failure_reason, equals="", clause="RSM-7")
    env.check("nothing-left", await env.left(), equals=[], clause="RSM-34")
    late = await send(env, status)
    env.check("final", late.reason, equals="UPLOAD_ABORTED", clause="RSM-7")
    env.check("not-published", await env.files.exists(env.path()), equals=False, clause="RSM-34")
    unknown = await env.abort_upload("no-such-upload")
    env.check("unknown", unknown.reason, equals="UPLOAD_UNKNOWN", clause="RSM-24")
    asked = await env.get_upload(upload_id="no-such-upload")
    env.check("get-unknown", asked.reason, equals="UPLOAD_UNKNOWN", clause="RSM-24")
    other = await started(env, "other")
    await send(env, other, path="other")
    told = await env.abort_upload(other.upload_id)
    published = files_pb2.UPLOAD_STATE_PUBLISHED
    env.check("published-stays", told.ok and told.answer.upload.state, equals=published, clause="RSM-7")


@case("supervisor/resume/refused-finish-frees", profile="resume", clauses=("RSM-34", "RSM-7"))
async def refused_finish_frees(env: SupervisorEnv) -> None:
    """A finish with another digest ends the upload, frees its bytes, and is named as the reason."""
    status = await started(env)
    relay = await env.begin_upload(env.path(), upload_id=status.upload_id, epoch=status.epoch)
    await relay.upload(data(0, b"content"), finish(b"CONTENT"))
    await relay.input_end()
    env.check("refused", (await relay.outcome()).reason, equals="DIGEST_MISMATCH", clause="RSM-34")
    asked = await env.get_upload(upload_id=status.upload_id)
    told = asked.answer.upload if asked.ok else files_pb2.UploadStatus()
    seen = (told.state, told.failure_reason)
    env.check("state", seen, equals=(files_pb2.UPLOAD_STATE_ABORTED, "DIGEST_MISMATCH"), clause="RSM-7")
    env.check("nothing-left", await env.left(), equals=[], clause="RSM-34")


@case("supervisor/resume/identical-already", profile="resume", clauses=("RSM-9", "RSM-33", "DIG-17"))
async def identical_already(env: SupervisorEnv) -> None:
    """A file that is there already with this size and digest needs no content; mode and time are applied."""
    await env.files.write(env.path(), CONTENT, mode=0o644)
    before = await env.files.entry(env.path())
    done = await env.start_upload(
        env.path(),
        source=digest(CONTENT),
        size_bytes=len(CONTENT),
        mode=0o600,
        modified_time=Timestamp(seconds=12345, nanos=6),
    )
    env.require("reason", done.reason, equals=OK, clause="RSM-9")
    told = done.answer.upload
    seen = (told.state, told.result.already_identical)
    env.check("published", seen, equals=(files_pb2.UPLOAD_STATE_PUBLISHED, True), clause="RSM-9")
    env.check("algorithm", told.digest_algorithm, equals=SHA256, clause="DIG-17")
    after = await env.files.entry(env.path())
    env.check("same-file", after and before and after.inode == before.inode, equals=True, clause="RSM-9")
    applied = (after.mode, after.modified_ns) if after else None
    env.check("applied", applied, equals=(0o600, 12345 * 10**9 + 6), clause="RSM-33")
    other = await env.start_upload(env.path(), source=digest(b"x" * len(CONTENT)), size_bytes=len(CONTENT))
    state = other.answer.upload.state if other.ok else None
    env.check("other-digest", state, equals=files_pb2.UPLOAD_STATE_RECEIVING, clause="RSM-9")


@case("supervisor/resume/source-of-an-unknown-algorithm", profile="resume", clauses=("DIG-18", "DIG-6"))
async def source_of_an_unknown_algorithm(env: SupervisorEnv) -> None:
    """A source's digest of an algorithm that the agent does not compute is not compared; the upload continues."""
    await env.files.write(env.path(), b"abc")
    unknown: Any = 99
    done = await env.start_upload(
        env.path(),
        source=files_pb2.Digest(algorithm=unknown, value=bytes(32)),
        size_bytes=3,
        accepted_digests=[unknown, SHA256],
    )
    env.require("reason", done.reason, equals=OK, clause="DIG-18")
    env.check("receiving", done.answer.upload.state, equals=files_pb2.UPLOAD_STATE_RECEIVING, clause="DIG-18")
    env.check("algorithm", done.answer.upload.digest_algorithm, equals=SHA256, clause="DIG-6")


@case(
    "supervisor/resume/expires",
    profile="resume",
    clauses=("RSM-8", "RSM-34", "RSM-7"),
    needs=("relaunch",),
    alone=True,
    timeout=120,
)
async def expires(env: SupervisorEnv) -> None:
    """An upload without a byte for upload_expiry ends as EXPIRED, and its bytes are freed.

    An agent need look for expired uploads only now and then; a start of the agent saves the wait for most.
    """
    opening = {"upload_expiry": 1.0}
    status = await started(env, opening=opening)
    relay = await env.begin_upload(
        env.path(), upload_id=status.upload_id, epoch=status.epoch, opening={"upload_expiry": 1.0}
    )
    await relay.upload(data(0, CONTENT[:HALF]))
    await relay.input_end()
    await relay.outcome()
    asked = await env.get_upload(upload_id=status.upload_id)
    told = asked.answer.upload if asked.ok else files_pb2.UploadStatus()
    life = told.expiration_time.ToNanoseconds() - told.updated_time.ToNanoseconds()
    env.check("told", round(life / 10**9, 1), equals=1.0, clause="RSM-8")
    await env.target.kill()
    # The expiry is a matter of the clock, which nothing announces.
    await asyncio.sleep(1.0)
    await env.target.relaunch()
    await env.new_session()

    async def expired() -> bool:
        asked = await env.get_upload(upload_id=status.upload_id)
        return asked.ok and asked.answer.upload.state == files_pb2.UPLOAD_STATE_EXPIRED

    env.check("expired", await holds(expired, env.scaled(90)), equals=True, clause="RSM-8")
    late = await env.start_upload(env.path(), upload_id=status.upload_id)
    env.check("late", late.reason, equals="UPLOAD_EXPIRED", clause="RSM-7")

    async def freed() -> bool:
        return not await env.left()

    env.check("freed", await holds(freed, env.scaled(5)), equals=True, clause="RSM-34")


@case(
    "supervisor/resume/limits", profile="resume", clauses=("RSM-26", "RSM-27", "RSM-28", "RSM-29", "RSM-30")
)
async def limits(env: SupervisorEnv) -> None:
    """One upload too many ends the caller's own idle upload that moved least recently, and never another caller's."""
    opening = {"limits": {"max_uploads_per_principal": 2}}
    stranger = await env.start_upload(env.path("stranger"), opening={"principal": f"{env.principal}-other"})
    one, two = [await started(env, name, opening=opening) for name in ("one", "two")]
    await send(env, one, path="one", until=HALF)
    three = await started(env, "three", opening=opening)

    async def state(upload_id: str, principal: str | None = None) -> tuple[object, str]:
        asked = await env.get_upload(principal=principal, upload_id=upload_id)
        told = asked.answer.upload
        return (told.state, told.failure_reason) if asked.ok else (asked.reason, "")

    receiving = (files_pb2.UPLOAD_STATE_RECEIVING, "")
    gone = (files_pb2.UPLOAD_STATE_EXPIRED, "TOO_MANY_UPLOADS")
    env.check("least-recent-ends", await state(two.upload_id), equals=gone, clause="RSM-27")
    env.check("more-recent-stays", await state(one.upload_id), equals=receiving, clause="RSM-26")
    env.check("new-one-is-there", await state(three.upload_id), equals=receiving, clause="RSM-26")
    other = await state(stranger.answer.upload.upload_id, f"{env.principal}-other")
    env.check("other-caller-stays", other, equals=receiving, clause="RSM-28")
    first = await env.begin_upload(env.path("one"), upload_id=one.upload_id, epoch=one.epoch)
    third = await env.begin_upload(env.path("three"), upload_id=three.upload_id, epoch=three.epoch)
    await first.until("accepted")
    await third.until("accepted")
    refused = await env.start_upload(env.path("four"), opening=opening)
    env.check("both-have-streams", refused.reason, equals="TOO_MANY_UPLOADS", clause="RSM-29")
    written = await env.write_file(
        env.path("small"), b"x", opening=opening, request_id=env.fresh_name("request")
    )
    env.check("write-file-does-not-count", written.reason, equals=OK, clause="RSM-30")
