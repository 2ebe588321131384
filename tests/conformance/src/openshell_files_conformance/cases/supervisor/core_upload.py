"""Uploads into the sandbox: what is published, when, and what never is."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from openshell_files_conformance.cases.supervisor.settled import nothing_staged
from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.operation import OK, RELAY_ENDED, data, digest, finish, hole
from openshell_files_conformance.peers.supervisor_env import CHUNK_BYTES, SupervisorEnv
from openshell_files_conformance.peers.waiting import until
from openshell_files_conformance.registry import case

_OLD = b"the old file"
_NEW = b"conformance\n" * 40_000


@case("supervisor/upload/published", profile="core", clauses=("UPL-3", "UPL-12", "UPL-42", "UPL-51"))
async def published(env: SupervisorEnv) -> None:
    """A file with an explicit finish is published under its path, whole, and the answer describes it."""
    done = await env.upload(env.path(), _NEW)
    env.require("reason", done.reason, equals=OK, clause="UPL-3")
    env.check("content", await env.files.read(env.path()), equals=_NEW, clause="UPL-3")
    env.check("bytes-written", done.answer.bytes_written, equals=len(_NEW), clause="UPL-12")
    told, entry = done.answer.file, await env.files.entry(env.path())
    env.check("path", told.path, equals=env.path(), clause="UPL-42")
    env.check("type", told.type, equals=files_pb2.FILE_TYPE_REGULAR, clause="UPL-42")
    env.check("size", told.size_bytes, equals=len(_NEW), clause="UPL-42")
    env.check("mode", told.mode & 0o7777, equals=entry.mode if entry else None, clause="UPL-42")
    modified = told.modified_time.ToNanoseconds()
    env.check("modified", modified, equals=entry.modified_ns if entry else None, clause="UPL-42")
    env.check("digest", told.digest, equals=digest(_NEW), clause="UPL-42")
    env.check("owner", entry.uid if entry else None, equals=await env.agent_uid(), clause="UPL-51")


@case("supervisor/upload/relative-path", profile="rfc", clauses=("PTH-10", "PTH-1"))
async def relative_path(env: SupervisorEnv) -> None:
    """A relative path starts at the working directory, and names the file itself."""
    relative = env.path().removeprefix(env.target.workdir).lstrip("/")
    relay = await env.begin_upload(relative, explicit_finish=False, size_bytes=3)
    await relay.upload(files_pb2.UploadFileRequest(chunk=b"abc"))
    await relay.input_end()
    done = await relay.outcome()
    env.check("reason", done.reason, equals=OK, clause="PTH-10")
    env.check("content", await env.files.read(env.path()), equals=b"abc", clause="PTH-10")
    directory = await env.begin_upload(env.home, explicit_finish=False, size_bytes=0)
    await directory.input_end()
    env.check("directory", (await directory.outcome()).reason, equals="IS_A_DIRECTORY", clause="PTH-1")


@case("supervisor/upload/version-of-the-answer", profile="core", clauses=("UPL-42",))
async def version_of_the_answer(env: SupervisorEnv) -> None:
    """The version in the answer is the one that StatFile gives while nothing changes the file."""
    done = await env.upload(env.path(), _NEW)
    env.require("reason", done.reason, equals=OK, clause="UPL-42")
    told = await env.stat(env.path())
    env.require("stat", told.reason, equals=OK, clause="UPL-42")
    env.check("version", done.answer.file.version, equals=told.answer.file.version, clause="UPL-42")
    await env.files.write(env.path(), _OLD)
    changed = await env.stat(env.path())
    env.check(
        "version-changes",
        changed.answer.file.version,
        satisfies=("another version", lambda version: version and version != told.answer.file.version),
        clause="UPL-42",
    )


@case("supervisor/upload/refused-while-sending", profile="core", clauses=("UPL-13", "UPL-5"))
async def refused_while_sending(env: SupervisorEnv) -> None:
    """A refusal comes at once, while the caller has neither finished nor half-closed."""
    relay = await env.begin_upload(env.path())
    await relay.upload(data(0, b"a" * 10), data(20, b"b" * 10))
    done = await relay.outcome()
    env.check("reason", done.reason, equals="OFFSET_MISMATCH", clause="UPL-5")
    env.check("while-sending", done.kind, equals="error", clause="UPL-13")


@case("supervisor/upload/refused-before-content", profile="core", clauses=("UPL-13", "PTH-4"))
async def refused_before_content(env: SupervisorEnv) -> None:
    """An upload to a directory is refused without a byte of content."""
    relay = await env.begin_upload(env.home)
    done = await relay.outcome()
    env.check("reason", done.reason, equals="IS_A_DIRECTORY", clause="PTH-4")
    env.check("before-content", done.kind, equals="error", clause="UPL-13")


@case("supervisor/upload/chunk-of-256-kib", profile="core", clauses=("UPL-6",))
async def chunk_of_256_kib(env: SupervisorEnv) -> None:
    """A chunk of 256 KiB is taken, as `data` and as `chunk`."""
    content = bytes(range(256)) * 1024
    done = await env.upload(env.path("data"), content)
    env.check("data", done.reason, equals=OK, clause="UPL-6")
    relay = await env.begin_upload(env.path("chunk"))
    await relay.upload(files_pb2.UploadFileRequest(chunk=content), finish(content))
    await relay.input_end()
    env.check("chunk", (await relay.outcome()).reason, equals=OK, clause="UPL-6")
    env.check("content", await env.files.read(env.path("chunk")), equals=content, clause="UPL-6")


@case("supervisor/upload/chunk-beyond-the-limit", profile="core", clauses=("UPL-24",))
async def chunk_beyond_the_limit(env: SupervisorEnv) -> None:
    """A chunk of the gateway's limit is taken, and one byte more is refused, as `data` and as `chunk`."""
    for name, size, wanted in (
        ("of-the-limit", CHUNK_BYTES, "UPLOAD_INCOMPLETE"),
        ("beyond", CHUNK_BYTES + 1, "CHUNK_TOO_LARGE"),
    ):
        content = bytes(size)
        for kind in ("data", "chunk"):
            relay = await env.begin_upload(env.path(), opening={"max_chunk_bytes": CHUNK_BYTES})
            message = data(0, content) if kind == "data" else files_pb2.UploadFileRequest(chunk=content)
            await relay.upload(message)
            with suppress(CannotGoOnError):
                await relay.input_end()
            done = await relay.outcome()
            env.check(f"{kind}-{name}", done.reason, equals=wanted, clause="UPL-24")
    env.check("nothing-published", await env.files.exists(env.path()), equals=False, clause="UPL-24")


@case("supervisor/upload/declared-too-large", profile="core", clauses=("UPL-27",))
async def declared_too_large(env: SupervisorEnv) -> None:
    """A declared size beyond the limit is refused before any content."""
    relay = await env.begin_upload(env.path(), opening={"limits": {"max_file_bytes": 1000}}, size_bytes=1001)
    done = await relay.outcome()
    env.check("reason", done.reason, equals="FILE_TOO_LARGE", clause="UPL-27")
    env.check("limit", done.metadata.get("max_file_bytes"), equals="1000", clause="UPL-27")


@case("supervisor/upload/sparse", profile="core", clauses=("UPL-18",))
async def sparse(env: SupervisorEnv) -> None:
    """A hole of 16 MiB becomes zeros, and takes no storage where the file system can keep holes."""
    size, tail = 16 << 20, b"the end"
    relay = await env.begin_upload(env.path())
    whole = bytes(size) + tail
    await relay.upload(hole(0, size), data(size, tail), finish(whole))
    await relay.input_end()
    done = await relay.outcome()
    env.require("reason", done.reason, equals=OK, clause="UPL-18")
    entry = await env.files.entry(env.path())
    env.check("size", entry.size if entry else None, equals=len(whole), clause="UPL-18")
    env.check(
        "storage",
        entry.allocated if entry else None,
        satisfies=("less than a MiB", lambda allocated: allocated is not None and allocated < 1 << 20),
        clause="UPL-18",
    )


@case("supervisor/upload/old-or-new", profile="resume", clauses=("UPL-8", "UPL-36"))
async def old_or_new(env: SupervisorEnv) -> None:
    """The old file stays, whole, until the finish; the content is staged beside it meanwhile, and one rename replaces it."""
    await env.files.write(env.path(), _OLD)
    before = await env.files.entry(env.path())
    # Only what can be resumed has to have a name while it is staged.
    relay = await env.begin_upload(env.path(), request_id=env.fresh_name("request"))
    await relay.upload(data(0, _NEW[:CHUNK_BYTES]))
    await relay.until("accepted")
    staged = await nothing_staged(env, wanted=False)
    env.check("staged-beside", staged, equals=True, clause="UPL-36")
    names = await env.left()
    env.check(
        "in-the-same-directory",
        [name for name in names if b"/" in name],
        equals=[],
        clause="UPL-36",
    )
    env.check("old-while-sending", await env.files.read(env.path()), equals=_OLD, clause="UPL-8")
    await relay.upload(data(CHUNK_BYTES, _NEW[CHUNK_BYTES:]))
    await relay.upload(finish(_NEW))
    seen = set[bytes | None]()
    # The reader looks for as long as the agent verifies and publishes.
    while not relay.relay.ended.is_set():
        seen.add(await env.files.read(env.path()))
        if (await relay.next()) is None:
            break
    seen.add(await env.files.read(env.path()))
    env.check("old-or-new", seen <= {_OLD, _NEW} and _NEW in seen, equals=True, clause="UPL-8")
    after = await env.files.entry(env.path())
    env.check(
        "another-file",
        after and before and after.inode != before.inode,
        equals=True,
        clause="UPL-36",
    )
    env.check("nothing-left", await env.left(), equals=[], clause="UPL-36")


@case("supervisor/upload/two-writers", profile="core", clauses=("UPL-8",))
async def two_writers(env: SupervisorEnv) -> None:
    """Of two uploads to one path at the same time each is whole, and the later finish stays."""
    first, second = b"1" * len(_NEW), b"2" * len(_NEW)
    one = await env.begin_upload(env.path())
    two = await env.begin_upload(env.path())
    for start in range(0, len(first), CHUNK_BYTES):
        await one.upload(data(start, first[start : start + CHUNK_BYTES]))
        await two.upload(data(start, second[start : start + CHUNK_BYTES]))
    await one.upload(finish(first))
    await one.input_end()
    env.check("first", (await one.outcome()).reason, equals=OK, clause="UPL-8")
    env.check("first-content", await env.files.read(env.path()) == first, equals=True, clause="UPL-8")
    await two.upload(finish(second))
    await two.input_end()
    env.check("second", (await two.outcome()).reason, equals=OK, clause="UPL-8")
    env.check("second-content", await env.files.read(env.path()) == second, equals=True, clause="UPL-8")
    env.check("nothing-left", await env.left(), equals=[], clause="UPL-8")


@case("supervisor/upload/cancelled-after-the-finish", profile="core", clauses=("UPL-35",))
async def cancelled_after_the_finish(env: SupervisorEnv) -> None:
    """A cancellation behind the finish does not undo it."""
    relay = await env.begin_upload(env.path())
    await relay.upload(data(0, b"content"), finish(b"content"))
    await relay.input_end(cancelled=True)
    done = await relay.outcome()
    # Nobody waits for the answer, so an agent may also leave it out.
    env.check("reason", done.reason, one_of=(OK, RELAY_ENDED), clause="UPL-35")
    await nothing_staged(env)
    env.check("content", await env.files.read(env.path()), equals=b"content", clause="UPL-35")


@case("supervisor/upload/durability", profile="core", clauses=("UPL-9", "UPL-40", "UPL-41"))
async def durability(env: SupervisorEnv) -> None:
    """The answer names the durability that was reached; the default is FSYNC."""
    default = await env.upload(env.path("default"), b"x")
    env.require("default", default.reason, equals=OK, clause="UPL-40")
    env.check(
        "default-durability", default.answer.durability, equals=files_pb2.DURABILITY_FSYNC, clause="UPL-40"
    )
    asked = await env.upload(env.path("fsync"), b"x", durability=files_pb2.DURABILITY_FSYNC)
    env.check(
        "fsync", asked.ok and asked.answer.durability, equals=files_pb2.DURABILITY_FSYNC, clause="UPL-9"
    )
    quick = await env.upload(env.path("rename"), b"x", durability=files_pb2.DURABILITY_RENAME)
    reached = (files_pb2.DURABILITY_RENAME, files_pb2.DURABILITY_FSYNC)
    env.check("rename", quick.ok and quick.answer.durability, one_of=reached, clause="UPL-41")


@case("supervisor/upload/changed-while-staged", profile="resume", clauses=("UPL-37",))
async def changed_while_staged(env: SupervisorEnv) -> None:
    """A staging file that another process changed is not published, whether its size is the same or not."""
    content = b"a" * CHUNK_BYTES
    changes = {
        "bytes": (b"b" * CHUNK_BYTES, ("DIGEST_MISMATCH",)),
        "size": (b"a" * 10, ("SIZE_MISMATCH", "DIGEST_MISMATCH")),
    }
    for name, (other, wanted) in changes.items():
        directory = env.path(name)
        await env.files.mkdir(directory)
        relay = await env.begin_upload(f"{directory}/file", request_id=env.fresh_name("request"))
        await relay.upload(data(0, content))
        if not await nothing_staged(env, wanted=False):
            env.untestable(name, "no staging file appears beside the destination", clause="UPL-37")
            continue
        # The staging file is complete once the agent took a message behind the content.
        staged = f"{directory}/{(await env.files.staging(directory))[0].decode()}"
        await until(
            partial(_has, env, staged, len(content)), "the content is in the staging file", env.scaled(5)
        )
        await env.files.write(staged, other)
        await relay.upload(data(len(content), content), finish(content * 2))
        await relay.input_end()
        done = await relay.outcome()
        env.check(name, done.reason, one_of=wanted, clause="UPL-37")
        env.check(
            f"{name}-not-published",
            await env.files.exists(f"{directory}/file"),
            equals=False,
            clause="UPL-37",
        )


async def _has(env: SupervisorEnv, path: str, size: int) -> bool:
    entry = await env.files.entry(path)
    return entry is not None and entry.size >= size
