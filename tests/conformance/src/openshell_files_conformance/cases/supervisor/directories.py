"""Listing, making, removing, moving and copying entries."""

from __future__ import annotations

from typing import Any

from openshell_files_conformance.pb.openshell.v1 import directories_pb2, files_pb2, trees_pb2
from openshell_files_conformance.peers.operation import OK, Outcome
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.registry import case

_NEEDS = ("directories",)
_CREATE = files_pb2.PARENT_POLICY_CREATE
#: More than an agent removes or copies before it hears that nobody wants it.
_MANY = 12_000
_REPLACE = directories_pb2.REPLACE_POLICY_FILE


def _bytes(path: str | bytes) -> bytes:
    return path if isinstance(path, bytes) else path.encode()


async def listing(env: SupervisorEnv, path: str | bytes, **fields: Any) -> Outcome:
    """List a directory."""
    return await env.call(list_directory=directories_pb2.ListDirectoryRequest(path=_bytes(path), **fields))


async def make(env: SupervisorEnv, path: str | bytes, **fields: Any) -> Outcome:
    """Make a directory."""
    return await env.call(make_directory=directories_pb2.MakeDirectoryRequest(path=_bytes(path), **fields))


async def remove(env: SupervisorEnv, path: str | bytes, **fields: Any) -> Outcome:
    """Remove an entry."""
    return await env.call(remove_path=directories_pb2.RemovePathRequest(path=_bytes(path), **fields))


async def move(env: SupervisorEnv, source: str, destination: str, **fields: Any) -> Outcome:
    """Move an entry."""
    request = directories_pb2.MovePathRequest(
        source=_bytes(source), destination=_bytes(destination), **fields
    )
    return await env.call(move_path=request)


async def copy(env: SupervisorEnv, source: str, destination: str, **fields: Any) -> Outcome:
    """Copy an entry."""
    request = directories_pb2.CopyPathRequest(
        source=_bytes(source), destination=_bytes(destination), **fields
    )
    return await env.call(copy_path=request)


def names(done: Outcome) -> list[bytes]:
    """Return the names of a listing."""
    return [entry.name for entry in done.answer.entries] if done.ok else [done.reason.encode()]


async def small_tree(env: SupervisorEnv, top: str = "top") -> str:
    """Make a directory with files, a hard link, and a link that leads out of it."""
    path = env.path(top)
    await env.files.mkdir(f"{path}/d/e")
    await env.files.write(f"{path}/a", b"aa", mode=0o640, modified_ns=1_000_000_001)
    await env.files.write(f"{path}/d/f", b"f")
    await env.files.hard_link(f"{path}/d/g", f"{path}/a")
    await env.files.link(f"{path}/l", "../outside")
    await env.files.mkdir(env.path("outside"))
    await env.files.write(env.path("outside/secret"), b"secret")
    return path


@case("supervisor/directories/hello", profile="core", clauses=("DIR-1", "TRE-1", "RFC-7"))
async def hello(env: SupervisorEnv) -> None:
    """A supervisor that announces an option serves it; one that does not says so, and changes nothing."""
    tree = trees_pb2.UploadTreeStart(path=env.path("tree").encode())
    relay = await env.relay()
    await relay.begin(env.opening(upload_tree=tree))
    first = await relay.next()
    kind = first.WhichOneof("frame") if first is not None else None
    env.check("trees", kind != "error", equals=env.has("trees"), clause="TRE-1")
    relay = await env.begin_upload(env.path("archive"), is_archive=True)
    first = await relay.next()
    wanted = "" if env.has("archives") else "ARCHIVE_UNSUPPORTED"
    env.check("archives", first.error.reason if first is not None else None, equals=wanted, clause="RFC-7")
    done = await make(env, env.path("made"))
    if env.has("directories"):
        env.check("served", done.reason, equals=OK, clause="DIR-1")
        return
    env.check("refused", done.kind, equals="error", clause="DIR-1")
    env.check("nothing-changed", await env.files.exists(env.path("made")), equals=False, clause="DIR-1")


@case("supervisor/directories/listed", profile="core", clauses=("DIR-3", "DIR-4"), needs=_NEEDS)
async def listed(env: SupervisorEnv) -> None:
    """Entries come in the order of their names' bytes, described as by StatFile without following."""
    top = await small_tree(env)
    await env.files.special(f"{top}/fifo", "fifo")
    await env.files.write(top.encode() + b"/\xff\xfe", b"")
    done = await listing(env, top)
    env.require("order", names(done), equals=[b"a", b"d", b"fifo", b"l", b"\xff\xfe"], clause="DIR-4")
    kinds = [entry.type for entry in done.answer.entries]
    env.check("types", kinds, equals=[1, 2, 4, 3, 1], clause="DIR-3")
    first, link = done.answer.entries[0], done.answer.entries[3]
    seen = (first.size_bytes, first.mode & 0o7777, first.modified_time.ToNanoseconds())
    env.check("file", seen, equals=(2, 0o640, 1_000_000_001), clause="DIR-3")
    env.check("link", link.link_target, equals=b"../outside", clause="DIR-3")
    told = await env.stat(f"{top}/a", leaf_link=files_pb2.LEAF_LINK_POLICY_NOFOLLOW)
    env.check("version", first.version, equals=told.answer.file.version, clause="DIR-3")
    env.check("directory", done.answer.directory.path, equals=top, clause="DIR-3")


@case(
    "supervisor/directories/listed-recursively",
    profile="core",
    clauses=("DIR-4", "DIR-9", "DIR-8"),
    needs=_NEEDS,
)
async def listed_recursively(env: SupervisorEnv) -> None:
    """A recursive listing has a directory before its content, follows no link, and has no staging files."""
    top = await small_tree(env)
    await env.files.write(f"{top}/d/.openshell-upload-zq", b"")
    done = await listing(env, top, recursive=True)
    env.check("order", names(done), equals=[b"a", b"d", b"d/e", b"d/f", b"d/g", b"l"], clause="DIR-4")
    env.check(
        "no-link-followed",
        [name for name in names(done) if name.startswith(b"l/")],
        equals=[],
        clause="DIR-9",
    )
    env.check(
        "no-staging-files",
        [name for name in names(done) if b"openshell-upload" in name],
        equals=[],
        clause="DIR-8",
    )


@case("supervisor/directories/pages", profile="core", clauses=("DIR-4", "DIR-28"), needs=_NEEDS)
async def pages(env: SupervisorEnv) -> None:
    """Pages go on behind the last name, whether that entry still exists or not, and have each entry once."""
    await env.files.mkdir(env.path("many"))
    for number in range(25):
        await env.files.write(env.path(f"many/{number:02}"), b"")
    found: list[bytes] = []
    token, sizes = b"", list[int]()
    while True:
        done = await listing(env, env.path("many"), page_size=10, page_token=token)
        env.require(f"page-{len(sizes)}", done.reason, equals=OK, clause="DIR-4")
        sizes.append(len(done.answer.entries))
        found += names(done)
        token = done.answer.next_page_token
        if not token or len(sizes) > 30:
            break
        await env.files.remove(env.path(f"many/{found[-1].decode()}"))
    env.check("each-once", found, equals=[b"%02d" % number for number in range(25)], clause="DIR-4")
    env.check("sizes", max(sizes), satisfies=("at most 10", lambda size: size <= 10), clause="DIR-28")


@case("supervisor/directories/large-pages", profile="core", clauses=("DIR-28",), needs=_NEEDS, timeout=30)
async def large_pages(env: SupervisorEnv) -> None:
    """A page has 1000 entries if nothing is said, and fits into 1 MiB, however long the names are."""
    await env.files.mkdir(env.path("many"))
    long = "n" * 240
    for number in range(1100):
        await env.files.write(env.path(f"many/{long}{number:04}"), b"")
    done = await listing(env, env.path("many"))
    env.require("reason", done.reason, equals=OK, clause="DIR-28")
    env.check(
        "default",
        len(done.answer.entries),
        satisfies=("at most 1000", lambda count: 0 < count <= 1000),
        clause="DIR-28",
    )
    more = await listing(env, env.path("many"), page_size=100_000)
    env.require("more", more.reason, equals=OK, clause="DIR-28")
    env.check(
        "fits",
        more.answer.ByteSize(),
        satisfies=("at most 1 MiB", lambda size: size <= 1 << 20),
        clause="DIR-28",
    )
    env.check(
        "at-most",
        len(more.answer.entries),
        satisfies=("at most 10000", lambda count: count <= 10_000),
        clause="DIR-28",
    )


@case(
    "supervisor/directories/unreadable",
    profile="core",
    clauses=("DIR-7",),
    needs=("directories", "unprivileged"),
)
async def unreadable(env: SupervisorEnv) -> None:
    """A directory that cannot be listed is an entry with a reason, never one that seems empty."""
    await env.files.mkdir(env.path("top/closed"))
    await env.files.deny(env.path("top/closed"))
    done = await listing(env, env.path("top"), recursive=True)
    env.require("reason", done.reason, equals=OK, clause="DIR-7")
    reasons = [(entry.name, entry.reason) for entry in done.answer.entries]
    env.check("named", reasons, equals=[(b"closed", "ACCESS_DENIED")], clause="DIR-7")


@case("supervisor/directories/paths", profile="core", clauses=("DIR-2", "PTH-24"), needs=_NEEDS)
async def paths(env: SupervisorEnv) -> None:
    """Paths are bytes, a slash at the end means a directory, and a destination has none."""
    odd = env.home.encode() + b"/\xff\x80"
    env.check("made", (await make(env, odd)).reason, equals=OK, clause="DIR-2")
    env.check("there", (await env.files.entry(odd)) is not None, equals=True, clause="DIR-2")
    await env.files.write(env.path(), b"x")
    slash = await listing(env, env.path() + "/")
    env.check("slash-at-a-file", slash.reason, equals="NOT_A_DIRECTORY", clause="PTH-24")
    for name, path in (
        ("dots", env.path("../x")),
        ("nul", env.path("a\0b")),
        ("long", env.path("n" * 256)),
        ("empty", ""),
    ):
        done = await make(env, path)
        env.check(name, done.reason, equals="INVALID_PATH", clause="DIR-2")
    moved = await move(env, env.path(), env.path("other") + "/")
    env.check("destination-with-slash", moved.reason, equals="INVALID_PATH", clause="DIR-2")
    env.check("not-moved", await env.files.read(env.path()), equals=b"x", clause="DIR-2")


@case(
    "supervisor/directories/made",
    profile="core",
    clauses=("DIR-14", "DIR-15", "PTH-16", "PTH-18"),
    needs=_NEEDS,
)
async def made(env: SupervisorEnv) -> None:
    """A directory is made with its mode; one that is there is FILE_EXISTS, or a success with exist_ok, and stays as it is."""
    done = await make(env, env.path("made"), mode=0o4750)
    env.require("reason", done.reason, equals=OK, clause="DIR-15")
    env.check("created", done.answer.created, equals=True, clause="DIR-14")
    entry = await env.files.entry(env.path("made"))
    env.check("mode", entry.mode if entry else None, equals=0o750, clause="DIR-15")
    again = await make(env, env.path("made"))
    env.check("again", again.reason, equals="FILE_EXISTS", clause="DIR-14")
    fine = await make(env, env.path("made"), mode=0o700, exist_ok=True)
    env.check("exist-ok", (fine.reason, fine.ok and fine.answer.created), equals=(OK, False), clause="DIR-14")
    env.check("as-it-was", await env.files.entry(env.path("made")), equals=entry, clause="DIR-14")
    await env.files.write(env.path(), b"x")
    for name in ("file", "link"):
        if name == "link":
            await env.files.link(env.path("link"), "file")
        there = await make(env, env.path(name), exist_ok=True)
        env.check(f"exist-ok-{name}", there.reason, equals="FILE_EXISTS", clause="DIR-14")
    await env.files.link(env.path("to-directory"), "made")
    behind = await make(env, env.path("to-directory"), exist_ok=True)
    env.check("behind-a-link", behind.reason, equals=OK, clause="DIR-14")
    missing = await make(env, env.path("no/where"))
    env.check("parent", missing.reason, equals="PARENT_NOT_FOUND", clause="PTH-16")
    parents = await make(env, env.path("with/parents"), parents=_CREATE)
    env.check("with-parents", parents.reason, equals=OK, clause="PTH-18")
