"""Uploads that are started, named, taken over, given up and asked about."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.operation import BLAKE3, OK, SHA256, Outcome, data, digest, finish
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.peers.waiting import holds
from openshell_files_conformance.registry import case

_CONTENT = b"0123456789" * 30_000
_HALF = 100_000


async def started(env: SupervisorEnv, path: str = "file", **fields: Any) -> files_pb2.UploadStatus:
    """Start or resume an upload.

    Raises:
        CannotGoOnError: it was refused.
    """
    done = await env.start_upload(env.path(path), **fields)
    if not done.ok:
        raise CannotGoOnError(f"StartUpload: {done}")
    status: files_pb2.UploadStatus = done.answer.upload
    return status


async def send(
    env: SupervisorEnv,
    status: files_pb2.UploadStatus,
    *,
    until: int | None = None,
    path: str = "file",
    **fields: Any,
) -> Outcome:
    """Send the content of an upload from its staged offset; with `until` only to there, and no finish."""
    relay = await env.begin_upload(env.path(path), upload_id=status.upload_id, epoch=status.epoch, **fields)
    with suppress(CannotGoOnError):
        await relay.upload(data(status.staged_bytes, _CONTENT[status.staged_bytes : until]))
        if until is None:
            await relay.upload(finish(_CONTENT))
        await relay.input_end()
    return await relay.outcome()


@case("supervisor/resume/start", profile="resume", clauses=("RSM-1", "DIG-4", "RSM-7"))
async def start(env: SupervisorEnv) -> None:
    """StartUpload admits an upload, names its algorithm, and is idempotent by request_id."""
    name = env.fresh_name("request")
    first = await started(env, request_id=name, size_bytes=len(_CONTENT))
    env.check("receiving", first.state, equals=files_pb2.UPLOAD_STATE_RECEIVING, clause="RSM-7")
    env.check("staged", first.staged_bytes, equals=0, clause="RSM-7")
    env.check("id", bool(first.upload_id), equals=True, clause="RSM-1")
    env.check("algorithm", first.digest_algorithm, equals=SHA256, clause="DIG-4")
    env.check("digest-of-nothing", first.staged_digest, equals=digest(b""), clause="RSM-1")
    again = await started(env, request_id=name, size_bytes=len(_CONTENT))
    env.check("same-id", again.upload_id, equals=first.upload_id, clause="RSM-1")
    env.check("request-id", again.request_id, equals=name, clause="RSM-1")
    other = await env.start_upload(
        env.path(),
        request_id=name,
        size_bytes=len(_CONTENT),
        opening={"principal": "https://issuer.example#other"},
    )
    env.check(
        "of-another-caller",
        other.ok and other.answer.upload.upload_id != first.upload_id,
        equals=True,
        clause="RSM-1",
    )


@case(
    "supervisor/resume/resumed",
    profile="resume",
    clauses=("RSM-10", "RSM-5", "RSM-4", "RSM-15", "CRS-3", "RSM-36"),
)
async def resumed(env: SupervisorEnv) -> None:
    """Staged bytes outlive their stream; StartUpload tells their number and digest, and the upload goes on there."""
    first = await started(env)
    broken = await send(env, first, until=_HALF)
    env.check("broken", broken.reason, equals="UPLOAD_INCOMPLETE", clause="RSM-10")
    again = await started(env, upload_id=first.upload_id)
    env.check("staged", again.staged_bytes, equals=_HALF, clause="CRS-3")
    env.check("digest", again.staged_digest, equals=digest(_CONTENT[:_HALF]), clause="RSM-15")
    env.check(
        "epoch", again.epoch, satisfies=("a higher one", lambda epoch: epoch > first.epoch), clause="RSM-5"
    )
    done = await send(env, again)
    env.require("published", done.reason, equals=OK, clause="RSM-4")
    env.check("resumed-from", done.answer.resumed_from, equals=_HALF, clause="RSM-4")
    env.check("content", await env.files.read(env.path()) == _CONTENT, equals=True, clause="RSM-4")
    env.check("nothing-left", await env.left(), equals=[], clause="RSM-36")


async def _staged(env: SupervisorEnv, upload_id: str) -> int:
    asked = await env.get_upload(upload_id=upload_id)
    return asked.answer.upload.staged_bytes if asked.ok else -1


@case("supervisor/resume/every-end-keeps-the-bytes", profile="resume", clauses=("RSM-10", "CRS-2", "CRS-4"))
async def every_end_keeps_the_bytes(env: SupervisorEnv) -> None:
    """Whatever ends the stream, the bytes stay: a cancellation, a reset, an end, a refused offset or checksum."""
    for way in ("cancelled", "reset", "ended", "offset", "checksum"):
        status = await started(env, way)
        relay = await env.begin_upload(env.path(way), upload_id=status.upload_id, epoch=status.epoch)
        await relay.upload(data(0, _CONTENT[:_HALF]))

        async def all_staged(upload_id: str = status.upload_id) -> bool:
            return await _staged(env, upload_id) == _HALF

        await holds(all_staged)
        match way:
            case "cancelled":
                await relay.input_end(cancelled=True)
            case "reset":
                relay.relay.reset()
            case "ended":
                relay.relay.end()
            case "offset":
                await relay.upload(data(5, b"x"))
            case _:
                await relay.upload(data(_HALF, b"x", checksum=1))
        if way in {"offset", "checksum"}:
            await relay.outcome()
        asked = await env.get_upload(upload_id=status.upload_id, include_digest=True)
        seen = (asked.reason, asked.ok and asked.answer.upload.staged_bytes)
        env.check(way, seen, equals=(OK, _HALF), clause="RSM-10")
        right = asked.ok and asked.answer.upload.staged_digest == digest(_CONTENT[:_HALF])
        env.check(f"{way}-digest", right, equals=True, clause="CRS-2" if way == "ended" else "CRS-4")


@case("supervisor/resume/conflicts", profile="resume", clauses=("RSM-11", "DIG-7"), needs=("blake3",))
async def conflicts(env: SupervisorEnv) -> None:
    """A request that names an upload and differs from its first request is refused, and says in what."""
    name = env.fresh_name("request")
    known: dict[str, Any] = {"request_id": name, "size_bytes": 10, "mode": 0o600}
    await started(env, **known)
    others: dict[str, dict[str, Any]] = {
        "size_bytes": {"size_bytes": 11},
        "mode": {"mode": 0o640},
        "modified_time": {"modified_time": Timestamp(seconds=1)},
        "parents": {"parents": files_pb2.PARENT_POLICY_CREATE},
        "leaf_link": {"leaf_link": files_pb2.LEAF_LINK_POLICY_FOLLOW},
        "durability": {"durability": files_pb2.DURABILITY_RENAME},
        "keep_read_only": {"keep_read_only": True},
        "condition": {"condition": files_pb2.UploadCondition(version="v")},
    }
    for field, changed in others.items():
        done = await env.start_upload(env.path(), **{**known, **changed})
        slug = field.replace("_", "-")
        env.check(slug, done.reason, equals="UPLOAD_CONFLICT", clause="RSM-11")
        named = field in done.metadata.get("fields", "")
        env.check(f"{slug}-named", named, equals=True, clause="RSM-11")
    path = await env.start_upload(env.path("other"), **known)
    env.check("path", path.reason, equals="UPLOAD_CONFLICT", clause="RSM-11")
    algorithm = await env.start_upload(env.path(), accepted_digests=[BLAKE3], **known)
    env.check("algorithm", algorithm.reason, equals="UPLOAD_CONFLICT", clause="DIG-7")
    more = await env.start_upload(env.path(), accepted_digests=[BLAKE3, SHA256], **known)
    env.check("rest-of-the-list", more.reason, equals=OK, clause="DIG-7")


@case("supervisor/resume/refused-at-the-start", profile="resume", clauses=("RSM-12", "DIG-6"))
async def refused_at_the_start(env: SupervisorEnv) -> None:
    """StartUpload refuses for what is known without content: path, condition, size, digest."""
    await env.files.write(env.path("there"), b"x")
    missing = files_pb2.UploadCondition(version="another")
    tries: dict[str, tuple[str, dict[str, Any], str]] = {
        "directory": (env.home, {}, "IS_A_DIRECTORY"),
        "parent": (env.path("no/file"), {}, "PARENT_NOT_FOUND"),
        "path": (env.path("../file"), {}, "INVALID_PATH"),
        "condition": (env.path("there"), {"condition": missing}, "CONDITION_FAILED"),
        "size": (
            env.path(),
            {"size_bytes": 1001, "opening": {"limits": {"max_file_bytes": 1000}}},
            "FILE_TOO_LARGE",
        ),
        "digest": (env.path(), {"accepted_digests": [99]}, "DIGEST_UNSUPPORTED"),
    }
    for name, (path, fields, wanted) in tries.items():
        done = await env.start_upload(path, **fields)
        env.check(name, done.reason, equals=wanted, clause="RSM-12")
    other = await env.start_upload(
        env.path(), source=digest(b"x", BLAKE3), accepted_digests=[SHA256], size_bytes=1
    )
    seen = (other.reason, other.fields)
    env.check("source-algorithm", seen, equals=("INVALID_REQUEST", ["digest.algorithm"]), clause="DIG-6")
    env.check("nothing-staged", await env.left(), equals=[], clause="RSM-12")


@case("supervisor/resume/of-another-caller", profile="resume", clauses=("RSM-2", "RSM-31"))
async def of_another_caller(env: SupervisorEnv) -> None:
    """An id gives another principal nothing: no state, no abort, no resumption, no place in its list."""
    stranger = f"{env.principal}-other"
    status = await started(env, request_id=env.fresh_name("request"))
    await send(env, status, until=_HALF, request_id="")
    asked = await env.get_upload(principal=stranger, upload_id=status.upload_id)
    env.check("get", asked.reason, equals="UPLOAD_UNKNOWN", clause="RSM-2")
    aborted = await env.abort_upload(status.upload_id, principal=stranger)
    env.check("abort", aborted.reason, equals="UPLOAD_UNKNOWN", clause="RSM-2")
    opening = {"principal": stranger}
    taken = await env.start_upload(env.path(), upload_id=status.upload_id, opening=opening)
    env.check("start", taken.reason, equals="UPLOAD_UNKNOWN", clause="RSM-2")
    relay = await env.begin_upload(
        env.path(), upload_id=status.upload_id, epoch=status.epoch, opening=opening
    )
    env.check("upload", (await relay.outcome()).reason, equals="UPLOAD_UNKNOWN", clause="RSM-2")
    listed = await env.call(principal=stranger, list_uploads=files_pb2.ListUploadsRequest())
    env.check("list", [one.upload_id for one in listed.answer.uploads], equals=[], clause="RSM-31")
    own = await env.get_upload(upload_id=status.upload_id)
    env.check("unchanged", own.ok and own.answer.upload.staged_bytes, equals=_HALF, clause="RSM-2")


@case("supervisor/resume/listed", profile="resume", clauses=("RSM-31",))
async def listed(env: SupervisorEnv) -> None:
    """ListUploads has the caller's unfinished uploads, oldest first, and their bytes."""
    one, two, three = [await started(env, name) for name in ("one", "two", "three")]
    await send(env, one, path="one", until=_HALF)
    await send(env, two, path="two")
    found = await env.call(list_uploads=files_pb2.ListUploadsRequest())
    env.require("reason", found.reason, equals=OK, clause="RSM-31")
    ids = [upload.upload_id for upload in found.answer.uploads]
    env.check("oldest-first", ids, equals=[one.upload_id, three.upload_id], clause="RSM-31")
    env.check("bytes", found.answer.staged_bytes, equals=_HALF, clause="RSM-31")


@case("supervisor/resume/taken-over", profile="resume", clauses=("RSM-18", "RSM-20", "RSM-5"))
async def taken_over(env: SupervisorEnv) -> None:
    """A newer attempt ends the older stream, whose bytes are staged no more."""
    first = await started(env)
    old = await env.begin_upload(env.path(), upload_id=first.upload_id, epoch=first.epoch)
    await old.until("accepted")
    await old.upload(data(0, _CONTENT[:1000]))

    async def there() -> bool:
        return await _staged(env, first.upload_id) == 1000

    await holds(there)
    second = await started(env, upload_id=first.upload_id)
    with suppress(CannotGoOnError):
        await old.upload(data(1000, b"x" * 1000))
    env.check("superseded", (await old.outcome()).reason, equals="SUPERSEDED", clause="RSM-18")
    env.check("no-more-bytes", await _staged(env, first.upload_id), equals=1000, clause="RSM-18")
    late = await send(env, first)
    env.check("old-epoch", late.reason, equals="SUPERSEDED", clause="RSM-18")
    for epoch in (0, second.epoch + 1, 2**63):
        relay = await env.begin_upload(env.path(), upload_id=first.upload_id, epoch=epoch)
        done = await relay.outcome()
        seen = (done.reason, done.fields)
        env.check(
            f"epoch-{epoch}" if epoch < 99 else "epoch-far",
            seen,
            equals=("INVALID_REQUEST", ["metadata.epoch"]),
            clause="RSM-20",
        )
    done = await send(env, second)
    env.check("newest-goes-on", done.reason, equals=OK, clause="RSM-5")
    env.check("content", await env.files.read(env.path()) == _CONTENT, equals=True, clause="RSM-5")


@case("supervisor/resume/asking-changes-nothing", profile="resume", clauses=("RSM-19", "RSM-7"))
async def asking_changes_nothing(env: SupervisorEnv) -> None:
    """GetUpload ends no stream and changes no upload."""
    status = await started(env)
    relay = await env.begin_upload(env.path(), upload_id=status.upload_id, epoch=status.epoch)
    await relay.upload(data(0, _CONTENT[:_HALF]))
    for _ in range(5):
        asked = await env.get_upload(upload_id=status.upload_id, include_digest=True)
        env.require(f"asked-{_}", asked.reason, equals=OK, clause="RSM-7")
    await relay.upload(data(_HALF, _CONTENT[_HALF:]), finish(_CONTENT))
    await relay.input_end()
    env.check("stream-goes-on", (await relay.outcome()).reason, equals=OK, clause="RSM-19")
    asked = await env.get_upload(upload_id=status.upload_id)
    env.check("epoch", asked.ok and asked.answer.upload.epoch, equals=status.epoch, clause="RSM-19")


@case("supervisor/resume/restarted-by-request-id", profile="resume", clauses=("RSM-17",))
async def restarted_by_request_id(env: SupervisorEnv) -> None:
    """An UploadFile that names an upload by request_id alone begins at offset 0."""
    name = env.fresh_name("request")
    relay = await env.begin_upload(env.path(), request_id=name)
    await relay.upload(data(0, b"other content"))
    await relay.input_end()
    await relay.outcome()
    done = await env.upload(env.path(), _CONTENT, request_id=name)
    env.check("reason", done.reason, equals=OK, clause="RSM-17")
    env.check("content", await env.files.read(env.path()) == _CONTENT, equals=True, clause="RSM-17")


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
    env.check("staged-bytes", told.staged_bytes, equals=len(_CONTENT), clause="RSM-7")
    await env.files.write(env.path(), b"changed since")
    again = await started(env, upload_id=status.upload_id)
    env.check("start-tells", again.state, equals=files_pb2.UPLOAD_STATE_PUBLISHED, clause="CRS-8")
    relay = await env.begin_upload(env.path(), upload_id=status.upload_id, epoch=status.epoch)
    await relay.upload(finish(_CONTENT))
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
    await send(env, status, until=_HALF)
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
    await env.files.write(env.path(), _CONTENT, mode=0o644)
    before = await env.files.entry(env.path())
    done = await env.start_upload(
        env.path(),
        source=digest(_CONTENT),
        size_bytes=len(_CONTENT),
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
    other = await env.start_upload(env.path(), source=digest(b"x" * len(_CONTENT)), size_bytes=len(_CONTENT))
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
    await relay.upload(data(0, _CONTENT[:_HALF]))
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
    await send(env, one, path="one", until=_HALF)
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
