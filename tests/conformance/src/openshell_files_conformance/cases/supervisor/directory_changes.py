"""Removing, moving and copying entries."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from openshell_files_conformance.cases.supervisor.directories import copy, move, remove, small_tree
from openshell_files_conformance.cases.supervisor.settled import nothing_staged
from openshell_files_conformance.pb.openshell.v1 import directories_pb2, file_relay_pb2, files_pb2
from openshell_files_conformance.peers.operation import OK, FileRelay, Request
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.peers.waiting import holds
from openshell_files_conformance.registry import case

_NEEDS = ("directories",)
#: More than an agent removes or copies before it hears that nobody wants it.
_MANY = 12_000
_REPLACE = directories_pb2.REPLACE_POLICY_FILE


@case("supervisor/directories/removed", profile="core", clauses=("DIR-10", "DIR-13", "DIR-19"), needs=_NEEDS)
async def removed(env: SupervisorEnv) -> None:
    """A link is removed itself, a directory with entries only recursively, and nothing outside of it."""
    top = await small_tree(env)
    refused = await remove(env, top)
    env.check("not-empty", refused.reason, equals="DIRECTORY_NOT_EMPTY", clause="DIR-13")
    link = await remove(env, f"{top}/l")
    env.check("link", (link.reason, link.ok and link.answer.removed_entries), equals=(OK, 1), clause="DIR-10")
    env.check(
        "target-stays", await env.files.read(env.path("outside/secret")), equals=b"secret", clause="DIR-10"
    )
    await env.files.link(f"{top}/d/out", "../../outside")
    await env.files.write(f"{top}/.openshell-upload-zq", b"")
    other = await remove(env, top, recursive=True, if_version="other")
    env.check("version", other.reason, equals="CONDITION_FAILED", clause="DIR-19")
    done = await remove(env, top, recursive=True)
    # The top, a, d, d/e, d/f, d/g and d/out; staging files do not count.
    env.check(
        "recursive", (done.reason, done.ok and done.answer.removed_entries), equals=(OK, 7), clause="DIR-13"
    )
    env.check("gone", await env.files.exists(top), equals=False, clause="DIR-10")
    env.check(
        "outside-stays", await env.files.read(env.path("outside/secret")), equals=b"secret", clause="DIR-10"
    )
    missing = await remove(env, top)
    env.check("missing", missing.reason, equals="FILE_NOT_FOUND", clause="DIR-19")
    fine = await remove(env, top, missing_ok=True)
    env.check(
        "missing-ok", (fine.reason, fine.ok and fine.answer.removed_entries), equals=(OK, 0), clause="DIR-19"
    )


@case("supervisor/directories/only-staging-files", profile="core", clauses=("DIR-13",), needs=_NEEDS)
async def only_staging_files(env: SupervisorEnv) -> None:
    """Staging files are entries for the question whether a directory is empty."""
    await env.files.mkdir(env.path("top"))
    await env.files.write(env.path("top/.openshell-upload-zq"), b"")
    done = await remove(env, env.path("top"))
    env.check("reason", done.reason, equals="DIRECTORY_NOT_EMPTY", clause="DIR-13")


@case(
    "supervisor/directories/removal-fails",
    profile="core",
    clauses=("DIR-17",),
    needs=("directories", "unprivileged"),
)
async def removal_fails(env: SupervisorEnv) -> None:
    """A removal that fails says how much is gone, and what could not be removed."""
    await env.files.write(env.path("a"), b"")
    await env.files.mkdir(env.path("top/closed/inner"))
    await env.files.write(env.path("top/closed/inner/file"), b"")
    await env.files.deny(env.path("top/closed"))
    done = await remove(env, env.path("top"), recursive=True)
    env.check("reason", done.reason, equals="ACCESS_DENIED", clause="DIR-17")
    env.check(
        "path",
        done.metadata.get("path", ""),
        satisfies=("the closed directory", lambda path: "closed" in path),
        clause="DIR-17",
    )
    env.check("count", done.metadata.get("removed_entries"), equals="0", clause="DIR-17")


@case("supervisor/directories/removal-is-left", profile="core", clauses=("DIR-18",), needs=_NEEDS, timeout=30)
async def removal_is_left(env: SupervisorEnv) -> None:
    """A removal of 12000 entries stops on its way when its caller leaves, and when its relay ends."""
    for way in ("cancelled", "ended"):
        top = env.path(way)
        await env.files.many(top, _MANY)
        relay = await env.relay()
        request = directories_pb2.RemovePathRequest(path=top.encode(), recursive=True)
        await relay.begin(env.opening(remove_path=request))
        await _leave(relay, way)
        counts: list[int] = []

        async def quiet(top: str = top, counts: list[int] = counts) -> bool:
            counts.append(await env.files.count(top))
            return len(counts) > 20 and len(set(counts[-20:])) == 1

        await holds(quiet, env.scaled(10))
        env.check(way, counts[-1], satisfies=("more than 0 entries", lambda left: left > 0), clause="DIR-18")


async def _leave(relay: FileRelay, way: str) -> None:
    if way == "cancelled":
        await relay.input_end(cancelled=True)
    else:
        relay.relay.end()


@case("supervisor/directories/moved", profile="core", clauses=("DIR-20", "DIR-21", "DIR-22"), needs=_NEEDS)
async def moved(env: SupervisorEnv) -> None:
    """A move is one rename: of a link itself, of a directory with its content; nothing is replaced unless that is asked for."""
    top = await small_tree(env)
    before = await env.files.tree(top)
    done = await move(env, top, env.path("moved"))
    env.require("reason", done.reason, equals=OK, clause="DIR-20")
    env.check("content", await env.files.tree(env.path("moved")), equals=before, clause="DIR-20")
    env.check(
        "path",
        (done.answer.file.path, done.answer.replaced),
        equals=(env.path("moved"), False),
        clause="DIR-20",
    )
    link = await move(env, env.path("moved/l"), env.path("link"))
    entry = await env.files.entry(env.path("link"))
    env.check(
        "link", (link.reason, entry.target if entry else None), equals=(OK, b"../outside"), clause="DIR-20"
    )
    await env.files.write(env.path("one"), b"one")
    await env.files.write(env.path("two"), b"two")
    kept = await move(env, env.path("one"), env.path("two"))
    env.check("not-replaced", kept.reason, equals="FILE_EXISTS", clause="DIR-21")
    env.check("stays", await env.files.read(env.path("two")), equals=b"two", clause="DIR-21")
    both = files_pb2.UploadCondition(absent=Empty())
    absent = await move(env, env.path("one"), env.path("two"), condition=both)
    env.check("absent", absent.reason, equals="FILE_EXISTS", clause="DIR-21")
    other = files_pb2.UploadCondition(version="other")
    failed = await move(env, env.path("one"), env.path("two"), condition=other, replace=_REPLACE)
    env.check("condition", failed.reason, equals="CONDITION_FAILED", clause="DIR-21")
    replaced = await move(env, env.path("one"), env.path("two"), replace=_REPLACE)
    env.check(
        "replaced",
        (replaced.reason, replaced.ok and replaced.answer.replaced),
        equals=(OK, True),
        clause="DIR-21",
    )
    env.check("new", await env.files.read(env.path("two")), equals=b"one", clause="DIR-21")
    inside = await move(env, env.path("moved"), env.path("moved/d/inner"))
    env.check(
        "inside-itself",
        (inside.reason, inside.fields),
        equals=("INVALID_REQUEST", ["destination"]),
        clause="DIR-22",
    )
    itself = await move(env, env.path("two"), env.path("two"), replace=_REPLACE)
    env.check(
        "onto-itself",
        (itself.reason, itself.fields),
        equals=("INVALID_REQUEST", ["destination"]),
        clause="DIR-22",
    )


@case("supervisor/directories/moved-over-directories", profile="core", clauses=("DIR-21",), needs=_NEEDS)
async def moved_over_directories(env: SupervisorEnv) -> None:
    """A directory replaces an empty one, and none that has entries; a file replaces no directory."""
    await env.files.mkdir(env.path("source/inner"))
    await env.files.mkdir(env.path("empty"))
    await env.files.mkdir(env.path("full/inner"))
    await env.files.write(env.path("a"), b"a")
    full = await move(env, env.path("source"), env.path("full"), replace=_REPLACE)
    env.check("full", full.reason, equals="DIRECTORY_NOT_EMPTY", clause="DIR-21")
    over = await move(env, env.path("a"), env.path("empty"), replace=_REPLACE)
    env.check("file-over-directory", over.reason, one_of=("IS_A_DIRECTORY", "FILE_EXISTS"), clause="DIR-21")
    done = await move(env, env.path("source"), env.path("empty"), replace=_REPLACE)
    env.check("empty", done.reason, equals=OK, clause="DIR-21")
    env.check("content", sorted(await env.files.tree(env.path("empty"))), equals=[b"inner"], clause="DIR-21")


@case("supervisor/directories/copied", profile="core", clauses=("DIR-24", "DIR-23"), needs=_NEEDS)
async def copied(env: SupervisorEnv) -> None:
    """The copy of a directory keeps bits, times, links and hard links, and leaves staging files out."""
    top = await small_tree(env)
    await env.files.write(f"{top}/.openshell-upload-zq", b"")
    await env.files.chmod(f"{top}/d", 0o750)
    for name in ("d/e", "d", ""):
        await env.files.touch(f"{top}/{name}", 1_234_567_890_000_000_001)
    done = await copy(env, top, env.path("copy"), recursive=True)
    env.require("reason", done.reason, equals=OK, clause="DIR-24")
    source, found = await env.files.tree(top), await env.files.tree(env.path("copy"))
    source.pop(b".openshell-upload-zq")
    env.check("names", sorted(found), equals=sorted(source), clause="DIR-24")
    unlike = [
        name
        for name, entry in found.items()
        if (entry.kind, entry.mode, entry.target, entry.size if entry.kind == "file" else 0)
        != (
            source[name].kind,
            source[name].mode,
            source[name].target,
            source[name].size if entry.kind == "file" else 0,
        )
        or (entry.kind != "link" and entry.modified_ns != source[name].modified_ns)
    ]
    env.check("attributes", unlike, equals=[], clause="DIR-24")
    env.check("hard-link", found[b"a"].inode == found[b"d/g"].inode, equals=True, clause="DIR-24")
    env.check("its-own", found[b"a"].inode != source[b"a"].inode, equals=True, clause="DIR-24")
    env.check("entries", done.answer.copied_entries, equals=len(found) + 1, clause="DIR-24")
    again = await copy(env, top, env.path("copy"), recursive=True)
    env.check("destination-exists", again.reason, equals="FILE_EXISTS", clause="DIR-24")
    flat = await copy(env, top, env.path("flat"))
    env.check("not-recursive", flat.reason, equals="IS_A_DIRECTORY", clause="DIR-24")
    env.check("nothing-left", await env.files.staging(env.path("copy")), equals=[], clause="DIR-23")


@case(
    "supervisor/directories/copied-file",
    profile="core",
    clauses=("DIR-25", "DIR-26", "DIR-21", "DIR-22"),
    needs=_NEEDS,
)
async def copied_file(env: SupervisorEnv) -> None:
    """The copy of a file keeps bits, time and holes; a link as the source is refused, followed, or copied itself."""
    await env.files.write(env.path("a"), b"content", mode=0o640, modified_ns=1_000_000_001)
    done = await copy(env, env.path("a"), env.path("b"))
    env.require("reason", done.reason, equals=OK, clause="DIR-25")
    entry = await env.files.entry(env.path("b"))
    seen = (entry.mode, entry.modified_ns, entry.size) if entry else None
    env.check("attributes", seen, equals=(0o640, 1_000_000_001, 7), clause="DIR-25")
    env.check("content", await env.files.read(env.path("b")), equals=b"content", clause="DIR-25")
    env.check("bytes", done.answer.copied_bytes, equals=7, clause="DIR-25")
    await env.files.link(env.path("l"), "a")
    refused = await copy(env, env.path("l"), env.path("c"))
    env.check("link", refused.reason, equals="LEAF_IS_LINK", clause="DIR-26")
    followed = await copy(env, env.path("l"), env.path("c"), leaf_link=files_pb2.LEAF_LINK_POLICY_FOLLOW)
    env.check(
        "followed",
        (followed.reason, await env.files.read(env.path("c"))),
        equals=(OK, b"content"),
        clause="DIR-26",
    )
    itself = await copy(env, env.path("l"), env.path("m"), leaf_link=files_pb2.LEAF_LINK_POLICY_NOFOLLOW)
    entry = await env.files.entry(env.path("m"))
    env.check("itself", (itself.reason, entry.target if entry else None), equals=(OK, b"a"), clause="DIR-26")
    kept = await copy(env, env.path("a"), env.path("b"))
    env.check("not-replaced", kept.reason, equals="FILE_EXISTS", clause="DIR-21")
    replaced = await copy(env, env.path("a"), env.path("m"), replace=_REPLACE)
    env.check(
        "replaced",
        (replaced.reason, replaced.ok and replaced.answer.replaced),
        equals=(OK, True),
        clause="DIR-21",
    )
    onto = await copy(env, env.path("a"), env.path("a"), replace=_REPLACE)
    env.check(
        "onto-itself",
        (onto.reason, onto.fields),
        equals=("INVALID_REQUEST", ["destination"]),
        clause="DIR-22",
    )


@case(
    "supervisor/directories/special-files-are-not-copied",
    profile="core",
    clauses=("DIR-30", "DIR-23"),
    needs=_NEEDS,
)
async def special_files_are_not_copied(env: SupervisorEnv) -> None:
    """A FIFO is not copied, and neither is the directory that has one; what was staged is removed."""
    await env.files.mkdir(env.path("top/d"))
    await env.files.write(env.path("top/a"), b"a")
    await env.files.special(env.path("top/d/fifo"), "fifo")
    one = await copy(env, env.path("top/d/fifo"), env.path("copy"))
    env.check("fifo", one.reason, equals="NOT_A_REGULAR_FILE", clause="DIR-30")
    whole = await copy(env, env.path("top"), env.path("copy"), recursive=True)
    env.check("directory", whole.reason, equals="NOT_A_REGULAR_FILE", clause="DIR-30")
    path = whole.metadata.get("path", "")
    env.check("path", path, satisfies=("the FIFO's", lambda path: path.endswith("fifo")), clause="DIR-30")
    env.check("nothing-there", await env.files.exists(env.path("copy")), equals=False, clause="DIR-23")
    env.check("nothing-left", await nothing_staged(env), equals=True, clause="DIR-23")


@case("supervisor/directories/copy-is-left", profile="core", clauses=("DIR-23",), needs=_NEEDS, timeout=30)
async def copy_is_left(env: SupervisorEnv) -> None:
    """A copy of 12000 entries whose caller leaves, or whose relay ends, is not published, and nothing staged stays."""
    await env.files.many(env.path("top"), _MANY)
    for way in ("cancelled", "ended"):
        destination = env.path(f"copy-{way}")
        relay = await env.relay()
        request = directories_pb2.CopyPathRequest(
            source=env.path("top").encode(), destination=destination.encode(), recursive=True
        )
        await relay.begin(env.opening(copy_path=request))
        await _leave(relay, way)
        env.check(f"{way}-nothing-left", await nothing_staged(env, seconds=10), equals=True, clause="DIR-23")
        env.check(f"{way}-not-there", await env.files.exists(destination), equals=False, clause="DIR-23")


@case("supervisor/directories/working-directory", profile="core", clauses=("DIR-11",), needs=_NEEDS)
async def working_directory(env: SupervisorEnv) -> None:
    """The root, the working directory and those above it are neither removed nor moved; the root is not copied."""
    for path in ("/", env.target.workdir, "."):
        done = await remove(env, path, recursive=True)
        slug = {"/": "root", ".": "dot"}.get(path, "workdir")
        env.check(f"remove-{slug}", done.reason, equals="PATH_FORBIDDEN", clause="DIR-11")
        gone = await move(env, path, "/tmp/conformance-moved")
        env.check(f"move-{slug}", gone.reason, one_of=("PATH_FORBIDDEN", "INVALID_REQUEST"), clause="DIR-11")
    whole = await copy(env, "/", env.path("copy"), recursive=True)
    env.check("copy-root", whole.reason, one_of=("PATH_FORBIDDEN", "INVALID_REQUEST"), clause="DIR-11")
    env.check("nothing-changed", await env.files.exists(env.home), equals=True, clause="DIR-11")


@case("supervisor/directories/races", profile="core", clauses=("DIR-10", "DIR-31"), needs=_NEEDS, timeout=30)
async def races(env: SupervisorEnv) -> None:
    """A directory that is swapped for a link while it is removed leads the removal nowhere outside."""
    await env.files.mkdir(env.path("outside"))
    for number in range(50):
        await env.files.write(env.path(f"outside/{number}"), b"secret")
    reasons = set[str]()
    for turn in range(8):
        top = env.path(f"top{turn}")
        await env.files.mkdir(f"{top}/d/e")
        for number in range(300):
            await env.files.write(f"{top}/d/{number:03}", b"")
        relay = await env.relay()
        await relay.begin(
            env.opening(remove_path=directories_pb2.RemovePathRequest(path=top.encode(), recursive=True)),
            Request(input_end=file_relay_pb2.FileRelayInputEnd()),
        )
        try:
            await env.files.rename(f"{top}/d", env.path(f"aside{turn}"))
            await env.files.link(f"{top}/d", env.path("outside").removeprefix("/"))
        except Exception as error:  # noqa: BLE001 - the agent was faster, and the directory is gone
            env.note(f"turn {turn}: {error}")
        reasons.add((await relay.outcome()).reason)
    env.check("outside-stays", len(await env.files.tree(env.path("outside"))), equals=50, clause="DIR-10")
    allowed = {OK, "FILE_CHANGED", "DIRECTORY_NOT_EMPTY", "FILE_NOT_FOUND"}
    env.check("reasons", reasons - allowed, equals=set(), clause="DIR-31")
