"""Small files in one message."""

from __future__ import annotations

from openshell_files_conformance.cases.supervisor.settled import nothing_staged
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.operation import BLAKE3, OK, SHA256, Outcome, crc, data, digest, finish
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.registry import case

_LARGEST = 1_032_192


async def _write(env: SupervisorEnv, content: bytes, **fields: object) -> Outcome:
    """Write with a request whose fields a case sets itself."""
    request = files_pb2.WriteFileRequest(content=content)
    metadata = fields.pop("metadata", None)
    if isinstance(metadata, files_pb2.UploadFileMetadata):
        request.metadata.CopyFrom(metadata)
    whole = fields.pop("digest", digest(content))
    if isinstance(whole, files_pb2.Digest):
        request.digest.CopyFrom(whole)
    checksum = fields.pop("crc32c", crc(content))
    assert isinstance(checksum, int)
    request.crc32c = checksum
    return await env.call(write_file=request)


@case("supervisor/write-file/published", profile="core", clauses=("UPL-16", "UPL-56"))
async def published(env: SupervisorEnv) -> None:
    """A file, an empty one and one of the largest size are published; the limit on chunks does not count."""
    for name, content in (("small", b"small"), ("empty", b""), ("largest", b"x" * _LARGEST)):
        done = await env.write_file(env.path(name), content, opening={"max_chunk_bytes": 256 << 10})
        clause = "UPL-56" if name == "largest" else "UPL-16"
        env.check(name, done.reason, equals=OK, clause=clause)
        env.check(
            f"{name}-content", await env.files.read(env.path(name)) == content, equals=True, clause=clause
        )
        if done.ok:
            env.check(f"{name}-digest", done.answer.file.digest, equals=digest(content), clause="UPL-16")
            reached = done.answer.durability
            env.check(f"{name}-durability", reached, equals=files_pb2.DURABILITY_FSYNC, clause="UPL-16")


@case("supervisor/write-file/too-large", profile="core", clauses=("UPL-55",))
async def too_large(env: SupervisorEnv) -> None:
    """A byte more than max_write_bytes is refused."""
    done = await env.write_file(env.path(), b"x" * (_LARGEST + 1))
    # A gateway refuses it itself, so an agent may take it for a chunk that is too large.
    env.check("reason", done.reason, one_of=("INVALID_REQUEST", "CHUNK_TOO_LARGE"), clause="UPL-55")
    env.check("nothing-published", await env.files.exists(env.path()), equals=False, clause="UPL-55")


@case(
    "supervisor/write-file/refused", profile="core", clauses=("UPL-16", "UPL-54", "UPL-53", "UPL-7", "UPL-30")
)
async def refused(env: SupervisorEnv) -> None:
    """A wrong checksum, digest or size, and fields of streams, are refused, and nothing is written."""
    content, whole = b"content", env.metadata(env.path())
    wrong_crc = await _write(env, content, metadata=whole, crc32c=1)
    env.check("crc", wrong_crc.reason, equals="CHUNK_CHECKSUM", clause="UPL-7")
    wrong_digest = await _write(env, content, metadata=whole, digest=digest(b"other"))
    env.check("digest", wrong_digest.reason, equals="DIGEST_MISMATCH", clause="UPL-16")
    short = await _write(
        env, content, metadata=whole, digest=files_pb2.Digest(algorithm=SHA256, value=b"short")
    )
    env.check("short-digest", short.reason, equals="INVALID_REQUEST", clause="UPL-30")
    for size in (6, 8):
        sized = await _write(env, content, metadata=env.metadata(env.path(), size_bytes=size))
        seen = (sized.reason, sized.fields)
        env.check(f"size-{size}", seen, equals=("INVALID_REQUEST", ["metadata.size_bytes"]), clause="UPL-53")
    same = await _write(env, content, metadata=env.metadata(env.path("sized"), size_bytes=7))
    env.check("size-7", same.reason, equals=OK, clause="UPL-53")
    for field, value in (("upload_id", "some"), ("lanes", 2)):
        named = await _write(env, content, metadata=env.metadata(env.path(), **{field: value}))
        seen = (named.reason, named.fields)
        env.check(
            field.replace("_", "-"), seen, equals=("INVALID_REQUEST", [f"metadata.{field}"]), clause="UPL-54"
        )
    env.check("nothing-published", await env.files.exists(env.path()), equals=False, clause="UPL-16")
    env.check("nothing-left", await nothing_staged(env), equals=True, clause="UPL-16")


@case("supervisor/write-file/digest-algorithm", profile="core", clauses=("DIG-19",), needs=("blake3",))
async def digest_algorithm(env: SupervisorEnv) -> None:
    """The algorithm of the digest in the request is the upload's."""
    done = await _write(env, b"content", metadata=env.metadata(env.path()), digest=digest(b"content", BLAKE3))
    env.require("reason", done.reason, equals=OK, clause="DIG-19")
    env.check("digest", done.answer.file.digest, equals=digest(b"content", BLAKE3), clause="DIG-19")


@case(
    "supervisor/write-file/repeated",
    profile="resume",
    clauses=("UPL-52", "RSM-6", "RSM-21", "UPL-60", "RSM-11"),
)
async def repeated(env: SupervisorEnv) -> None:
    """A repeated request has the answer of the first, also by the other method; another content is a conflict."""
    name, content = env.fresh_name("request"), b"content"
    first = await env.write_file(env.path(), content, request_id=name)
    env.require("first", first.reason, equals=OK, clause="RSM-6")
    await env.files.write(env.path(), b"changed since")
    again = await env.write_file(env.path(), content, request_id=name)
    env.check("again", (again.reason, again.ok and again.answer.replayed), equals=(OK, True), clause="RSM-6")
    env.check("not-written-again", await env.files.read(env.path()), equals=b"changed since", clause="RSM-6")
    other = await env.write_file(env.path(), b"CONTENT", request_id=name)
    env.check("other-content", other.reason, equals="FINISH_CONFLICT", clause="RSM-21")
    longer = await env.write_file(env.path(), b"longer content", request_id=name)
    env.check("other-size", longer.reason, one_of=("UPLOAD_CONFLICT", "FINISH_CONFLICT"), clause="UPL-60")
    path = await env.write_file(env.path("other"), content, request_id=name)
    env.check("other-path", path.reason, equals="UPLOAD_CONFLICT", clause="RSM-11")
    env.check(
        "other-path-not-written", await env.files.exists(env.path("other")), equals=False, clause="RSM-11"
    )
    relay = await env.begin_upload(env.path(), request_id=name, size_bytes=len(content))
    await relay.upload(data(0, content), finish(content))
    await relay.input_end()
    stream = await relay.outcome()
    env.check(
        "by-upload-file",
        (stream.reason, stream.ok and stream.answer.replayed),
        equals=(OK, True),
        clause="UPL-52",
    )


@case("supervisor/write-file/forgotten", profile="resume", clauses=("UPL-59", "RSM-34"))
async def forgotten(env: SupervisorEnv) -> None:
    """A request that failed without publishing is forgotten, so its request_id can be used again."""
    name = env.fresh_name("request")
    whole = env.metadata(env.path(), request_id=name)
    broken = await _write(env, b"content", metadata=whole, crc32c=1)
    env.require("broken", broken.reason, equals="CHUNK_CHECKSUM", clause="UPL-59")
    env.check("nothing-left", await nothing_staged(env), equals=True, clause="RSM-34")
    asked = await env.get_upload(request_id=name)
    env.check("unknown", asked.reason, equals="UPLOAD_UNKNOWN", clause="UPL-59")
    again = await _write(env, b"content", metadata=whole)
    env.check("again", again.reason, equals=OK, clause="UPL-59")
