"""Uploads with an explicit finish: what an SDK sends, and which answers it takes for success."""

from __future__ import annotations

import os
from typing import Any

from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.file_calls import Fault, answer
from openshell_files_conformance.peers.file_sandbox import (
    BLAKE3,
    KIB,
    MIB,
    SHA256,
    SURE_CHUNK_BYTES,
    Upload,
    digest_of,
)
from openshell_files_conformance.peers.sdk_env import FEW_ATTEMPTS, SdkEnv
from openshell_files_conformance.registry import case

#: Methods that carry an upload's content.
CONTENT_METHODS = ("UploadFile", "WriteFile")


@case(
    "sdk/upload/finish",
    profile="core",
    clauses=("UPL-3", "UPL-20", "UPL-28", "UPL-30", "DIG-1", "DIG-5", "UPL-26", "UPL-7", "DIG-21"),
)
async def finish(env: SdkEnv) -> None:
    """A large upload ends with exactly one finish, with size and digest of what was sent."""
    content = env.content(2 * MIB + 5)
    answered = await env.upload(content)
    env.check("ok", answered.outcome, equals="ok", clause="UPL-3")
    env.check("published", env.published("remote"), equals=content, clause="UPL-3")
    finishes = [len(call.payloads("finish")) for call in env.book.of("UploadFile")]
    env.check("finishes", finishes, equals=[1], clause="UPL-3")
    right = env.digests_of(content)
    env.check("digest", answered.fields.get("digest", right[0]), one_of=right, clause="DIG-1")
    env.well_formed("UPL-20", "UPL-28", "UPL-30", "DIG-1", "DIG-5", "UPL-26", "UPL-7", "DIG-21")


@case(
    "sdk/upload/sizes",
    profile="core",
    clauses=("DIG-1", "UPL-53", "UPL-54", "UPL-55", "DIG-19", "UPL-24"),
    timeout=60.0,
)
async def sizes(env: SdkEnv) -> None:
    """Files around the sizes of chunks and of WriteFile arrive, whichever method carries them."""
    for size in (
        1,
        SURE_CHUNK_BYTES - 1,
        SURE_CHUNK_BYTES,
        SURE_CHUNK_BYTES + 1,
        512 * KIB,
        MIB - 16 * KIB,
        MIB,
    ):
        content = env.content(size)
        answered = await env.upload(content, f"file-{size}")
        seen = answered.outcome, env.published(f"file-{size}") == content
        env.check(f"of-{size}-bytes", seen, equals=("ok", True), clause="DIG-1")
    env.well_formed("UPL-53", "UPL-54", "UPL-55", "DIG-19", "UPL-24")


@case("sdk/upload/sha256-alone", profile="core", clauses=("DIG-3", "DIG-5", "DIG-8"))
async def sha256_alone(env: SdkEnv) -> None:
    """A server that computes SHA-256 alone is enough for a small and a large file."""
    env.gateway.settings.digests = (SHA256,)
    for name, size in (("small", KIB), ("large", MIB)):
        content = env.content(size)
        answered = await env.upload(content, name)
        env.check(
            name, (answered.outcome, env.published(name) == content), equals=("ok", True), clause="DIG-3"
        )
    refused = [call for call in env.book.of(*CONTENT_METHODS) if call.ended == "DIGEST_UNSUPPORTED"]
    env.check(
        "tries", len(refused), satisfies=("at most one for each file", lambda n: n <= 2), clause="DIG-8"
    )
    env.well_formed("DIG-5")


@case("sdk/upload/blake3", profile="core", needs=("blake3",), clauses=("DIG-1", "DIG-5"))
async def blake3(env: SdkEnv) -> None:
    """BLAKE3 is taken where caller and server have it, and its digest is that of the content."""
    env.gateway.settings.digests = (BLAKE3,)
    for name, size in (("small", KIB), ("large", MIB)):
        content = env.content(size)
        answered = await env.upload(content, name, digest="blake3")
        env.check(
            name, (answered.outcome, env.published(name) == content), equals=("ok", True), clause="DIG-1"
        )
    env.well_formed("DIG-5")


@case("sdk/upload/without-write-file", profile="core", clauses=("UPL-57", "UPL-58", "RFC-8"))
async def without_write_file(env: SdkEnv) -> None:
    """A server without WriteFile gets small files by UploadFile, and is not asked again each time."""
    env.gateway.settings.lacks = {"WriteFile"}
    content = env.content(KIB)
    for name in ("first", "second", "third"):
        answered = await env.upload(content, name, client="one")
        env.check(
            name, (answered.outcome, env.published(name) == content), equals=("ok", True), clause="UPL-57"
        )
    writes = len(env.book.of("WriteFile"))
    env.check("asked", writes, satisfies=("at most once", lambda calls: calls <= 1), clause="UPL-58")
    env.well_formed("RFC-8")


def _answered_otherwise(name: str, summary: str, change: Any, *, clause: str) -> None:
    async def run(env: SdkEnv) -> None:
        for method in CONTENT_METHODS:
            env.faults.always(method, answer(change))
        for size in (KIB, 600 * KIB):
            answered = await env.upload(env.content(size), f"file-{size}", attempts=FEW_ATTEMPTS)
            sent = len(env.book.of(*CONTENT_METHODS))
            env.check(f"sent-{size}", sent, satisfies=("content", bool), clause=clause)
            env.check(f"outcome-{size}", answered.outcome, equals="error", clause=clause)

    run.__doc__ = summary
    case(f"sdk/upload/{name}", profile="core", clauses=(clause,))(run)


def _without_digest(response: Any) -> None:
    response.file.ClearField("digest")


def _other_digest(response: Any) -> None:
    response.file.digest.CopyFrom(digest_of(b"other content", response.file.digest.algorithm))


_answered_otherwise(
    "answer-without-digest",
    "An answer without a digest is no success, of a small nor of a large file.",
    _without_digest,
    clause="UPL-44",
)
_answered_otherwise(
    "answer-with-another-digest",
    "An answer with another digest than the content's is no success, of a small nor of a large file.",
    _other_digest,
    clause="UPL-44",
)


@case("sdk/upload/early-ok", profile="core", clauses=("UPL-44", "UPL-62"))
async def early_ok(env: SdkEnv) -> None:
    """A server that answers OK in the middle of the content, for what it has, has not published the file."""

    def early(upload: Upload) -> files_pb2.UploadFileResponse:
        return env.gateway.sandbox.publish(upload, with_digest=True)

    env.faults.always("UploadFile", Fault(at="content", after_bytes=SURE_CHUNK_BYTES, answers=early))
    answered = await env.upload(env.content(4 * MIB), attempts=FEW_ATTEMPTS)
    env.check("published-a-part", env.published("remote"), satisfies=("a part", bool), clause="UPL-62")
    env.check("outcome", answered.outcome, equals="error", clause="UPL-44")


@case("sdk/upload/absent", profile="core", clauses=("CND-1", "ERR-1", "ERR-7"))
async def absent(env: SdkEnv) -> None:
    """The condition `absent` reaches the server, and its refusal reaches the program, for a small and a large file."""
    for name, size in (("small", KIB), ("large", 600 * KIB)):
        env.serve(b"there", name)
        answered = await env.upload(env.content(size), name, condition="absent")
        env.refused(
            answered, reasons=("FILE_EXISTS", "ALREADY_EXISTS"), name=f"refused-{name}", clause="ERR-7"
        )
        env.check(f"kept-{name}", env.published(name), equals=b"there", clause="CND-1")
    refused = [call.name for call in env.book.calls if call.ended == "FILE_EXISTS"]
    env.check("refusals", len(refused), equals=2, clause="ERR-1")


@case("sdk/upload/attributes", profile="core", clauses=("UPL-10", "UPL-48", "PTH-18", "UPL-41", "RSM-11"))
async def attributes(env: SdkEnv) -> None:
    """Mode, modified time, parents and durability reach the server, with a small and a large file."""
    when = 1_234_567_890_123_456_789
    for name, size in (("small", KIB), ("large", 600 * KIB)):
        await env.upload(
            env.content(size), name, mode=0o604, modified_ns=when, parents=True, durability="rename"
        )
        file = env.gateway.sandbox.files.get(name)
        env.check(f"mode-{name}", file and oct(file.mode), equals="0o604", clause="UPL-10")
        env.check(f"modified-{name}", file and file.modified_ns, equals=when, clause="UPL-48")
    metadata = [call.request.metadata for call in env.book.of(*CONTENT_METHODS)]
    parents = {one.parents for one in metadata}
    env.check("parents", parents, equals={files_pb2.PARENT_POLICY_CREATE}, clause="PTH-18")
    durability = {one.durability for one in metadata}
    env.check("durability", durability, equals={files_pb2.DURABILITY_RENAME}, clause="UPL-41")
    env.well_formed("RSM-11")


@case("sdk/upload/sparse", profile="core", clauses=("UPL-18", "UPL-26", "DIG-10"))
async def sparse(env: SdkEnv) -> None:
    """A local file with holes arrives with zeros in their places; whether they are sent is the SDK's choice."""
    path = env.local(b"begin")
    with path.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"end")
        file.truncate(4 * MIB)
    answered = await env.upload(path)
    env.check("ok", answered.outcome, equals="ok", clause="DIG-10")
    env.check("published", env.published("remote"), equals=path.read_bytes(), clause="UPL-18")
    env.well_formed("UPL-26")


@case("sdk/upload/missing-source", profile="core", clauses=("UPL-61",))
async def missing_source(env: SdkEnv) -> None:
    """A local file that does not exist is an error, and makes no file in the sandbox."""
    answered = await env.upload(env.directory / "no-such-file")
    env.check("outcome", answered.outcome, equals="error", clause="UPL-61")
    env.check("not-published", sorted(env.gateway.sandbox.files), equals=[], clause="UPL-61")


@case("sdk/upload/shrinking-source", profile="core", clauses=("UPL-61",))
async def shrinking_source(env: SdkEnv) -> None:
    """A local file that becomes shorter while it is sent is an error, and its rest is not published for the whole."""
    path = env.local(env.content(32 * MIB))

    def shrink(_: object) -> None:
        os.truncate(path, MIB)

    env.faults.add("UploadFile", Fault(at="content", after_bytes=1, then=shrink))
    answered = await env.upload(path, attempts=FEW_ATTEMPTS)
    env.check("outcome", answered.outcome, equals="error", clause="UPL-61")
    await env.settled()
    finishes = [len(call.payloads("finish")) for call in env.book.of("UploadFile")]
    env.check("finishes", sum(finishes), equals=0, clause="UPL-61")
    env.check("not-published", env.published("remote"), equals=None, clause="UPL-61")
