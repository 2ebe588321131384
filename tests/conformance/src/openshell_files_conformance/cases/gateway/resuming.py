"""Uploads that are named, lost, resumed and taken over."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

from openshell_files_conformance.cases.gateway.rfc_round_trips import content_of
from openshell_files_conformance.cases.gateway.vector_contents import put
from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.caller import (
    BLAKE3,
    OK,
    SHA256,
    Caller,
    chunks,
    data,
    digest_of,
    finish,
)
from openshell_files_conformance.peers.client import Call, Ended
from openshell_files_conformance.peers.gateway_env import GatewayEnv
from openshell_files_conformance.peers.tcp_faults import FaultyTcp
from openshell_files_conformance.registry import case

RECEIVING: Final = files_pb2.UPLOAD_STATE_RECEIVING
PUBLISHED: Final = files_pb2.UPLOAD_STATE_PUBLISHED
ABORTED: Final = files_pb2.UPLOAD_STATE_ABORTED
EXPIRED: Final = files_pb2.UPLOAD_STATE_EXPIRED
RESUME: Final = ("resume",)


def status_of(ended: Ended[Any]) -> files_pb2.UploadStatus:
    """Return the upload in an answer.

    Raises:
        CannotGoOnError: the call failed.
    """
    if not ended.ok:
        raise CannotGoOnError(f"a call about an upload: {ended}")
    found: files_pb2.UploadStatus = ended.answer.upload
    return found


async def begin_named(
    caller: Caller, path: str, status: files_pb2.UploadStatus, *messages: Any, **fields: Any
) -> Call[Any]:
    """Begin a stream of an upload that StartUpload named."""
    return await caller.begin(path, *messages, upload_id=status.upload_id, epoch=status.epoch, **fields)


async def staged(
    env: GatewayEnv, status: files_pb2.UploadStatus, count: int, caller: Caller | None = None
) -> bool:
    """Wait until so many bytes of an upload are staged; return whether they came to be."""

    async def enough() -> bool:
        asked = await (caller or env.caller).get(upload_id=status.upload_id)
        return asked.ok and asked.answer.upload.staged_bytes == count

    return await env.eventually(enough)


@case(
    "gateway/resume/after-a-lost-connection",
    profile="resume",
    needs=RESUME,
    clauses=("CRS-3", "RSM-10", "RSM-4", "UPL-3"),
)
async def after_a_lost_connection(env: GatewayEnv) -> None:
    """After a lost connection the staged prefix stands, with its digest, and the upload goes on there."""
    path, content = env.path(), content_of(900_000)
    status = status_of(await env.caller.start(path, size_bytes=len(content)))
    async with FaultyTcp(env.endpoint) as proxy:
        far = env.connection(proxy.endpoint)
        caller = Caller(far, env.caller.token, env.caller.sandbox_id)
        call = await begin_named(caller, path, status, *chunks(content)[:2], size_bytes=len(content))
        await staged(env, status, 2 << 18)
        proxy.reset()
        await call.end()
    again = status_of(await env.caller.start(path, upload_id=status.upload_id, size_bytes=len(content)))
    env.check("staged", again.staged_bytes, equals=2 << 18, clause="CRS-3")
    env.check(
        "digest", again.staged_digest == digest_of(content[: again.staged_bytes]), equals=True, clause="CRS-3"
    )
    env.check("kept", again.state, equals=RECEIVING, clause="RSM-10")
    rest = (*chunks(content, again.staged_bytes), finish(content))
    call = await begin_named(env.caller, path, again, *rest, size_bytes=len(content))
    done = await call.end()
    env.require("finished", done.reason, equals=OK, clause="RSM-4")
    env.check("resumed-from", done.answer.resumed_from, equals=again.staged_bytes, clause="RSM-4")
    env.check("content", await env.caller.content(path) == content, equals=True, clause="UPL-3")


@case(
    "gateway/resume/lost-before-the-first-chunk",
    profile="resume",
    needs=RESUME,
    clauses=("CRS-2", "CRS-1", "RSM-1"),
)
async def lost_before_the_first_chunk(env: GatewayEnv) -> None:
    """An upload of which nothing came stands at 0, and the same request finds it again."""
    path, request_id = env.path(), env.fresh_name("request")
    first = status_of(await env.caller.start(path, request_id=request_id))
    call = await begin_named(env.caller, path, first, request_id=request_id)
    call.cancel()
    told = status_of(await env.caller.get(request_id=request_id))
    env.check(
        "found",
        (told.state, told.staged_bytes, told.upload_id),
        equals=(RECEIVING, 0, first.upload_id),
        clause="CRS-2",
    )
    again = status_of(await env.caller.start(path, request_id=request_id))
    env.check("same-upload", again.upload_id, equals=first.upload_id, clause="RSM-1")
    env.check("at-0", again.staged_bytes, equals=0, clause="CRS-1")


@case(
    "gateway/resume/lost-finish",
    profile="resume",
    needs=RESUME,
    clauses=("CRS-4", "CRS-8", "RSM-6", "RSM-7"),
)
async def lost_finish(env: GatewayEnv) -> None:
    """Without its finish an upload stands at the file's size; the finish sent again gives its answer, and again."""
    path, content = env.path(), content_of(300_000)
    status = status_of(await env.caller.start(path))
    call = await begin_named(env.caller, path, status, *chunks(content))
    await staged(env, status, len(content))
    call.cancel()
    env.check("nothing-published", await env.caller.content(path), equals="FILE_NOT_FOUND", clause="CRS-4")
    again = status_of(await env.caller.start(path, upload_id=status.upload_id))
    env.check(
        "all-staged", (again.state, again.staged_bytes), equals=(RECEIVING, len(content)), clause="CRS-4"
    )
    done = await (await begin_named(env.caller, path, again, finish(content))).end()
    env.require("finished", done.reason, equals=OK, clause="RSM-6")
    told = status_of(await env.caller.get(upload_id=status.upload_id))
    env.check("published", told.state, equals=PUBLISHED, clause="RSM-7")
    env.check("result", told.result.file == done.answer.file, equals=True, clause="CRS-8")
    repeated = await (await begin_named(env.caller, path, again, finish(content))).end()
    env.check("replayed", repeated.ok and repeated.answer.replayed, equals=True, clause="RSM-6")
    env.check(
        "same-file", repeated.ok and repeated.answer.file == done.answer.file, equals=True, clause="CRS-8"
    )


@case("gateway/resume/takeover", profile="resume", needs=RESUME, clauses=("RSM-5", "RSM-18", "RSM-20"))
async def takeover(env: GatewayEnv) -> None:
    """A newer attempt ends the older stream with SUPERSEDED, which stages no byte more."""
    path, content = env.path(), content_of(300_000)
    status = status_of(await env.caller.start(path))
    old = await begin_named(env.caller, path, status, *chunks(content)[:1])
    await staged(env, status, 1 << 18)
    newer = status_of(await env.caller.start(path, upload_id=status.upload_id))
    env.check("epoch", newer.epoch > status.epoch, equals=True, clause="RSM-5")
    await old.send(*chunks(content, 1 << 18), finish(content))
    ended = await old.end()
    env.check(
        "superseded", (ended.code.name, ended.reason), equals=("ABORTED", "SUPERSEDED"), clause="RSM-18"
    )
    told = status_of(await env.caller.get(upload_id=status.upload_id))
    env.check("no-byte-more", (told.state, told.staged_bytes), equals=(RECEIVING, 1 << 18), clause="RSM-18")
    late = await (await begin_named(env.caller, path, status)).end()
    env.check("older-epoch", late.reason, equals="SUPERSEDED", clause="RSM-18")
    never = await env.caller.begin(path, upload_id=status.upload_id, epoch=newer.epoch + 7)
    wrong = await never.end()
    env.check(
        "epoch-never-given",
        (wrong.reason, wrong.fields),
        equals=("INVALID_REQUEST", ["metadata.epoch"]),
        clause="RSM-20",
    )
    done = await (
        await begin_named(env.caller, path, newer, *chunks(content, 1 << 18), finish(content))
    ).end()
    env.check("newer-finishes", done.reason, equals=OK, clause="RSM-5")


@case("gateway/resume/restart-by-request-id", profile="resume", needs=RESUME, clauses=("RSM-17",))
async def restart_by_request_id(env: GatewayEnv) -> None:
    """An UploadFile that names an upload by its request_id alone starts at 0 again."""
    path, request_id = env.path(), env.fresh_name("request")
    first = await env.caller.begin(path, data(0, b"lost"), request_id=request_id, explicit_finish=True)
    await first.half_close()
    env.check("first", (await first.end()).reason, equals="UPLOAD_INCOMPLETE", clause="RSM-17")
    again = await env.caller.begin(
        path, data(0, b"whole"), finish(b"whole"), request_id=request_id, explicit_finish=True
    )
    done = await again.end()
    env.check("from-0", done.reason, equals=OK, clause="RSM-17")
    env.check("content", await env.caller.content(path), equals=b"whole", clause="RSM-17")


@case("gateway/resume/conflicts", profile="resume", needs=RESUME, clauses=("RSM-11", "DIG-7", "RSM-21"))
async def conflicts(env: GatewayEnv) -> None:
    """A request that names an upload and differs from its first one is refused, and names the differences."""
    path, request_id = env.path(), env.fresh_name("request")
    right: dict[str, Any] = {"request_id": request_id, "size_bytes": 5, "mode": 0o600}
    status = status_of(await env.caller.start(path, **right))
    others: dict[str, dict[str, Any]] = {
        "size": {"size_bytes": 6},
        "mode": {"mode": 0o644},
        "modified-time": {"modified_time": Timestamp(seconds=1)},
        "policy": {"parents": files_pb2.PARENT_POLICY_CREATE},
    }
    for name, fields in others.items():
        ended = await env.caller.start(path, **{**right, **fields})
        env.check(
            name,
            (ended.code.name, ended.reason),
            equals=("FAILED_PRECONDITION", "UPLOAD_CONFLICT"),
            clause="RSM-11",
        )
        named = ended.metadata.get("fields", "")
        env.check(f"{name}-named", next(iter(fields)) in named, equals=True, clause="RSM-11")
    other = await env.caller.start(env.path(), **right)
    env.check("path", other.reason, equals="UPLOAD_CONFLICT", clause="RSM-11")
    digests = await env.caller.start(path, **right, accepted_digests=[BLAKE3])
    env.check("digests", digests.reason, equals="UPLOAD_CONFLICT", clause="DIG-7")
    done = await (
        await begin_named(env.caller, path, status, data(0, b"right"), finish(b"right"), **right)
    ).end()
    env.require("finished", done.reason, equals=OK, clause="RSM-21")
    again = await (await begin_named(env.caller, path, status, finish(b"wrong"), **right)).end()
    env.check(
        "other-finish",
        (again.code.name, again.reason),
        equals=("FAILED_PRECONDITION", "FINISH_CONFLICT"),
        clause="RSM-21",
    )


@case(
    "gateway/resume/already-identical",
    profile="resume",
    needs=RESUME,
    clauses=("RSM-9", "RSM-33", "DIG-6", "DIG-17"),
)
async def already_identical(env: GatewayEnv) -> None:
    """StartUpload with the size and digest of the file that is there needs no content, and sets mode and time."""
    path, content = env.path(), content_of(100_000)
    await put(env, path, content, mode=0o600)
    told = await env.caller.start(path, size_bytes=len(content), mode=0o640, digest=digest_of(content))
    status = status_of(told)
    env.check(
        "published", (status.state, status.result.already_identical), equals=(PUBLISHED, True), clause="RSM-9"
    )
    env.check("algorithm", status.digest_algorithm, equals=SHA256, clause="DIG-17")
    if env.has("own-sandbox"):
        seen = await env.caller.stat(path)
        env.check("mode", seen.answer.file.mode, equals=0o640, clause="RSM-33")
    else:
        env.unsupported("mode", "own-sandbox", clause="RSM-33")
    other = status_of(await env.caller.start(path, size_bytes=len(content), digest=digest_of(b"other")))
    env.check("other-digest", other.state, equals=RECEIVING, clause="RSM-9")
    wrong = await env.caller.start(
        path, size_bytes=1, digest=digest_of(b"x", BLAKE3), accepted_digests=[SHA256]
    )
    env.check(
        "not-accepted",
        (wrong.reason, wrong.fields),
        equals=("INVALID_REQUEST", ["digest.algorithm"]),
        clause="DIG-6",
    )


@case("gateway/resume/refused-at-the-start", profile="resume", needs=RESUME, clauses=("RSM-12", "DIG-11"))
async def refused_at_the_start(env: GatewayEnv) -> None:
    """StartUpload refuses for every reason that is known without content."""
    await put(env, path := env.path(), b"x")
    absent = files_pb2.UploadCondition(absent=Empty())
    for name, ended, reason, clause in (
        ("path", await env.caller.start("a/../b"), "INVALID_PATH", "RSM-12"),
        ("parent", await env.caller.start(f"{env.path('top')}/x"), "PARENT_NOT_FOUND", "RSM-12"),
        ("condition", await env.caller.start(path, condition=absent), "FILE_EXISTS", "RSM-12"),
        ("size", await env.caller.start(path, size_bytes=1 << 62), "FILE_TOO_LARGE", "RSM-12"),
        ("digest", await env.caller.start(path, accepted_digests=[99]), "DIGEST_UNSUPPORTED", "DIG-11"),
    ):
        env.check(name, ended.reason, equals=reason, clause=clause)


@case(
    "gateway/resume/wrong-algorithm-keeps",
    profile="resume",
    needs=RESUME,
    clauses=("DIG-16", "DIG-5", "UPL-25"),
)
async def wrong_algorithm_keeps(env: GatewayEnv) -> None:
    """After a finish of another algorithm, and after a wrong checksum, the staged bytes stay."""
    path = env.path()
    status = status_of(await env.caller.start(path))
    call = await begin_named(env.caller, path, status, data(0, b"staged"), finish(b"staged", BLAKE3))
    wrong = await call.end()
    env.check(
        "refused",
        (wrong.reason, wrong.fields),
        equals=("INVALID_REQUEST", ["finish.digest.algorithm"]),
        clause="DIG-5",
    )
    again = status_of(await env.caller.start(path, upload_id=status.upload_id))
    env.check("kept", (again.state, again.staged_bytes), equals=(RECEIVING, 6), clause="DIG-16")
    call = await begin_named(env.caller, path, again, data(6, b" more"), data(11, b"broken", 1))
    env.check("checksum", (await call.end()).reason, equals="CHUNK_CHECKSUM", clause="UPL-25")
    told = status_of(await env.caller.get(upload_id=status.upload_id))
    env.check("kept-before-it", (told.state, told.staged_bytes), equals=(RECEIVING, 11), clause="UPL-25")


@case("gateway/resume/kept-when-cancelled", profile="resume", needs=RESUME, clauses=("RSM-10", "RSM-36"))
async def kept_when_cancelled(env: GatewayEnv) -> None:
    """What a cancelled or half-closed stream staged is kept, if the upload can be named again."""
    path = env.path()
    status = status_of(await env.caller.start(path))
    call = await begin_named(env.caller, path, status, data(0, b"one"))
    await staged(env, status, 3)
    call.cancel()
    env.check("cancelled", await staged(env, status, 3), equals=True, clause="RSM-10")
    again = status_of(await env.caller.start(path, upload_id=status.upload_id))
    call = await begin_named(env.caller, path, again, data(3, b"two"))
    await call.half_close()
    env.check("half-closed", (await call.end()).reason, equals="UPLOAD_INCOMPLETE", clause="RSM-10")
    env.check("kept", await staged(env, status, 6), equals=True, clause="RSM-10")
    nameless = await env.caller.begin(env.path(), data(0, b"x" * 100), explicit_finish=True)
    await nameless.half_close()
    await nameless.end()
    listed = await env.caller.list_uploads()
    sizes = [one.staged_bytes for one in listed.answer.uploads]
    env.check("nameless-freed", 100 in sizes, equals=False, clause="RSM-36")
