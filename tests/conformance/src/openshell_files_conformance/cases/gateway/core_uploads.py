"""Uploads with an explicit finish, beyond what the vectors have: publishing, durability, attributes, digests."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

from openshell_files_conformance.cases.gateway.rfc_round_trips import content_of, written
from openshell_files_conformance.cases.gateway.vector_contents import put
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.caller import (
    BLAKE3,
    OK,
    SHA256,
    Up,
    chunks,
    data,
    digest_of,
    finish,
    hole,
)
from openshell_files_conformance.peers.client import ERROR_DOMAIN
from openshell_files_conformance.peers.gateway_env import GatewayEnv
from openshell_files_conformance.registry import case

_CREATE: Final = files_pb2.PARENT_POLICY_CREATE


@case("gateway/upload/finish", profile="core", clauses=("UPL-3", "UPL-12", "UPL-42", "DIG-1", "UPL-9"))
async def finished(env: GatewayEnv) -> None:
    """An upload with its finish is published, and the answer describes the file with the digest that was computed."""
    path, content = env.path(), content_of(700_001)
    done = await env.caller.upload(path, content, size_bytes=len(content))
    env.require("reason", done.reason, equals=OK, clause="UPL-3")
    env.check("bytes-written", written(done), equals=len(content), clause="UPL-12")
    env.check("digest", done.answer.file.digest == digest_of(content), equals=True, clause="DIG-1")
    told = await env.caller.stat(path, include_digest=True)
    env.check("as-described", told.answer.file == done.answer.file, equals=True, clause="UPL-42")
    env.check("durability", done.answer.durability, equals=files_pb2.DURABILITY_FSYNC, clause="UPL-9")
    env.check("content", await env.caller.content(path) == content, equals=True, clause="UPL-3")


@case("gateway/upload/no-finish", profile="core", clauses=("UPL-1", "UPL-11"))
async def no_finish(env: GatewayEnv) -> None:
    """All content and a half-close without an UploadFinish publish nothing, even if the declared size came."""
    for name, size in (("declared", 5), ("unknown-size", 0)):
        path = env.path()
        call = await env.caller.begin(path, data(0, b"bytes"), explicit_finish=True, size_bytes=size)
        await call.half_close()
        done = await call.end()
        env.check(name, done.reason, equals="UPLOAD_INCOMPLETE", clause="UPL-11")
        env.check(
            f"{name}-unpublished", await env.caller.content(path), equals="FILE_NOT_FOUND", clause="UPL-1"
        )


@case("gateway/upload/finish-before-the-half-close", profile="core", clauses=("UPL-3",))
async def finish_before_the_half_close(env: GatewayEnv) -> None:
    """The finish publishes: the answer does not wait for the half-close."""
    path = env.path()
    call = await env.caller.begin(path, data(0, b"bytes"), finish(b"bytes"), explicit_finish=True)
    done = await call.end()
    env.check("answered", done.reason, equals=OK, clause="UPL-3")
    env.check("content", await env.caller.content(path), equals=b"bytes", clause="UPL-3")


@case("gateway/upload/offset-gap", profile="core", clauses=("UPL-5", "UPL-1", "UPL-13"))
async def offset_gap(env: GatewayEnv) -> None:
    """A chunk at another offset is refused at once, with both offsets, and nothing is published."""
    path = env.path()
    call = await env.caller.begin(path, data(0, b"abc"), data(4, b"d"), explicit_finish=True)
    done = await call.end()
    env.check(
        "reason", (done.code.name, done.reason), equals=("OUT_OF_RANGE", "OFFSET_MISMATCH"), clause="UPL-5"
    )
    seen = {name: done.metadata.get(name) for name in ("expected_offset", "provided_offset")}
    env.check("offsets", seen, equals={"expected_offset": "3", "provided_offset": "4"}, clause="UPL-5")
    env.check("while-sending", done.ok, equals=False, clause="UPL-13")
    env.check("unpublished", await env.caller.content(path), equals="FILE_NOT_FOUND", clause="UPL-1")


@case("gateway/upload/refusal-of-a-large-upload", profile="core", clauses=("UPL-13",), timeout=40)
async def refusal_of_a_large_upload(env: GatewayEnv) -> None:
    """A refused upload of 64 MiB takes the refusal's time, not the content's: a caller that does not read goes on being told."""
    call = await env.caller.begin(f"{env.path('directory')}/file", explicit_finish=True)
    sent = 0
    for at in range(0, 64 << 20, 256 << 10):
        if not await call.send(data(at, bytes(256 << 10)), quiet=True):
            break
        sent = at
    done = await call.end()
    env.check("reason", done.reason, equals="PARENT_NOT_FOUND", clause="UPL-13")
    env.check(
        "before-the-end",
        sent,
        satisfies=("less than 64 MiB", lambda count: count < (60 << 20)),
        clause="UPL-13",
    )


@case("gateway/upload/wrong-finish", profile="core", clauses=("UPL-28", "UPL-29", "UPL-30", "DIG-5"))
async def wrong_finish(env: GatewayEnv) -> None:
    """A finish with another size, another digest, half a digest or another algorithm publishes nothing, and the old file stays."""
    path, content = env.path(), b"the content"
    await put(env, path, b"old")
    half = files_pb2.Digest(algorithm=SHA256, value=digest_of(content).value[:16])
    other = files_pb2.Digest(algorithm=BLAKE3, value=digest_of(content).value)
    for name, told, reason, clause in (
        ("size", finish(content, size=10), "SIZE_MISMATCH", "UPL-28"),
        ("digest", finish(b"another"[:11], size=11), "DIGEST_MISMATCH", "UPL-29"),
        (
            "half-a-digest",
            Up(finish=files_pb2.UploadFinish(size_bytes=11, digest=half)),
            "INVALID_REQUEST",
            "UPL-30",
        ),
        (
            "algorithm",
            Up(finish=files_pb2.UploadFinish(size_bytes=11, digest=other)),
            "INVALID_REQUEST",
            "DIG-5",
        ),
    ):
        call = await env.caller.begin(path, data(0, content), told, explicit_finish=True)
        await call.half_close()
        done = await call.end()
        env.check(name, done.reason, equals=reason, clause=clause)
        env.check(f"{name}-unchanged", await env.caller.content(path), equals=b"old", clause=clause)


@case("gateway/upload/cancelled-at-every-message", profile="core", clauses=("UPL-1",))
async def cancelled_at_every_message(env: GatewayEnv) -> None:
    """A cancellation after any number of messages before the finish publishes nothing."""
    content = content_of(300_000)
    messages = chunks(content, size=100_000)
    for count in range(len(messages) + 1):
        path = env.path()
        call = await env.caller.begin(path, *messages[:count], explicit_finish=True, size_bytes=len(content))
        call.cancel()
        await put(env, env.path(), b"barrier")
        env.check(f"after-{count}", await env.caller.content(path), equals="FILE_NOT_FOUND", clause="UPL-1")


@case("gateway/upload/readers-see-whole-files", profile="core", clauses=("UPL-8",))
async def readers_see_whole_files(env: GatewayEnv) -> None:
    """A reader beside a writer sees the old file or the new one, whole, at every moment."""
    path = env.path()
    files = [bytes([n]) * (200_000 + n) for n in range(1, 13)]
    await put(env, path, files[0])
    seen = list[bytes | str]()

    async def read() -> None:
        while len(seen) < 200 and not writing.done():
            seen.append(await env.caller.content(path))

    async def write() -> None:
        for content in files[1:]:
            await put(env, path, content)

    writing = asyncio.create_task(write())
    await asyncio.gather(writing, read())
    # A download that saw its file replaced may say so, since it is read by its descriptor.
    wrong = [
        one if isinstance(one, str) else len(one)
        for one in seen
        if one not in files and one != "FILE_CHANGED"
    ]
    env.check("whole", wrong, equals=[], clause="UPL-8")
    env.check("last", await env.caller.content(path) == files[-1], equals=True, clause="UPL-8")


@case("gateway/upload/hole", profile="core", clauses=("UPL-18", "UPL-26", "DIG-10"))
async def holes(env: GatewayEnv) -> None:
    """A hole stands for its zero bytes, in the content and in the digest."""
    path, whole = env.path(), b"head" + bytes(1_000_000) + b"tail"
    messages = (data(0, b"head"), hole(4, 1_000_000), data(1_000_004, b"tail"), finish(whole))
    call = await env.caller.begin(path, *messages, explicit_finish=True)
    await call.half_close()
    done = await call.end()
    env.require("reason", done.reason, equals=OK, clause="UPL-18")
    env.check("digest", done.answer.file.digest.value, equals=digest_of(whole).value, clause="DIG-10")
    env.check("content", await env.caller.content(path) == whole, equals=True, clause="UPL-18")
    both = Up(data=files_pb2.FileChunk(data=b"x", hole_bytes=1, crc32c=0))
    for name, message in (("both", both), ("neither", Up(data=files_pb2.FileChunk()))):
        call = await env.caller.begin(env.path(), message, explicit_finish=True)
        env.check(name, (await call.end()).reason, equals="INVALID_REQUEST", clause="UPL-26")


@case("gateway/upload/attributes", profile="core", clauses=("UPL-10", "UPL-46", "UPL-47", "UPL-48", "UPL-49"))
async def attributes(env: GatewayEnv) -> None:
    """Mode and modified time of the published file are those of the metadata."""
    path = env.path()
    when = Timestamp(seconds=1_234_567_890, nanos=123_456_789)
    done = await env.caller.upload(path, b"x", mode=0o106751, modified_time=when)
    env.require("reason", done.reason, equals=OK, clause="UPL-10")
    env.check("mode", done.answer.file.mode, equals=0o751, clause="UPL-10")
    told = await env.caller.stat(path)
    env.check("mode-described", told.answer.file.mode, equals=0o751, clause="UPL-10")
    env.check("modified", told.answer.file.modified_time, equals=when, clause="UPL-48")
    again = await env.caller.upload(path, b"y")
    env.check(
        "mode-kept", again.answer.file.mode if again.ok else again.reason, equals=0o751, clause="UPL-46"
    )
    odd = await env.caller.upload(env.path(), b"x", mode=0o040755)
    env.check(
        "directory-bits",
        (odd.reason, odd.fields),
        equals=("INVALID_REQUEST", ["metadata.mode"]),
        clause="UPL-47",
    )
    for name, seconds in (("year-0", -62_135_596_801), ("year-10000", 253_402_300_800)):
        late = await env.caller.upload(env.path(), b"x", modified_time=Timestamp(seconds=seconds))
        env.check(
            name,
            (late.reason, late.fields),
            equals=("INVALID_REQUEST", ["metadata.modified_time"]),
            clause="UPL-49",
        )


@case("gateway/upload/replaces-read-only", profile="core", clauses=("UPL-17", "UPL-45"))
async def replaces_read_only(env: GatewayEnv) -> None:
    """A file of mode 0444 is replaced as by `mv`, unless keep_read_only is set."""
    path = env.path()
    await put(env, path, b"old", mode=0o444)
    if env.has("own-sandbox"):
        kept = await env.caller.upload(path, b"new", keep_read_only=True)
        env.check("kept", kept.reason, equals="ACCESS_DENIED", clause="UPL-45")
        env.check("unchanged", await env.caller.content(path), equals=b"old", clause="UPL-45")
    else:
        env.unsupported("kept", "own-sandbox", clause="UPL-45")
    done = await env.caller.upload(path, b"new")
    env.check("replaced", done.reason, equals=OK, clause="UPL-17")


@case("gateway/upload/parents", profile="core", clauses=("PTH-16", "PTH-17", "PTH-18", "PTH-1"))
async def parents(env: GatewayEnv) -> None:
    """Missing directories end the upload, unless the policy has them made; a file on the way ends it always."""
    top = env.path("top")
    done = await env.caller.upload(f"{top}/a/b/file", b"x")
    env.check("missing", done.reason, equals="PARENT_NOT_FOUND", clause="PTH-16")
    made = await env.caller.upload(f"{top}/a/b/file", b"x", parents=_CREATE)
    env.check("made", made.reason, equals=OK, clause="PTH-18")
    env.check("content", await env.caller.content(f"{top}/a/b/file"), equals=b"x", clause="PTH-18")
    through = await env.caller.upload(f"{top}/a/b/file/below", b"x", parents=_CREATE)
    env.check("through-a-file", through.reason, equals="NOT_A_DIRECTORY", clause="PTH-17")
    onto = await env.caller.upload(f"{top}/a", b"x")
    env.check("onto-a-directory", onto.reason, equals="IS_A_DIRECTORY", clause="PTH-1")


@case("gateway/upload/absolute-and-relative", profile="core", clauses=("PTH-10", "PTH-4"))
async def absolute_and_relative(env: GatewayEnv) -> None:
    """A relative path starts at the working directory; the answer has the absolute one, which leads to the same file."""
    path = env.path()
    done = await env.caller.upload(path, b"x")
    env.require("reason", done.reason, equals=OK, clause="PTH-10")
    where = done.answer.file.path
    env.check(
        "absolute",
        where,
        satisfies=(
            "absolute, ending with the path",
            lambda seen: seen.startswith("/") and seen.endswith(f"/{path}"),
        ),
        clause="PTH-10",
    )
    env.check("the-same-file", await env.caller.content(where), equals=b"x", clause="PTH-10")
    down = await env.caller.download("/tmp")
    env.check("a-directory", down.reason, equals="IS_A_DIRECTORY", clause="PTH-4")


@case("gateway/upload/staging-names", profile="core", clauses=("PTH-20",))
async def staging_names(env: GatewayEnv) -> None:
    """Names of staging files are forbidden, whether there is such a file or not."""
    path = f".openshell-upload-{env.fresh_name('x')}"
    up, down = await env.caller.upload(path, b"x"), await env.caller.download(path)
    env.check(
        "upload", (up.code.name, up.reason), equals=("PERMISSION_DENIED", "PATH_FORBIDDEN"), clause="PTH-20"
    )
    env.check("download", down.reason, equals="PATH_FORBIDDEN", clause="PTH-20")
    env.check("stat", (await env.caller.stat(path)).reason, equals="PATH_FORBIDDEN", clause="PTH-20")


@case("gateway/upload/kernel-files", profile="core", clauses=("PTH-5",), needs=("own-sandbox",))
async def kernel_files(env: GatewayEnv) -> None:
    """Files of kernel interfaces are not transferred: they are forbidden, or not there."""
    for name, path in (
        ("proc", "/proc/self/environ"),
        ("sys", "/sys/kernel/mm/transparent_hugepage/enabled"),
    ):
        down = await env.caller.download(path)
        env.check(
            name, down.reason, one_of=("PATH_FORBIDDEN", "PARENT_NOT_FOUND", "FILE_NOT_FOUND"), clause="PTH-5"
        )


@case("gateway/upload/digests", profile="core", clauses=("DIG-2", "DIG-3", "DIG-11", "DIG-15", "DIG-21"))
async def digests(env: GatewayEnv) -> None:
    """The first algorithm of the list that the server knows is taken; none left ends the call before content."""
    path = env.path()
    done = await env.caller.upload(path, b"x", accepted_digests=[99, SHA256])
    env.check("unknown-skipped", done.reason, equals=OK, clause="DIG-2")
    env.check("sha256", done.answer.file.digest.algorithm if done.ok else None, equals=SHA256, clause="DIG-3")
    call = await env.caller.begin(env.path(), explicit_finish=True, accepted_digests=[99])
    none = await call.end()
    env.check(
        "none-left",
        (none.code.name, none.reason),
        equals=("FAILED_PRECONDITION", "DIGEST_UNSUPPORTED"),
        clause="DIG-11",
    )
    call = await env.caller.begin(env.path(), explicit_finish=True, accepted_digests=[SHA256] * 17)
    many = await call.end()
    env.check("too-many", many.reason, equals="INVALID_REQUEST", clause="DIG-21")
    down = await env.caller.download(path, checked=True, accepted_digests=[99, SHA256])
    algorithms = (down.header.digest_algorithm, down.trailer.digest.algorithm if down.trailer else None)
    env.check("download", algorithms, equals=(SHA256, SHA256), clause="DIG-15")
    down = await env.caller.download(path, checked=True, accepted_digests=[99])
    env.check("download-none-left", down.reason, equals="DIGEST_UNSUPPORTED", clause="DIG-11")


@case("gateway/upload/blake3", profile="core", clauses=("DIG-2", "DIG-4", "DIG-15"), needs=("blake3",))
async def blake3(env: GatewayEnv) -> None:
    """A caller that prefers BLAKE3 gets it, in every digest about the upload and the download."""
    path, content = env.path(), content_of(300_000)
    done = await env.caller.upload(path, content, algorithm=BLAKE3, accepted_digests=[BLAKE3, SHA256])
    env.require("reason", done.reason, equals=OK, clause="DIG-2")
    env.check("answer", done.answer.file.digest == digest_of(content, BLAKE3), equals=True, clause="DIG-15")
    down = await env.caller.download(path, checked=True, accepted_digests=[BLAKE3, SHA256])
    env.check("header", down.header.digest_algorithm, equals=BLAKE3, clause="DIG-4")
    trailer = down.trailer
    env.check(
        "trailer",
        trailer is not None and trailer.digest == digest_of(content, BLAKE3),
        equals=True,
        clause="DIG-15",
    )


@case("gateway/upload/no-digest-without-need", profile="core", clauses=("DIG-9", "DIG-20"))
async def no_digest_without_need(env: GatewayEnv) -> None:
    """Callers of the RFC get no digests, which nobody would read."""
    path = env.path()
    done = await env.caller.rfc_upload(path, b"plain")
    env.check("upload", done.ok and done.answer.file.HasField("digest"), equals=False, clause="DIG-9")
    down = await env.caller.download(path)
    seen = (down.content, down.header.file.HasField("digest"))
    env.check("download", seen, equals=(b"plain", False), clause="DIG-20")


@case("gateway/upload/one-of-many-absent", profile="core", clauses=("CND-3", "CND-1"))
async def one_of_many_absent(env: GatewayEnv) -> None:
    """Of several uploads with `absent` to one path at the same time exactly one publishes."""
    path = env.path()
    absent = files_pb2.UploadCondition(absent=Empty())
    contents = [bytes([65 + n]) * 1000 for n in range(6)]
    ended: list[Any] = await asyncio.gather(
        *(env.caller.upload(path, content, condition=absent) for content in contents)
    )
    won = [n for n, one in enumerate(ended) if one.ok]
    env.check("one", len(won), equals=1, clause="CND-3")
    env.check("others", {one.reason for one in ended if not one.ok}, equals={"FILE_EXISTS"}, clause="CND-1")
    if won:
        env.check("content", await env.caller.content(path), equals=contents[won[0]], clause="CND-3")


@case("gateway/upload/condition-again", profile="core", clauses=("CND-5", "CND-2"))
async def condition_again(env: GatewayEnv) -> None:
    """A condition that held at the start and not at the finish ends the upload, and the other file stays."""
    path = env.path()
    await put(env, path, b"first")
    version = (await env.caller.stat(path)).answer.file.version
    condition = files_pb2.UploadCondition(version=version)
    call = await env.caller.begin(path, data(0, b"mine"), explicit_finish=True, condition=condition)
    await env.caller.stat(path)
    await put(env, path, b"of another caller")
    await call.send(finish(b"mine"))
    done = await call.end()
    env.check("refused", done.reason, equals="CONDITION_FAILED", clause="CND-5")
    env.check("kept", await env.caller.content(path), equals=b"of another caller", clause="CND-5")
    late = await env.caller.begin(path, explicit_finish=True, condition=condition)
    env.check("refused-at-the-start", (await late.end()).reason, equals="CONDITION_FAILED", clause="CND-2")


@case("gateway/upload/errors-have-details", profile="core", clauses=("PTH-2", "PTH-6", "CND-1"))
async def errors_have_details(env: GatewayEnv) -> None:
    """An error has the domain, the code of its reason, and the fields at fault where it is the caller's argument."""
    await put(env, path := env.path(), b"x")
    absent = files_pb2.UploadCondition(absent=Empty())
    for name, ended, code, clause in (
        ("invalid", await env.caller.upload("a/../b", b"x"), "INVALID_ARGUMENT", "PTH-2"),
        ("missing", (await env.caller.download(env.path())).ended, "NOT_FOUND", "PTH-6"),
        ("exists", await env.caller.upload(path, b"x", condition=absent), "ALREADY_EXISTS", "CND-1"),
    ):
        env.check(f"{name}-code", ended.code.name, equals=code, clause=clause)
        env.check(f"{name}-domain", ended.domain, equals=ERROR_DOMAIN, clause=clause)
        if name == "invalid":
            env.check("fields", ended.fields, equals=["metadata.remote_path"], clause=clause)
