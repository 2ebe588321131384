"""Checked downloads, StatFile and WriteFile, beyond what the vectors have."""

from __future__ import annotations

import hashlib
from typing import Final

from openshell_files_conformance.cases.gateway.rfc_round_trips import content_of
from openshell_files_conformance.cases.gateway.vector_contents import put
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.caller import (
    BLAKE3,
    OK,
    SHA256,
    Up,
    crc32c,
    data,
    digest_of,
    finish,
    hole,
)
from openshell_files_conformance.peers.gateway_env import GatewayEnv
from openshell_files_conformance.registry import case

_MOST: Final = 1032192


@case("gateway/download/checked", profile="core", clauses=("DWN-1", "DWN-9", "DWN-16", "DIG-4", "DIG-1"))
async def checked(env: GatewayEnv) -> None:
    """A checked download is a header, chunks in order with their CRCs, and a trailer with the digest of what was sent."""
    path, content = env.path(), content_of(900_001)
    await put(env, path, content, mode=0o640)
    down = await env.caller.download(path, checked=True)
    env.require("reason", down.reason, equals=OK, clause="DWN-9")
    kinds = down.kinds
    env.check("header-first", kinds[:1], equals=["header"], clause="DWN-1")
    env.check("data-between", set(kinds[1:-1]), equals={"data"}, clause="DWN-9")
    env.check("trailer-last", kinds[-1:], equals=["trailer"], clause="DWN-9")
    offsets = [chunk.offset for chunk in down.chunks]
    ends = [0, *(chunk.offset + len(chunk.data) for chunk in down.chunks)]
    env.check("offsets", offsets == ends[:-1], equals=True, clause="DWN-9")
    wrong = [chunk.offset for chunk in down.chunks if chunk.crc32c != crc32c(chunk.data)]
    env.check("crcs", wrong, equals=[], clause="DWN-9")
    trailer = down.trailer or files_pb2.DownloadTrailer()
    env.check("content", down.content == content, equals=True, clause="DWN-9")
    env.check("digest", trailer.digest == digest_of(content), equals=True, clause="DIG-1")
    env.check("algorithm", down.header.digest_algorithm, equals=SHA256, clause="DIG-4")
    env.check(
        "whole",
        (trailer.end_offset, trailer.whole_file, trailer.changed),
        equals=(len(content), True, False),
        clause="DWN-9",
    )
    small = await env.caller.download(path, checked=True, max_chunk_bytes=20_000)
    env.check(
        "small-pieces",
        max(small.sizes, default=0),
        satisfies=("1 to 20000", lambda size: 0 < size <= 20_000),
        clause="DWN-16",
    )
    env.check("small-content", small.content == content, equals=True, clause="DWN-16")


@case("gateway/download/range-digest", profile="core", clauses=("DWN-4", "DWN-9"))
async def range_digest(env: GatewayEnv) -> None:
    """The trailer of a range has the digest of the range, and says that it is not the whole file."""
    path, content = env.path(), content_of(500_000)
    await put(env, path, content)
    down = await env.caller.download(path, checked=True, offset=100_000, length=200_000)
    trailer = down.trailer or files_pb2.DownloadTrailer()
    env.check("content", down.content == content[100_000:300_000], equals=True, clause="DWN-4")
    env.check("digest", trailer.digest == digest_of(content[100_000:300_000]), equals=True, clause="DWN-9")
    env.check("not-whole", (trailer.end_offset, trailer.whole_file), equals=(300_000, False), clause="DWN-9")
    env.check("size-of-the-file", down.header.size_bytes, equals=500_000, clause="DWN-4")


@case("gateway/download/if-version", profile="core", clauses=("DWN-6",))
async def if_version(env: GatewayEnv) -> None:
    """A download of the version that StatFile named goes on; after a replacement it does not."""
    path = env.path()
    await put(env, path, b"first")
    version = (await env.caller.stat(path)).answer.file.version
    same = await env.caller.download(path, if_version=version)
    env.check("same", (same.reason, same.content), equals=(OK, b"first"), clause="DWN-6")
    await put(env, path, b"second")
    other = await env.caller.download(path, if_version=version)
    env.check(
        "replaced",
        (other.ended.code.name, other.reason),
        equals=("FAILED_PRECONDITION", "VERSION_MISMATCH"),
        clause="DWN-6",
    )
    env.check("no-header", other.kinds, equals=[], clause="DWN-6")


@case("gateway/download/holes", profile="core", clauses=("DWN-7", "DWN-17", "DIG-10"), needs=("own-sandbox",))
async def holes(env: GatewayEnv) -> None:
    """A hole of at least one chunk comes as hole_bytes of at most 256 MiB, and counts as zeros in the digest."""
    path, size = env.path(), 300 << 20
    messages = (data(0, b"head"), hole(4, size - 4))
    call = await env.caller.begin(path, *messages, explicit_finish=True)
    whole = hashlib.sha256(b"head")
    for _ in range(299):
        whole.update(bytes(1 << 20))
    whole.update(bytes((1 << 20) - 4))
    digest = files_pb2.Digest(algorithm=SHA256, value=whole.digest())
    await call.send(Up(finish=files_pb2.UploadFinish(size_bytes=size, digest=digest)))
    done = await call.end(60)
    env.require("uploaded", done.reason, equals=OK, clause="DIG-10")
    down = await env.caller.download(path, checked=True)
    holes = [chunk.hole_bytes for chunk in down.chunks if chunk.hole_bytes]
    env.check(
        "sent-as-holes",
        sum(holes),
        satisfies=("most of the file", lambda count: count > (299 << 20)),
        clause="DWN-7",
    )
    env.check(
        "parts",
        max(holes, default=0),
        satisfies=("at most 256 MiB", lambda most: 0 < most <= 256 << 20),
        clause="DWN-17",
    )
    env.check(
        "digest", down.trailer is not None and down.trailer.digest == digest, equals=True, clause="DIG-10"
    )


@case(
    "gateway/stat/describes",
    profile="core",
    clauses=("PTH-9", "PTH-23", "PTH-24", "PTH-25"),
    needs=("own-sandbox",),
)
async def stat_describes(env: GatewayEnv) -> None:
    """StatFile describes files and directories; a slash at the end means a directory."""
    path, top = env.path(), env.path("top")
    await put(env, path, b"12345", mode=0o640)
    await env.caller.upload(f"{top}/file", b"x", parents=files_pb2.PARENT_POLICY_CREATE)
    told = await env.caller.stat(path)
    seen = (
        (told.answer.file.type, told.answer.file.size_bytes, told.answer.file.mode)
        if told.ok
        else told.reason
    )
    env.check("file", seen, equals=(files_pb2.FILE_TYPE_REGULAR, 5, 0o640), clause="PTH-9")
    for name, where in (
        ("directory", top),
        ("with-a-slash", f"{top}/"),
        ("with-a-dot", f"./{top}"),
        ("root", "/"),
        ("here", "."),
    ):
        told = await env.caller.stat(where)
        kind = told.answer.file.type if told.ok else told.reason
        env.check(
            name,
            kind,
            equals=files_pb2.FILE_TYPE_DIRECTORY,
            clause="PTH-24" if name == "with-a-slash" else "PTH-23" if name != "directory" else "PTH-9",
        )
    told = await env.caller.stat(f"{path}/")
    env.check("file-with-a-slash", told.reason, equals="NOT_A_DIRECTORY", clause="PTH-24")
    told = await env.caller.stat(top, include_digest=True)
    env.check("digest-of-a-directory", told.reason, equals="IS_A_DIRECTORY", clause="PTH-25")


@case("gateway/stat/versions", profile="core", clauses=("PTH-9",))
async def stat_versions(env: GatewayEnv) -> None:
    """The version stays while the file does, and changes with its content."""
    path = env.path()
    await put(env, path, b"one")
    first, again = await env.caller.stat(path), await env.caller.stat(path)
    env.check(
        "stays", again.answer.file.version == first.answer.file.version != "", equals=True, clause="PTH-9"
    )
    await put(env, path, b"two")
    changed = await env.caller.stat(path)
    env.check(
        "changes", changed.answer.file.version != first.answer.file.version, equals=True, clause="PTH-9"
    )


@case(
    "gateway/write-file/writes", profile="core", clauses=("UPL-16", "DIG-19", "UPL-12"), needs=("write-file",)
)
async def write_file(env: GatewayEnv) -> None:
    """WriteFile publishes its content, of any size up to max_write_bytes, and answers with the file and its digest."""
    for size in (0, 1, 300_000, _MOST):
        path, content = env.path(), content_of(size)
        done = await env.caller.write(path, content, mode=0o600)
        env.check(f"reason-{size}", done.reason, equals=OK, clause="UPL-16")
        if not done.ok:
            continue
        env.check(f"size-{size}", done.answer.file.size_bytes, equals=size, clause="UPL-12")
        env.check(
            f"digest-{size}", done.answer.file.digest == digest_of(content), equals=True, clause="DIG-19"
        )
        env.check(f"content-{size}", await env.caller.content(path) == content, equals=True, clause="UPL-16")


@case(
    "gateway/write-file/refuses",
    profile="core",
    clauses=("UPL-53", "UPL-54", "UPL-55", "UPL-29", "UPL-7", "UPL-30"),
    needs=("write-file",),
)
async def write_file_refuses(env: GatewayEnv) -> None:
    """What is wrong with a WriteFile ends it with the reason and the field, and the old file stays."""
    path = env.path()
    await put(env, path, b"old")
    too_long = bytes(_MOST + 1)
    short = files_pb2.Digest(algorithm=SHA256, value=b"short")
    for name, ended, reason, fields, clause in (
        (
            "size",
            await env.caller.write(path, b"x", size_bytes=2),
            "INVALID_REQUEST",
            ["metadata.size_bytes"],
            "UPL-53",
        ),
        (
            "upload-id",
            await env.caller.write(path, b"x", upload_id="u"),
            "INVALID_REQUEST",
            ["metadata.upload_id"],
            "UPL-54",
        ),
        (
            "lanes",
            await env.caller.write(path, b"x", lanes=2),
            "INVALID_REQUEST",
            ["metadata.lanes"],
            "UPL-54",
        ),
        ("too-long", await env.caller.write(path, too_long), "INVALID_REQUEST", ["content"], "UPL-55"),
        (
            "digest",
            await env.caller.write(path, b"x", digest=digest_of(b"y")),
            "DIGEST_MISMATCH",
            None,
            "UPL-29",
        ),
        ("half-digest", await env.caller.write(path, b"x", digest=short), "INVALID_REQUEST", None, "UPL-30"),
        ("crc", await env.caller.write(path, b"x", crc32c=1), "CHUNK_CHECKSUM", None, "UPL-7"),
    ):
        env.check(name, ended.reason, equals=reason, clause=clause)
        if fields is not None:
            env.check(f"{name}-field", ended.fields, equals=fields, clause=clause)
        env.check(f"{name}-unchanged", await env.caller.content(path), equals=b"old", clause=clause)


@case("gateway/write-file/blake3", profile="core", clauses=("DIG-19",), needs=("write-file", "blake3"))
async def write_file_blake3(env: GatewayEnv) -> None:
    """The digest of the request decides the algorithm."""
    done = await env.caller.write(env.path(), b"x", algorithm=BLAKE3)
    env.check(
        "digest", done.ok and done.answer.file.digest == digest_of(b"x", BLAKE3), equals=True, clause="DIG-19"
    )


@case(
    "gateway/write-file/repeats",
    profile="resume",
    clauses=("UPL-52", "UPL-60", "RSM-6"),
    needs=("write-file", "resume"),
)
async def write_file_repeats(env: GatewayEnv) -> None:
    """A repeated WriteFile gives the answer of the first one; UploadFile and WriteFile repeat each other."""
    path, request_id = env.path(), env.fresh_name("request")
    first = await env.caller.write(path, b"content", request_id=request_id)
    env.require("first", first.reason, equals=OK, clause="UPL-52")
    again = await env.caller.write(path, b"content", request_id=request_id)
    env.check("again", again.ok and again.answer.replayed, equals=True, clause="RSM-6")
    env.check("same-file", again.ok and again.answer.file == first.answer.file, equals=True, clause="RSM-6")
    sized = await env.caller.write(path, b"content", request_id=request_id, size_bytes=7)
    env.check("with-its-size", sized.ok and sized.answer.replayed, equals=True, clause="UPL-60")
    streamed = await env.caller.begin(
        path,
        data(0, b"content"),
        finish(b"content"),
        request_id=request_id,
        explicit_finish=True,
        size_bytes=7,
    )
    done = await streamed.end()
    env.check("by-upload-file", done.ok and done.answer.replayed, equals=True, clause="UPL-52")
    other = await env.caller.write(path, b"another", request_id=request_id)
    env.check("other-content", other.reason, equals="FINISH_CONFLICT", clause="UPL-52")
