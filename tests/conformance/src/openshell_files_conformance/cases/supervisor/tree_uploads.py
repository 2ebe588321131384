"""Trees into the sandbox, beside what the vectors try: the stream, races, ends, and what stays."""

from __future__ import annotations

from typing import Any

from openshell_files_conformance.cases.supervisor.settled import nothing_staged
from openshell_files_conformance.pb.openshell.v1 import file_options_pb2, files_pb2, trees_pb2
from openshell_files_conformance.peers.operation import BLAKE3, OK, SHA256, digest
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.peers.tree_stream import (
    TreeUpload,
    content,
    directory,
    end,
    manifest,
    part,
    regular,
    symlink,
)
from openshell_files_conformance.registry import case

_NEEDS = ("trees",)


async def begin(
    env: SupervisorEnv, path: str | bytes, *, opening: dict[str, Any] | None = None, **fields: Any
) -> TreeUpload:
    """Open the stream of a tree."""
    start = trees_pb2.UploadTreeStart(path=path if isinstance(path, bytes) else path.encode(), **fields)
    relay = await env.relay()
    await relay.begin(env.opening(upload_tree=start, **(opening or {})))
    return TreeUpload(relay)


async def _send(env: SupervisorEnv, path: str, **fields: Any) -> TreeUpload:
    """Send a small tree to its end."""
    tree = await begin(env, path, **fields)
    await tree.send_all([manifest(directory(), regular(b"a", 3)), content(part(1, b"abc")), end(2)])
    return tree


@case(
    "supervisor/trees/stream",
    profile="trees",
    clauses=("TRE-3", "TRE-53", "FRM-35", "TRE-18", "TRE-30", "TRE-33"),
    needs=_NEEDS,
)
async def stream(env: SupervisorEnv) -> None:
    """`started` comes first, with the path and the algorithm; `result` is the last message, and `tree_end` the last frame."""
    tree = await _send(env, env.path("top"))
    done = await tree.outcome()
    env.require("reason", done.reason, equals=OK, clause="TRE-53")
    messages = [
        frame.upload_tree.WhichOneof("payload") for frame in done.frames if frame.HasField("upload_tree")
    ]
    env.check("started-first", messages[:1], equals=["started"], clause="TRE-3")
    started = tree.started or trees_pb2.TreeStarted()
    seen = (started.path, started.digest_algorithm)
    env.check("started", seen, equals=(env.path("top").encode(), SHA256), clause="TRE-3")
    env.check(
        "result-last",
        [kind for kind in messages if kind != "working"][-1:],
        equals=["result"],
        clause="TRE-53",
    )
    env.check("tree-end", done.kinds[-1:], equals=["tree_end"], clause="FRM-35")
    result = tree.result or trees_pb2.UploadTreeResult()
    env.check(
        "created", (result.created, result.directory.path), equals=(True, env.path("top")), clause="TRE-18"
    )
    env.check("decided", (tree.decided, tree.fell), equals=(2, False), clause="TRE-30")
    env.check("changed", sorted(tree.changed), equals=[0, 1], clause="TRE-33")
    env.check("content", await env.files.read(env.path("top/a")), equals=b"abc", clause="TRE-33")


@case("supervisor/trees/first-message", profile="trees", clauses=("TRE-2", "FRM-36"), needs=_NEEDS)
async def first_message(env: SupervisorEnv) -> None:
    """A second `start` ends the stream; a stream that ends without `end` is UPLOAD_INCOMPLETE."""
    tree = await begin(env, env.path("top"))
    await tree.send(trees_pb2.UploadTreeRequest(start=trees_pb2.UploadTreeStart(path=b"/x")))
    env.check("second-start", (await tree.outcome()).reason, equals="INVALID_REQUEST", clause="TRE-2")
    tree = await begin(env, env.path("top"))
    await tree.send(trees_pb2.UploadTreeRequest())
    env.check("empty", (await tree.outcome()).reason, equals="INVALID_REQUEST", clause="TRE-2")
    tree = await begin(env, env.path("top"))
    await tree.send(manifest(directory()))
    await tree.relay.input_end()
    env.check("no-end", (await tree.outcome()).reason, equals="UPLOAD_INCOMPLETE", clause="FRM-36")


@case("supervisor/trees/paths", profile="trees", clauses=("TRE-17", "TRE-18", "PTH-16"), needs=_NEEDS)
async def paths(env: SupervisorEnv) -> None:
    """The top is made, with the directories above it only if that is asked for; anything but a directory there ends the call."""
    await env.files.write(env.path("file"), b"x")
    await env.files.mkdir(env.path("there"))
    await env.files.link(env.path("link"), "there")
    for name, path, reason in (
        ("file", "file", "NOT_A_DIRECTORY"),
        ("link", "link", "LEAF_IS_LINK"),
        ("parent", "no/where", "PARENT_NOT_FOUND"),
    ):
        done = await (await begin(env, env.path(path))).outcome()
        env.check(name, done.reason, equals=reason, clause="PTH-16" if name == "parent" else "TRE-18")
    dots = await (await begin(env, env.path("../x"))).outcome()
    env.check("dots", dots.reason, equals="INVALID_PATH", clause="TRE-17")
    tree = await _send(env, env.path("no/where"), parents=files_pb2.PARENT_POLICY_CREATE)
    env.check("with-parents", (await tree.outcome()).reason, equals=OK, clause="TRE-18")
    odd = env.home.encode() + b"/\xff\xfe"
    tree = await begin(env, odd)
    await tree.send_all([manifest(directory()), end(1)])
    env.check("bytes", (await tree.outcome()).reason, equals=OK, clause="TRE-17")


@case(
    "supervisor/trees/digests",
    profile="trees",
    clauses=("TRE-3", "DIG-2", "DIG-11", "TRE-8"),
    needs=("trees", "blake3"),
)
async def digests(env: SupervisorEnv) -> None:
    """The algorithm is that of `started`; with compare_content a file with another time and the same digest is unchanged."""
    await env.files.write(env.path("top"), b"")
    await env.files.remove(env.path("top"))
    await env.files.mkdir(env.path("top"))
    await env.files.write(env.path("top/a"), b"abc", modified_ns=77)
    tree = await begin(env, env.path("top"), accepted_digests=[BLAKE3], compare_content=True)
    await tree.wait(lambda: tree.started is not None)
    started = tree.started or trees_pb2.TreeStarted()
    env.check("algorithm", started.digest_algorithm, equals=BLAKE3, clause="DIG-2")
    entry = regular(b"a", 3, digest=digest(b"abc", BLAKE3).value)
    await tree.send_all([manifest(directory(), entry), end(2)])
    done = await tree.outcome()
    env.check("unchanged", (done.reason, tree.needed), equals=(OK, []), clause="TRE-8")
    unknown: Any = 99
    refused = await (await begin(env, env.path("other"), accepted_digests=[unknown])).outcome()
    env.check("unknown", refused.reason, equals="DIGEST_UNSUPPORTED", clause="DIG-11")
    plain = await begin(env, env.path("other"))
    await plain.wait(lambda: plain.started is not None)
    started = plain.started or trees_pb2.TreeStarted()
    env.check("default", started.digest_algorithm, equals=SHA256, clause="TRE-3")


@case(
    "supervisor/trees/staged-and-put-in-place",
    profile="trees",
    clauses=("TRE-45", "TRE-39", "TRE-47"),
    needs=_NEEDS,
)
async def staged_and_put_in_place(env: SupervisorEnv) -> None:
    """Content is staged where its user alone may look, and the old file stays, whole, until all of the new one is there."""
    await env.files.mkdir(env.path("top"))
    await env.files.write(env.path("top/a"), b"old")
    tree = await begin(env, env.path("top"))
    await tree.send(manifest(directory(mode=0o500), regular(b"a", 6, mode=0o600)))
    await tree.wait(lambda: bool(tree.needed))
    await tree.send(content(part(1, b"new", last=False, digest=b"")))
    staged = await nothing_staged(env, wanted=False)
    found = await env.files.tree(env.home)
    open_to_others = [
        name
        for name, entry in found.items()
        if b".openshell-upload-" in name and entry.kind == "directory" and entry.mode & 0o077
    ]
    env.check("staged", staged, equals=True, clause="TRE-45")
    env.check("for-its-user-alone", open_to_others, equals=[], clause="TRE-45")
    env.check("old-meanwhile", await env.files.read(env.path("top/a")), equals=b"old", clause="TRE-39")
    await tree.send(content(part(1, b"est", offset=3, digest=digest(b"newest").value)), end(2))
    done = await tree.outcome()
    env.check("reason", done.reason, equals=OK, clause="TRE-47")
    entry = await env.files.entry(env.path("top/a"))
    env.check("mode", entry.mode if entry else None, equals=0o600, clause="TRE-45")
    top = await env.files.entry(env.path("top"))
    env.check("directory-mode-last", top.mode if top else None, equals=0o500, clause="TRE-47")
    await env.files.chmod(env.path("top"), 0o700)
    env.check("nothing-left", await env.left(), equals=[], clause="TRE-45")


@case("supervisor/trees/lost", profile="trees", clauses=("TRE-54", "TRE-55", "TRE-56", "TRE-7"), needs=_NEEDS)
async def lost(env: SupervisorEnv) -> None:
    """What is in place when a stream is cancelled, reset or ended stays, whole; the same call goes on there."""
    for way in ("cancelled", "reset", "ended"):
        top = env.path(way)
        tree = await begin(env, top)
        entries = manifest(directory(), regular(b"a", 3), regular(b"b", 3))
        await tree.send(entries)
        await tree.needs(2)
        await tree.send(content(part(1, b"abc"), part(2, b"d", last=False, digest=b"")))
        await tree.changes(1, env.scaled(2))
        match way:
            case "cancelled":
                await tree.relay.input_end(cancelled=True)
            case "reset":
                tree.relay.relay.reset()
            case _:
                tree.relay.relay.end()
        env.check(f"{way}-nothing-left", await nothing_staged(env), equals=True, clause="TRE-54")
        env.check(f"{way}-stays", await env.files.read(f"{top}/a"), equals=b"abc", clause="TRE-54")
        env.check(f"{way}-no-half", await env.files.exists(f"{top}/b"), equals=False, clause="TRE-56")
        again = await begin(env, top)
        await again.send_all([entries, content(part(2, b"def")), end(3)])
        done = await again.outcome()
        env.check(f"{way}-again", (done.reason, again.needed), equals=(OK, [2]), clause="TRE-7")
        env.check(f"{way}-complete", await env.files.read(f"{top}/b"), equals=b"def", clause="TRE-55")


@case("supervisor/trees/lost-atomic", profile="trees", clauses=("TRE-54", "TRE-12"), needs=_NEEDS)
async def lost_atomic(env: SupervisorEnv) -> None:
    """A lost stream of an atomic tree publishes nothing, and its staging directory goes."""
    tree = await begin(env, env.path("top"), atomic=True)
    await tree.send(manifest(directory(), regular(b"a", 3)))
    await tree.wait(lambda: bool(tree.needed))
    await tree.send(content(part(1, b"abc")))
    await tree.wait(lambda: 1 in tree.changed, env.scaled(1))
    env.check("not-there-meanwhile", await env.files.exists(env.path("top")), equals=False, clause="TRE-12")
    tree.relay.relay.reset()
    env.check("nothing-left", await nothing_staged(env), equals=True, clause="TRE-54")
    env.check("not-published", await env.files.exists(env.path("top")), equals=False, clause="TRE-54")


@case("supervisor/trees/appears-meanwhile", profile="trees", clauses=("TRE-12",), needs=_NEEDS)
async def appears_meanwhile(env: SupervisorEnv) -> None:
    """An atomic tree replaces nothing, also nothing that appears before its rename."""
    tree = await begin(env, env.path("top"), atomic=True)
    await tree.send(manifest(directory(), regular(b"a", 3)))
    await tree.wait(lambda: bool(tree.needed))
    await env.files.mkdir(env.path("top"))
    await tree.send(content(part(1, b"abc")), end(2))
    env.check("reason", (await tree.outcome()).reason, equals="FILE_EXISTS", clause="TRE-12")
    env.check("stays", await env.files.tree(env.path("top")), equals={}, clause="TRE-12")
    env.check("nothing-left", await nothing_staged(env), equals=True, clause="TRE-12")


@case("supervisor/trees/swapped-for-a-link", profile="trees", clauses=("TRE-44", "TRE-48"), needs=_NEEDS)
async def swapped_for_a_link(env: SupervisorEnv) -> None:
    """A directory that is swapped for a link between its announcement and its content leads nothing outside."""
    await env.files.mkdir(env.path("outside"))
    tree = await begin(env, env.path("top"))
    await tree.send(manifest(directory(), directory(b"d"), regular(b"d/a", 3)))
    await tree.wait(lambda: bool(tree.needed))
    await env.files.rename(env.path("top/d"), env.path("aside"))
    await env.files.link(env.path("top/d"), "../outside")
    await tree.send(content(part(2, b"abc")))
    await tree.send(manifest(regular(b"d/late", 3)))
    await tree.wait(lambda: 3 in tree.needed or bool(tree.problems), env.scaled(2))
    await tree.send_all([content(part(3, b"abc")), end(4)])
    await tree.outcome()
    env.check("outside-is-empty", await env.files.tree(env.path("outside")), equals={}, clause="TRE-44")
    entry = await env.files.entry(env.path("outside"))
    env.check(
        "outside-keeps-its-time", entry.modified_ns != 10**18 if entry else None, equals=True, clause="TRE-48"
    )


@case(
    "supervisor/trees/planted-links",
    profile="trees",
    clauses=("TRE-44", "TRE-46", "TRE-48", "TRE-35"),
    needs=_NEEDS,
)
async def planted_links(env: SupervisorEnv) -> None:
    """A link in the place of a directory is a problem, and so is all below it; a link that the tree itself brings leads nowhere."""
    await env.files.mkdir(env.path("outside"))
    await env.files.mkdir(env.path("top"))
    await env.files.link(env.path("top/d"), "../outside")
    tree = await begin(env, env.path("top"))
    await tree.send_all(
        [manifest(directory(), directory(b"d"), regular(b"d/a", 3), symlink(b"l", b"../outside")), end(4)]
    )
    done = await tree.outcome()
    env.check("reason", done.reason, equals=OK, clause="TRE-46")
    env.check(
        "problems",
        sorted(tree.problems),
        equals=[(1, "LEAF_IS_LINK"), (2, "PARENT_NOT_FOUND")],
        clause="TRE-35",
    )
    env.check("outside-is-empty", await env.files.tree(env.path("outside")), equals={}, clause="TRE-44")
    entry = await env.files.entry(env.path("top/l"))
    env.check(
        "link", (entry.kind, entry.target) if entry else None, equals=("link", b"../outside"), clause="TRE-48"
    )


@case(
    "supervisor/trees/deletes-no-staging-of-others",
    profile="trees",
    clauses=("TRE-50", "TRE-57", "TRE-14"),
    needs=_NEEDS,
)
async def deletes_no_staging_of_others(env: SupervisorEnv) -> None:
    """`delete_others` removes what the tree does not have, and nothing that another transfer stages there."""
    await env.files.mkdir(env.path("top"))
    await env.files.write(env.path("top/old"), b"")
    name = env.fresh_name("request")
    upload = await env.begin_upload(env.path("top/other"), request_id=name)
    await upload.until("accepted")
    other = await begin(env, env.path("top"))
    await other.send(manifest(directory(), regular(b"b", 3)))
    await other.wait(lambda: bool(other.needed))
    await other.send(content(part(1, b"a", last=False, digest=b"")))
    tree = await begin(env, env.path("top"), delete_others=True)
    await tree.send_all([manifest(directory(), regular(b"a", 3)), content(part(1, b"abc")), end(2)])
    done = await tree.outcome()
    env.check("deleted", (done.reason, tree.deleted), equals=(OK, [b"old"]), clause="TRE-14")
    count = tree.result.deleted_entries if tree.result else -1
    env.check("deleted-entries", count, equals=1, clause="TRE-50")
    asked = await env.get_upload(request_id=name)
    env.check("upload-goes-on", asked.reason, equals=OK, clause="TRE-50")
    await other.send(content(part(1, b"bc", offset=1, digest=digest(b"abc").value)), end(2))
    env.check("tree-goes-on", (await other.outcome()).reason, equals=OK, clause="TRE-57")
    env.check("its-file", await env.files.read(env.path("top/b")), equals=b"abc", clause="TRE-57")


@case("supervisor/trees/durability", profile="trees", clauses=("TRE-52", "UPL-9"), needs=_NEEDS)
async def durability(env: SupervisorEnv) -> None:
    """The result names the durability that was reached."""
    for name, asked, allowed in (
        ("default", 0, (files_pb2.DURABILITY_FSYNC,)),
        ("fsync", files_pb2.DURABILITY_FSYNC, (files_pb2.DURABILITY_FSYNC,)),
        ("rename", files_pb2.DURABILITY_RENAME, (files_pb2.DURABILITY_RENAME, files_pb2.DURABILITY_FSYNC)),
    ):
        tree = await _send(env, env.path(name), durability=asked)
        await tree.outcome()
        reached = tree.result.durability if tree.result else None
        env.check(name, reached, one_of=allowed, clause="UPL-9" if name == "rename" else "TRE-52")


@case(
    "supervisor/trees/waiting",
    profile="trees",
    clauses=("WAI-3", "WAI-6", "WAI-7"),
    needs=("trees", "waiting"),
)
async def waiting(env: SupervisorEnv) -> None:
    """`waiting` may come anywhere before the end, and changes nothing."""
    pause = trees_pb2.UploadTreeRequest(waiting=file_options_pb2.UploadWaiting())
    tree = await begin(env, env.path("top"))
    await tree.send_all(
        [pause, manifest(directory(), regular(b"a", 3)), pause, content(part(1, b"abc")), pause, end(2)]
    )
    env.check("reason", (await tree.outcome()).reason, equals=OK, clause="WAI-3")
    env.check("content", await env.files.read(env.path("top/a")), equals=b"abc", clause="WAI-6")
    late = await begin(env, env.path("late"))
    await late.send(manifest(directory()), end(1), pause)
    # Whoever has taken the end may leave what is behind it unread.
    env.check("behind-the-end", (await late.outcome()).reason, one_of=("INVALID_REQUEST", OK), clause="WAI-7")


@case(
    "supervisor/trees/violation-mid-way", profile="trees", clauses=("TRE-6", "TRE-31", "FRM-36"), needs=_NEEDS
)
async def violation_mid_way(env: SupervisorEnv) -> None:
    """Content of an entry that was not announced, or is not needed, ends the stream; what is in place stays."""
    for name, number, clause in (("unannounced", 9, "TRE-6"), ("directory", 0, "TRE-31")):
        tree = await begin(env, env.path(name))
        await tree.send_all([manifest(directory(), regular(b"a", 3)), content(part(1, b"abc"))])
        await tree.changes(1, env.scaled(2))
        await tree.send(content(part(number, b"x")))
        env.check(name, (await tree.outcome()).reason, equals="INVALID_REQUEST", clause=clause)
        env.check(
            f"{name}-stays", await env.files.read(env.path(f"{name}/a")), equals=b"abc", clause="FRM-36"
        )
    env.check("nothing-left", await nothing_staged(env), equals=True, clause="FRM-36")
