"""Uploads that are started, named, taken over, given up and asked about."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.operation import BLAKE3, OK, SHA256, Outcome, data, digest, finish
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.peers.waiting import holds
from openshell_files_conformance.registry import case

CONTENT = b"0123456789" * 30_000
HALF = 100_000


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
        await relay.upload(data(status.staged_bytes, CONTENT[status.staged_bytes : until]))
        if until is None:
            await relay.upload(finish(CONTENT))
        await relay.input_end()
    return await relay.outcome()


@case("supervisor/resume/start", profile="resume", clauses=("RSM-1", "DIG-4", "RSM-7"))
async def start(env: SupervisorEnv) -> None:
    """StartUpload admits an upload, names its algorithm, and is idempotent by request_id."""
    name = env.fresh_name("request")
    first = await started(env, request_id=name, size_bytes=len(CONTENT))
    env.check("receiving", first.state, equals=files_pb2.UPLOAD_STATE_RECEIVING, clause="RSM-7")
    env.check("staged", first.staged_bytes, equals=0, clause="RSM-7")
    env.check("id", bool(first.upload_id), equals=True, clause="RSM-1")
    env.check("algorithm", first.digest_algorithm, equals=SHA256, clause="DIG-4")
    env.check("digest-of-nothing", first.staged_digest, equals=digest(b""), clause="RSM-1")
    again = await started(env, request_id=name, size_bytes=len(CONTENT))
    env.check("same-id", again.upload_id, equals=first.upload_id, clause="RSM-1")
    env.check("request-id", again.request_id, equals=name, clause="RSM-1")
    other = await env.start_upload(
        env.path(),
        request_id=name,
        size_bytes=len(CONTENT),
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
    broken = await send(env, first, until=HALF)
    env.check("broken", broken.reason, equals="UPLOAD_INCOMPLETE", clause="RSM-10")
    again = await started(env, upload_id=first.upload_id)
    env.check("staged", again.staged_bytes, equals=HALF, clause="CRS-3")
    env.check("digest", again.staged_digest, equals=digest(CONTENT[:HALF]), clause="RSM-15")
    env.check(
        "epoch", again.epoch, satisfies=("a higher one", lambda epoch: epoch > first.epoch), clause="RSM-5"
    )
    done = await send(env, again)
    env.require("published", done.reason, equals=OK, clause="RSM-4")
    env.check("resumed-from", done.answer.resumed_from, equals=HALF, clause="RSM-4")
    env.check("content", await env.files.read(env.path()) == CONTENT, equals=True, clause="RSM-4")
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
        await relay.upload(data(0, CONTENT[:HALF]))

        async def all_staged(upload_id: str = status.upload_id) -> bool:
            return await _staged(env, upload_id) == HALF

        await holds(all_staged, env.scaled(5))
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
                await relay.upload(data(HALF, b"x", checksum=1))
        if way in {"offset", "checksum"}:
            await relay.outcome()
        asked = await env.get_upload(upload_id=status.upload_id, include_digest=True)
        seen = (asked.reason, asked.ok and asked.answer.upload.staged_bytes)
        env.check(way, seen, equals=(OK, HALF), clause="RSM-10")
        right = asked.ok and asked.answer.upload.staged_digest == digest(CONTENT[:HALF])
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
    await send(env, status, until=HALF, request_id="")
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
    env.check("unchanged", own.ok and own.answer.upload.staged_bytes, equals=HALF, clause="RSM-2")


@case("supervisor/resume/listed", profile="resume", clauses=("RSM-31",))
async def listed(env: SupervisorEnv) -> None:
    """ListUploads has the caller's unfinished uploads, oldest first, and their bytes."""
    one, two, three = [await started(env, name) for name in ("one", "two", "three")]
    await send(env, one, path="one", until=HALF)
    await send(env, two, path="two")
    found = await env.call(list_uploads=files_pb2.ListUploadsRequest())
    env.require("reason", found.reason, equals=OK, clause="RSM-31")
    ids = [upload.upload_id for upload in found.answer.uploads]
    env.check("oldest-first", ids, equals=[one.upload_id, three.upload_id], clause="RSM-31")
    env.check("bytes", found.answer.staged_bytes, equals=HALF, clause="RSM-31")


@case("supervisor/resume/taken-over", profile="resume", clauses=("RSM-18", "RSM-20", "RSM-5"))
async def taken_over(env: SupervisorEnv) -> None:
    """A newer attempt ends the older stream, whose bytes are staged no more."""
    first = await started(env)
    old = await env.begin_upload(env.path(), upload_id=first.upload_id, epoch=first.epoch)
    await old.until("accepted")
    await old.upload(data(0, CONTENT[:1000]))

    async def there() -> bool:
        return await _staged(env, first.upload_id) == 1000

    await holds(there, env.scaled(5))
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
    env.check("content", await env.files.read(env.path()) == CONTENT, equals=True, clause="RSM-5")


@case("supervisor/resume/asking-changes-nothing", profile="resume", clauses=("RSM-19", "RSM-7"))
async def asking_changes_nothing(env: SupervisorEnv) -> None:
    """GetUpload ends no stream and changes no upload."""
    status = await started(env)
    relay = await env.begin_upload(env.path(), upload_id=status.upload_id, epoch=status.epoch)
    await relay.upload(data(0, CONTENT[:HALF]))
    for _ in range(5):
        asked = await env.get_upload(upload_id=status.upload_id, include_digest=True)
        env.require(f"asked-{_}", asked.reason, equals=OK, clause="RSM-7")
    await relay.upload(data(HALF, CONTENT[HALF:]), finish(CONTENT))
    await relay.input_end()
    env.check("stream-goes-on", (await relay.outcome()).reason, equals=OK, clause="RSM-19")
    env.check("published", await env.files.read(env.path()) == CONTENT, equals=True, clause="RSM-19")
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
    done = await env.upload(env.path(), CONTENT, request_id=name)
    env.check("reason", done.reason, equals=OK, clause="RSM-17")
    env.check("content", await env.files.read(env.path()) == CONTENT, equals=True, clause="RSM-17")
