"""Uploads whose stream is lost: where an SDK goes on, and when it begins again."""

from __future__ import annotations

import os
from typing import Any

from openshell_files_conformance.peers.file_calls import Call, Fault, answer
from openshell_files_conformance.peers.file_sandbox import KIB, MIB, Upload
from openshell_files_conformance.peers.file_status import LOST, refusal
from openshell_files_conformance.peers.sdk_env import Expectation, SdkEnv
from openshell_files_conformance.registry import case

#: Content of the uploads, and how much of it arrives before the stream is lost.
SIZE = 3 * MIB + 11
LOST_AFTER = MIB


def began_at(call: Call) -> int | None:
    """Return the offset of the first content of a stream; None if it has none."""
    chunks = call.payloads("data")
    return chunks[0].offset if chunks else None


async def _uploaded(env: SdkEnv, clause: str) -> bytes:
    """Upload a file, and check that it arrives whole."""
    content = env.content(SIZE)
    answered = await env.upload(content)
    env.check("ok", answered.outcome, equals="ok", clause=clause)
    env.check("published", env.published("remote"), equals=content, clause=clause)
    return content


@case(
    "sdk/resume/lost-stream",
    profile="resume",
    needs=("resume",),
    clauses=("RSM-4", "RSM-11", "RSM-20", "CRS-3", "DIG-7", "UPL-5"),
)
async def lost_stream(env: SdkEnv) -> None:
    """A lost stream goes on at the staged bytes, with the same request and a new epoch, and sends nothing twice."""
    env.faults.add("UploadFile", Fault(at="content", after_bytes=LOST_AFTER, status=LOST))
    await _uploaded(env, "CRS-3")
    streams = env.book.of("UploadFile")
    offsets = [began_at(call) for call in streams]
    on: Expectation = (
        "0, then the staged bytes",
        lambda seen: len(seen) == 2 and seen[0] == 0 and seen[1] >= LOST_AFTER,
    )
    env.check("offsets", offsets, satisfies=on, clause="RSM-4")
    env.well_formed("RSM-4", "RSM-11", "RSM-20", "DIG-7", "UPL-5")


@case(
    "sdk/resume/fewer-bytes-staged",
    profile="resume",
    needs=("resume",),
    clauses=("RSM-4", "CRS-3"),
    depends_on=("sdk/resume/lost-stream",),
)
async def fewer_bytes_staged(env: SdkEnv) -> None:
    """The sandbox lost the end of what it had: the SDK goes on where the sandbox says, not where it stopped."""

    def forget(upload: Upload) -> None:
        upload.truncate(LOST_AFTER // 2 + 3)

    env.faults.add("UploadFile", Fault(at="content", after_bytes=LOST_AFTER, then=forget, status=LOST))
    await _uploaded(env, "CRS-3")
    env.check("offset", began_at(env.book.of("UploadFile")[-1]), equals=LOST_AFTER // 2 + 3, clause="RSM-4")
    env.well_formed("RSM-4")


@case(
    "sdk/resume/nothing-staged",
    profile="resume",
    needs=("resume",),
    clauses=("RSM-4", "CRS-2"),
    depends_on=("sdk/resume/lost-stream",),
)
async def nothing_staged(env: SdkEnv) -> None:
    """The stream is lost before the first byte was staged."""
    env.faults.add("UploadFile", Fault(status=LOST))
    await _uploaded(env, "CRS-2")
    env.well_formed("RSM-4")


@case(
    "sdk/resume/acknowledgements-fall",
    profile="resume",
    needs=("resume",),
    clauses=("RSM-4", "CRS-3"),
    depends_on=("sdk/resume/lost-stream",),
)
async def acknowledgements_fall(env: SdkEnv) -> None:
    """Three streams are lost, and each time fewer bytes are staged than the time before."""
    for number, staged in enumerate((LOST_AFTER, LOST_AFTER // 2, 100), 1):

        def forget(upload: Upload, staged: int = staged) -> None:
            upload.truncate(staged)

        lost_after = LOST_AFTER + number
        env.faults.add("UploadFile", Fault(at="content", after_bytes=lost_after, then=forget, status=LOST))
    await _uploaded(env, "CRS-3")
    offsets = [began_at(call) for call in env.book.of("UploadFile")]
    env.check("offsets", offsets, equals=[0, LOST_AFTER, LOST_AFTER // 2, 100], clause="RSM-4")
    env.well_formed("RSM-4")


@case(
    "sdk/resume/other-bytes-staged",
    profile="resume",
    needs=("resume",),
    clauses=("RSM-15", "RSM-16", "DIG-1", "RSM-37"),
    depends_on=("sdk/resume/lost-stream",),
)
async def other_bytes_staged(env: SdkEnv) -> None:
    """What is staged is not what was sent: the SDK compares, and sends everything as a new upload."""

    def damage(upload: Upload) -> None:
        upload.staged[1000] ^= 1

    env.faults.add("UploadFile", Fault(at="content", after_bytes=LOST_AFTER, then=damage, status=LOST))
    content = env.content(SIZE)
    answered = await env.upload(content)
    env.check("ok", answered.outcome, equals="ok", clause="RSM-16")
    env.check("published", env.published("remote"), equals=content, clause="RSM-16")
    streams = env.book.of("UploadFile", "WriteFile")
    env.check("offsets", [began_at(call) for call in streams], equals=[0, 0], clause="RSM-15")
    uploads = {call.request.metadata.upload_id for call in streams}
    env.check("uploads", len(uploads), equals=2, clause="RSM-16")
    left = [one.upload_id for one in env.gateway.sandbox.uploads.values() if one.staged and not one.result]
    env.check("freed", left, equals=[], clause="RSM-37")
    env.well_formed("DIG-1")


@case(
    "sdk/resume/more-bytes-staged",
    profile="resume",
    needs=("resume",),
    clauses=("RSM-15", "RSM-16"),
    depends_on=("sdk/resume/lost-stream",),
)
async def more_bytes_staged(env: SdkEnv) -> None:
    """More bytes are staged than the source has: that is not this file, so the SDK does not finish it."""

    def more(upload: Upload) -> None:
        upload.staged += bytes(SIZE)

    env.faults.add("UploadFile", Fault(at="content", after_bytes=LOST_AFTER, then=more, status=LOST))
    content = env.content(SIZE)
    answered = await env.upload(content)
    right = (content,) if answered.ok else (None, content)
    env.check("published", env.published("remote"), one_of=right, clause="RSM-16")
    finishes = [
        call for call in env.book.of("UploadFile") if call.payloads("finish") and began_at(call) is None
    ]
    env.check("finishes-without-content", len(finishes), equals=0, clause="RSM-15")


@case("sdk/resume/lost-start", profile="resume", needs=("resume",), clauses=("CRS-1", "RSM-1"))
async def lost_start(env: SdkEnv) -> None:
    """The answer to StartUpload is lost: the SDK asks for the same upload again, and does not begin a second one."""
    env.faults.add("StartUpload", Fault(at="answer", status=LOST))
    await _uploaded(env, "CRS-1")
    starts = [call.request.metadata.request_id for call in env.book.of("StartUpload")]
    env.check("started-again", len(starts), satisfies=("at least 2", lambda n: n >= 2), clause="CRS-1")
    same: Expectation = ("one request_id", lambda ids: len(set(ids)) == 1 and bool(ids[0]))
    env.check("request-id", starts, satisfies=same, clause="RSM-1")
    env.check("uploads", len(env.gateway.sandbox.uploads), equals=1, clause="RSM-1")


@case("sdk/resume/wrong-checksum", profile="resume", needs=("resume",), clauses=("CRS-3", "ERR-6"))
async def wrong_checksum(env: SdkEnv) -> None:
    """A chunk was damaged on its way and refused: the upload goes on at the chunk."""
    refused = refusal("CHUNK_CHECKSUM", "damaged on the way")
    env.faults.add("UploadFile", Fault(at="content", after_bytes=LOST_AFTER, status=refused))
    content = env.content(SIZE)
    answered = await env.upload(content)
    env.check("ok", answered.outcome, equals="ok", clause="ERR-6")
    right = (content,) if answered.ok else (None, content)
    env.check("published", env.published("remote"), one_of=right, clause="CRS-3")


@case(
    "sdk/resume/closed-connection", profile="resume", needs=("resume",), clauses=("CRS-3", "RSM-4", "ERR-6")
)
async def closed_connection(env: SdkEnv) -> None:
    """The gateway closes the connection with GOAWAY in the middle of an upload, and takes a new one."""
    env.faults.add("UploadFile", Fault(at="content", after_bytes=LOST_AFTER, disconnect=True))
    content = env.content(SIZE)
    answered = await env.upload(content)
    env.check("ok", answered.outcome, equals="ok", clause="ERR-6")
    right = (content,) if answered.ok else (None, content)
    env.check("published", env.published("remote"), one_of=right, clause="CRS-3")
    env.well_formed("RSM-4")


@case("sdk/resume/superseded", profile="resume", needs=("resume",), clauses=("ERR-1", "ERR-7", "RSM-38"))
async def superseded(env: SdkEnv) -> None:
    """Another attempt took the upload over: the SDK leaves it to that attempt."""
    env.faults.always("UploadFile", Fault(at="content", after_bytes=LOST_AFTER, status=refusal("SUPERSEDED")))
    answered = await env.upload(env.content(SIZE))
    env.refused(answered, reasons=("SUPERSEDED", "ABORTED"), clause="ERR-7")
    env.check("streams", len(env.book.of("UploadFile")), equals=1, clause="ERR-1")
    env.check("starts", len(env.book.of("StartUpload")), equals=1, clause="RSM-38")
    env.check("aborts", len(env.book.of("AbortUpload")), equals=0, clause="ERR-1")


@case("sdk/resume/without-progress", profile="resume", needs=("resume",), clauses=("ERR-3",))
async def without_progress(env: SdkEnv) -> None:
    """Every stream is lost before it gets anywhere: the SDK gives up after a few tries."""
    env.faults.always("UploadFile", Fault(status=LOST))
    answered = await env.upload(env.content(SIZE), attempts=3)
    env.check("outcome", answered.outcome, equals="error", clause="ERR-3")
    env.check(
        "streams", len(env.book.of("UploadFile")), satisfies=("1 to 8", lambda n: 1 <= n <= 8), clause="ERR-3"
    )


@case(
    "sdk/resume/by-id", profile="resume", needs=("resume",), clauses=("RSM-4", "RSM-11", "RSM-37", "RSM-15")
)
async def by_id(env: SdkEnv) -> None:
    """An upload that failed is named in the error, and goes on by that name in another call."""
    content = env.content(SIZE)
    path = env.local(content)
    env.faults.add("UploadFile", Fault(at="content", after_bytes=LOST_AFTER, status=LOST))
    failed = await env.upload(path, attempts=1)
    env.check("failed", failed.outcome, equals="error", clause="RSM-37")
    upload_id = str(failed.fields.get("upload_id", ""))
    env.require("id", upload_id, one_of=tuple(env.gateway.sandbox.uploads), clause="RSM-37")
    before = len(env.book.of("UploadFile"))
    answered = await env.ask("resume", local=str(path), remote="remote", upload_id=upload_id)
    env.check("ok", answered.outcome, equals="ok", clause="RSM-4")
    env.check("published", env.published("remote"), equals=content, clause="RSM-4")
    offsets = [began_at(call) for call in env.book.of("UploadFile")[before:]]
    on: Expectation = (
        "one stream behind the staged bytes",
        lambda seen: len(seen) == 1 and (seen[0] or 0) >= LOST_AFTER,
    )
    env.check("offsets", offsets, satisfies=on, clause="RSM-4")
    env.well_formed("RSM-11", "RSM-15")


@case(
    "sdk/resume/by-id-of-another-file",
    profile="resume",
    needs=("resume",),
    clauses=("RSM-15", "RSM-16", "DIG-1"),
    depends_on=("sdk/resume/by-id",),
)
async def by_id_of_another_file(env: SdkEnv) -> None:
    """The file changed before its upload is resumed: the old beginning is not joined to the new end."""
    path = env.local(env.content(SIZE))
    env.faults.add("UploadFile", Fault(at="content", after_bytes=LOST_AFTER, status=LOST))
    failed = await env.upload(path, attempts=1)
    upload_id = str(failed.fields.get("upload_id", ""))
    env.require("id", upload_id, one_of=tuple(env.gateway.sandbox.uploads), clause="RSM-15")
    changed = bytes(reversed(env.content(SIZE)))
    before = path.stat()
    path.write_bytes(changed)
    # So that only the content tells.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    answered = await env.ask("resume", local=str(path), remote="remote", upload_id=upload_id)
    right = (changed,) if answered.ok else (None, changed)
    env.check("published", env.published("remote"), one_of=right, clause="RSM-16")
    env.well_formed("DIG-1")


@case("sdk/resume/by-unknown-id", profile="resume", needs=("resume",), clauses=("RSM-16", "ERR-7"))
async def by_unknown_id(env: SdkEnv) -> None:
    """An upload that the sandbox does not know is sent from its beginning, or refused; nothing in between."""
    content = env.content(SIZE)
    answered = await env.ask(
        "resume", local=str(env.local(content)), remote="remote", upload_id="no-such-upload"
    )
    env.check("called", len(env.book.calls), satisfies=("a call", bool), clause="RSM-16")
    right = (content,) if answered.ok else (None,)
    env.check("published", env.published("remote"), one_of=right, clause="RSM-16")
    if not answered.ok:
        env.check("why", answered.reason, one_of=("UPLOAD_UNKNOWN", "NOT_FOUND"), clause="ERR-7")
    else:
        env.check("why", answered.outcome, equals="ok", clause="ERR-7")


@case("sdk/resume/strange-state", profile="resume", needs=("resume",), clauses=("RFC-9",))
async def strange_state(env: SdkEnv) -> None:
    """The upload is in a state of a later revision: the SDK does not take it for one that it knows."""
    number: Any = 99

    def change(response: Any) -> None:
        response.upload.state = number

    for method in ("GetUpload", "StartUpload"):
        env.faults.always(method, answer(change))
    answered = await env.upload(env.content(SIZE), attempts=2)
    env.check("started", len(env.book.of("StartUpload")), satisfies=("a call", bool), clause="RFC-9")
    env.check("outcome", answered.outcome, equals="error", clause="RFC-9")
    env.check("not-published", env.published("remote"), equals=None, clause="RFC-9")


@case("sdk/resume/strange-algorithm", profile="resume", needs=("resume",), clauses=("RFC-9", "ERR-1"))
async def strange_algorithm(env: SdkEnv) -> None:
    """The upload has an algorithm that the SDK did not accept: it is not published, and the SDK does not try for ever."""
    number: Any = 99

    def change(response: Any) -> None:
        response.upload.digest_algorithm = number
        if response.upload.HasField("staged_digest"):
            response.upload.staged_digest.algorithm = number

    for method in ("GetUpload", "StartUpload"):
        env.faults.always(method, answer(change))
    refused = refusal("INVALID_REQUEST", "finish.digest.algorithm must be 99")
    env.faults.always("UploadFile", Fault(at="finish", status=refused))
    answered = await env.upload(env.content(SIZE), attempts=2)
    env.check("started", len(env.book.of("StartUpload")), satisfies=("a call", bool), clause="RFC-9")
    env.check("outcome", answered.outcome, equals="error", clause="RFC-9")
    streams = len(env.book.of("UploadFile"))
    env.check("streams", streams, satisfies=("at most 2", lambda n: n <= 2), clause="ERR-1")


@case("sdk/resume/small-file", profile="resume", needs=("resume",), clauses=("RSM-6", "UPL-3", "ERR-6"))
async def small_file(env: SdkEnv) -> None:
    """The answer about a small file is lost: it is published once, and the SDK finds that out."""
    for method in ("WriteFile", "UploadFile"):
        env.faults.add(method, Fault(at="answer", status=LOST))
    content = env.content(KIB)
    answered = await env.upload(content)
    env.check("published", env.published("remote"), equals=content, clause="UPL-3")
    env.check("ok", answered.outcome, equals="ok", clause="ERR-6")
    results = [one for one in env.gateway.sandbox.uploads.values() if one.result is not None]
    env.check("uploads", len(results), equals=1, clause="RSM-6")
