"""Trees out of the sandbox: the agent announces, and sends what is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openshell_files_conformance.cases.supervisor.settled import nothing_staged
from openshell_files_conformance.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_conformance.peers.operation import BLAKE3, OK, SHA256, digest
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.peers.tree_download import TreeDownload
from openshell_files_conformance.registry import case

_NEEDS = ("trees",)
_SECOND = 10**9


async def begin(
    env: SupervisorEnv,
    path: str,
    wants: Callable[[trees_pb2.TreeEntry], bool] = lambda _: True,
    **fields: Any,
) -> TreeDownload:
    """Open the stream of a tree."""
    start = trees_pb2.DownloadTreeStart(path=path.encode(), **fields)
    relay = await env.relay()
    await relay.begin(env.opening(download_tree=start))
    return TreeDownload(relay, wants)


async def _tree(env: SupervisorEnv) -> str:
    top = env.path("top")
    await env.files.mkdir(f"{top}/d/e")
    await env.files.write(f"{top}/a", b"aa", mode=0o640, modified_ns=1_000_000_000 * _SECOND + 7)
    await env.files.write(f"{top}/d/f", b"f" * 300_000)
    await env.files.write(f"{top}/d/empty", b"")
    await env.files.hard_link(f"{top}/d/g", f"{top}/a")
    await env.files.link(f"{top}/l", "../outside")
    await env.files.mkdir(env.path("outside"))
    await env.files.write(env.path("outside/secret"), b"secret")
    return top


@case(
    "supervisor/tree-downloads/sent",
    profile="trees",
    clauses=("TRE-3", "TRE-4", "TRE-20", "TRE-37", "TRE-38", "TRE-53", "FRM-35", "TRE-27", "TRE-31"),
    needs=_NEEDS,
)
async def sent(env: SupervisorEnv) -> None:
    """The agent announces the directory with all below it, sends each needed content once in order, and ends the tree."""
    top = await _tree(env)
    tree = await begin(env, top)
    done = await tree.run()
    env.require("reason", done.reason, equals=OK, clause="TRE-53")
    env.check("started-first", tree.kinds[:1], equals=["started"], clause="TRE-3")
    started = tree.started.path if tree.started else b""
    env.check("started-path", started, equals=top.encode(), clause="TRE-3")
    env.check("end-last", (tree.kinds[-1], tree.end), equals=("end", len(tree.entries)), clause="TRE-53")
    env.check("tree-end", done.kinds[-1:], equals=["tree_end"], clause="FRM-35")
    first = tree.entries[0]
    env.check(
        "top-first", (first.path, first.type), equals=(b"", files_pb2.FILE_TYPE_DIRECTORY), clause="TRE-4"
    )
    paths = [entry.path for entry in tree.entries]
    wanted = [b"", b"a", b"d", b"d/e", b"d/empty", b"d/f", b"d/g", b"l"]
    env.check("entries", sorted(paths), equals=wanted, clause="TRE-4")
    env.check("parents-first", _out_of_order(paths), equals=[], clause="TRE-20")
    found = tree.by_path
    links = {path for path in (b"a", b"d/g") if found[path].hard_link}
    env.check("hard-link", len(links), equals=1, clause="TRE-27")
    env.check("content-in-order", tree.wrong, equals=[], clause="TRE-37")
    contents = {found: tree.content(found) for found in (b"d/f", b"d/empty")}
    env.check("content", contents, equals={b"d/f": b"f" * 300_000, b"d/empty": b""}, clause="TRE-38")
    one = next(path for path in (b"a", b"d/g") if path not in links)
    env.check("linked-content", tree.content(one), equals=b"aa", clause="TRE-31")


def _out_of_order(paths: list[bytes]) -> list[bytes]:
    """Return the paths that come before their directory, or after it was left."""
    wrong, current = list[bytes](), list[bytes]()
    for path in paths[1:]:
        above = path.rpartition(b"/")[0]
        while current and current[-1] != above:
            current.pop()
        if above and not current:
            wrong.append(path)
        current.append(path)
    return wrong


@case(
    "supervisor/tree-downloads/attributes",
    profile="trees",
    clauses=("TRE-26", "TRE-24", "TRE-7"),
    needs=_NEEDS,
)
async def attributes(env: SupervisorEnv) -> None:
    """Modes, times, sizes and link targets are announced, and what is not carried is named in `losses`."""
    top = await _tree(env)
    await env.files.write(f"{top}/set-id", b"")
    await env.files.chmod(f"{top}/set-id", 0o6755)
    tree = await begin(env, top)
    await tree.run()
    found = tree.by_path
    a = found[b"a"] if not found[b"a"].hard_link else found[b"d/g"]
    seen = (a.mode, a.modified_seconds, a.modified_nanos, a.size_bytes, list(a.losses))
    env.check("file", seen, equals=(0o640, 1_000_000_000, 7, 2, []), clause="TRE-7")
    link = found[b"l"]
    env.check(
        "link",
        (link.type, link.link_target),
        equals=(files_pb2.FILE_TYPE_SYMLINK, b"../outside"),
        clause="TRE-24",
    )
    special = found[b"set-id"]
    lost = (special.mode, list(special.losses))
    env.check("special-bits", lost, equals=(0o755, [trees_pb2.TREE_LOSS_SPECIAL_BITS]), clause="TRE-26")
    modes = [entry.path for entry in tree.entries if entry.mode > 0o777]
    env.check("modes", modes, equals=[], clause="TRE-24")


@case("supervisor/tree-downloads/unneeded", profile="trees", clauses=("TRE-31",), needs=_NEEDS)
async def unneeded(env: SupervisorEnv) -> None:
    """Content that the caller does not ask for is not sent."""
    top = await _tree(env)
    tree = await begin(env, top, wants=lambda entry: entry.path == b"d/empty")
    done = await tree.run()
    env.check("reason", done.reason, equals=OK, clause="TRE-31")
    names = [tree.entries[number].path for number in tree.contents]
    env.check("only", names, equals=[b"d/empty"], clause="TRE-31")


@case(
    "supervisor/tree-downloads/what-cannot-be-sent",
    profile="trees",
    clauses=("TRE-25", "TRE-23"),
    needs=_NEEDS,
)
async def what_cannot_be_sent(env: SupervisorEnv) -> None:
    """Special files are announced with a reason, staging files are left out, and the others go on."""
    top = await _tree(env)
    await env.files.special(f"{top}/b-fifo", "fifo")
    await env.files.special(f"{top}/b-socket", "socket")
    await env.files.write(f"{top}/.openshell-upload-zq", b"")
    tree = await begin(env, top)
    done = await tree.run()
    env.check("reason", done.reason, equals=OK, clause="TRE-25")
    found = tree.by_path
    for name in (b"b-fifo", b"b-socket"):
        seen = found[name].reason if name in found else "left out"
        env.check(name.decode(), seen, equals="NOT_A_REGULAR_FILE", clause="TRE-25")
    env.check("others", b"d/f" in found, equals=True, clause="TRE-25")
    env.check("no-staging-files", b".openshell-upload-zq" in found, equals=False, clause="TRE-23")


@case(
    "supervisor/tree-downloads/unreadable",
    profile="trees",
    clauses=("TRE-25",),
    needs=("trees", "unprivileged"),
)
async def unreadable(env: SupervisorEnv) -> None:
    """What may not be read is announced with a reason, and never as empty."""
    top = await _tree(env)
    for path in (f"{top}/a", f"{top}/d"):
        await env.files.deny(path)
    tree = await begin(env, top)
    done = await tree.run()
    env.check("reason", done.reason, equals=OK, clause="TRE-25")
    found = tree.by_path
    env.check("directory", found[b"d"].reason, equals="ACCESS_DENIED", clause="TRE-25")
    said = found[b"a"].reason or tree.reasons.get(list(found).index(b"a"), "")
    env.check("file", said, equals="ACCESS_DENIED", clause="TRE-25")


@case("supervisor/tree-downloads/patterns", profile="trees", clauses=("TRE-9", "TRE-10"), needs=_NEEDS)
async def patterns(env: SupervisorEnv) -> None:
    """`exclude` leaves out, `include` chooses files, `exclude` prevails; nothing below an excluded entry is announced."""
    top = env.path("top")
    for path in (
        "src/a.py",
        "src/a.pyc",
        "src/deep/b.py",
        "node_modules/x/y.py",
        "doc/readme",
        "keep.log",
        "drop.log",
    ):
        await env.files.mkdir(f"{top}/{path.rpartition('/')[0]}")
        await env.files.write(f"{top}/{path}", b"x")

    async def announced(**fields: Any) -> set[str]:
        tree = await begin(env, top, wants=lambda _: False, **fields)
        done = await tree.run()
        env.note(str(done))
        sent = [
            entry
            for entry in tree.entries
            if not entry.excluded and entry.type == files_pb2.FILE_TYPE_REGULAR
        ]
        below = [entry.path for entry in tree.entries if entry.path.startswith(b"node_modules/")]
        if "exclude" in fields and fields["exclude"][0] == "node_modules/":
            env.check("nothing-below", below, equals=[], clause="TRE-10")
        return {entry.path.decode() for entry in sent}

    excluded = await announced(exclude=["node_modules/", "*.pyc", "*.log", "!keep.log"])
    wanted = {"src/a.py", "src/deep/b.py", "doc/readme", "keep.log"}
    env.check("exclude", excluded, equals=wanted, clause="TRE-9")
    included = await announced(include=["*.py"])
    env.check(
        "include", included, equals={"src/a.py", "src/deep/b.py", "node_modules/x/y.py"}, clause="TRE-9"
    )
    both = await announced(include=["*.py"], exclude=["/src/deep"])
    env.check("both", both, equals={"src/a.py", "node_modules/x/y.py"}, clause="TRE-9")
    anchored = await announced(exclude=["/src/*.py", "**/x"])
    env.check(
        "anchored",
        anchored,
        equals={"src/a.pyc", "src/deep/b.py", "doc/readme", "keep.log", "drop.log"},
        clause="TRE-9",
    )


@case("supervisor/tree-downloads/impossible-patterns", profile="trees", clauses=("TRE-29",), needs=_NEEDS)
async def impossible_patterns(env: SupervisorEnv) -> None:
    """A pattern that can match nothing, and more than 1000 of them, are refused; a slow one ends in time."""
    top = await _tree(env)
    for name, given in (
        ("comment", ["# a"]),
        ("empty", [""]),
        ("dot", ["."]),
        ("dots", [".."]),
        ("many", ["a"] * 1001),
    ):
        for field in ("exclude", "include"):
            patterns: dict[str, Any] = {field: given}
            tree = await begin(env, top, **patterns)
            done = await tree.run()
            seen = (done.reason, [one.partition("[")[0] for one in done.fields], tree.entries)
            env.check(f"{field}-{name}", seen, equals=("INVALID_REQUEST", [field], []), clause="TRE-29")
    await env.files.write(f"{top}/{'a' * 200}", b"")
    tree = await begin(env, top, exclude=["*a" * 60 + "b"])
    done = await tree.run()
    env.check("slow", done.reason, equals=OK, clause="TRE-29")


@case(
    "supervisor/tree-downloads/links", profile="trees", clauses=("TRE-17", "TRE-28", "TRE-10"), needs=_NEEDS
)
async def links(env: SupervisorEnv) -> None:
    """A link at the end of the path is followed, none below it is; with skip_links they are announced as excluded."""
    top = await _tree(env)
    await env.files.link(env.path("to-top"), "top")
    tree = await begin(env, env.path("to-top"))
    done = await tree.run()
    started = tree.started.path if tree.started else b""
    env.check("followed", (done.reason, started), equals=(OK, top.encode()), clause="TRE-17")
    names = [entry.path for entry in tree.entries if entry.path.startswith(b"l/")]
    env.check("not-followed", names, equals=[], clause="TRE-28")
    skipped = await begin(env, top, skip_links=True)
    await skipped.run()
    entry = skipped.by_path.get(b"l")
    env.check("skipped", entry.excluded if entry else None, equals=True, clause="TRE-10")
    await env.files.write(env.path("file"), b"x")
    refused = await (await begin(env, env.path("file"))).run()
    env.check("file", refused.reason, equals="NOT_A_DIRECTORY", clause="TRE-17")
    missing = await (await begin(env, env.path("missing"))).run()
    env.check("missing", missing.reason, equals="FILE_NOT_FOUND", clause="TRE-17")


@case(
    "supervisor/tree-downloads/changed-meanwhile", profile="trees", clauses=("TRE-41", "TRE-28"), needs=_NEEDS
)
async def changed_meanwhile(env: SupervisorEnv) -> None:
    """A file that changed after its announcement, and one behind a directory that was swapped for a link, are parts with a reason."""
    top = env.path("top")
    await env.files.mkdir(f"{top}/d")
    await env.files.mkdir(env.path("outside"))
    await env.files.write(env.path("outside/b"), b"SECRET")
    for name in ("a", "d/b"):
        await env.files.write(f"{top}/{name}", b"before", modified_ns=5)
    relay = await env.relay()
    await relay.begin(env.opening(download_tree=trees_pb2.DownloadTreeStart(path=top.encode())))
    entries: list[trees_pb2.TreeEntry] = []
    while len(entries) < 4:
        frame = await relay.until("download_tree")
        entries += frame.download_tree.manifest.entries
    await env.files.write(f"{top}/a", b"after!")
    await env.files.rename(f"{top}/d", env.path("aside"))
    await env.files.link(f"{top}/d", "../outside")
    numbers = {entry.path: number for number, entry in enumerate(entries)}
    tree = TreeDownload(relay, lambda _: True)
    tree.entries = entries
    tree.started = trees_pb2.TreeStarted(digest_algorithm=SHA256)
    needed = sorted([numbers[b"a"], numbers[b"d/b"]])
    reply = trees_pb2.TreeReply(decided_entries=len(entries), needed=needed)
    await relay.download_tree(trees_pb2.DownloadTreeRequest(reply=reply))
    done = await tree.run()
    env.check("reason", done.reason, equals=OK, clause="TRE-41")
    env.check("changed", tree.reasons.get(numbers[b"a"]), equals="FILE_CHANGED", clause="TRE-41")
    seen = tree.contents.get(numbers[b"d/b"])
    # An agent that holds the directory open may still send the file that it announced.
    env.check("nothing-of-outside", seen, one_of=(None, b"before"), clause="TRE-28")


@case(
    "supervisor/tree-downloads/many-entries",
    profile="trees",
    clauses=("TRE-5", "TRE-58"),
    needs=_NEEDS,
    timeout=30,
)
async def many_entries(env: SupervisorEnv) -> None:
    """Not more than 8192 entries are open, and not more than 1024 in a manifest, however long the caller waits."""
    await env.files.many(env.path("top"), 10_000)
    relay = await env.relay()
    await relay.begin(env.opening(download_tree=trees_pb2.DownloadTreeStart(path=env.path("top").encode())))
    counts = list[int]()
    # A caller that answers nothing gets the open entries, and then only signs of life.
    while sum(counts) < 8192:
        frame = await relay.until("download_tree", env.scaled(5))
        if frame.download_tree.HasField("manifest"):
            counts.append(len(frame.download_tree.manifest.entries))
        elif not frame.download_tree.HasField("started"):
            break
    largest = max(counts, default=0)
    env.check("manifests", largest, satisfies=("1 to 1024", lambda count: 1 <= count <= 1024), clause="TRE-5")
    reply = trees_pb2.TreeReply(decided_entries=sum(counts))
    env.check("open", sum(counts), satisfies=("at most 8192", lambda count: count <= 8192), clause="TRE-5")
    await relay.download_tree(trees_pb2.DownloadTreeRequest(reply=reply))
    tree = TreeDownload(relay, lambda _: False)
    tree.entries = [trees_pb2.TreeEntry(path=b"%d" % number) for number in range(sum(counts))]
    done = await tree.run()
    env.check("reason", done.reason, equals=OK, clause="TRE-58")
    env.check("all", (len(tree.entries), tree.end), equals=(10_001, 10_001), clause="TRE-58")


@case(
    "supervisor/tree-downloads/violations",
    profile="trees",
    clauses=("TRE-6", "TRE-30", "FRM-36", "TRE-2"),
    needs=_NEEDS,
)
async def violations(env: SupervisorEnv) -> None:
    """Replies that count what was not announced, or fall, and an input that is over too early, end the stream."""
    top = await _tree(env)

    async def after_manifest(*messages: trees_pb2.DownloadTreeRequest, over: bool = False) -> str:
        relay = await env.relay()
        await relay.begin(env.opening(download_tree=trees_pb2.DownloadTreeStart(path=top.encode())))
        while not (await relay.until("download_tree")).download_tree.HasField("manifest"):
            pass
        await relay.download_tree(*messages)
        if over:
            await relay.input_end()
        return (await relay.outcome()).reason

    def reply(**fields: Any) -> trees_pb2.DownloadTreeRequest:
        return trees_pb2.DownloadTreeRequest(reply=trees_pb2.TreeReply(**fields))

    wanted = "INVALID_REQUEST"
    env.check(
        "counts-too-many", await after_manifest(reply(decided_entries=10**6)), equals=wanted, clause="TRE-6"
    )
    env.check(
        "needs-unannounced",
        await after_manifest(reply(decided_entries=1, needed=[10**6])),
        equals=wanted,
        clause="TRE-6",
    )
    falls = await after_manifest(reply(decided_entries=3), reply(decided_entries=2))
    env.check("falls", falls, equals=wanted, clause="TRE-30")
    env.check("over", await after_manifest(over=True), equals=wanted, clause="FRM-36")
    second = trees_pb2.DownloadTreeRequest(start=trees_pb2.DownloadTreeStart(path=b"/x"))
    env.check("second-start", await after_manifest(second), equals=wanted, clause="TRE-2")


@case(
    "supervisor/tree-downloads/compare-content",
    profile="trees",
    clauses=("TRE-8", "TRE-3"),
    needs=("trees", "blake3"),
)
async def compare_content(env: SupervisorEnv) -> None:
    """With compare_content every regular file has the digest of its content in its entry."""
    top = await _tree(env)
    tree = await begin(env, top, wants=lambda _: False, compare_content=True, accepted_digests=[BLAKE3])
    done = await tree.run()
    env.check("reason", done.reason, equals=OK, clause="TRE-8")
    found = tree.by_path
    digests = {path: found[path].digest for path in (b"d/f", b"d/empty")}
    wanted = {b"d/f": digest(b"f" * 300_000, BLAKE3).value, b"d/empty": digest(b"", BLAKE3).value}
    env.check("digests", digests, equals=wanted, clause="TRE-8")
    started = tree.started.digest_algorithm if tree.started else 0
    env.check("algorithm", started, equals=BLAKE3, clause="TRE-3")
    env.check("nothing-staged", await nothing_staged(env), equals=True, clause="TRE-8")


@case("supervisor/tree-downloads/cancelled", profile="trees", clauses=("FRM-16", "TRE-56"), needs=_NEEDS)
async def cancelled(env: SupervisorEnv) -> None:
    """A tree whose caller leaves stops, with or without an answer, and the agent serves the next operation."""
    await env.files.many(env.path("top"), 9_000)
    for way in ("cancelled", "ended"):
        relay = await env.relay()
        await relay.begin(
            env.opening(download_tree=trees_pb2.DownloadTreeStart(path=env.path("top").encode()))
        )
        await relay.until("download_tree")
        if way == "cancelled":
            await relay.input_end(cancelled=True)
            done = await relay.outcome()
            env.check("not-complete", done.ok, equals=False, clause="TRE-56")
        else:
            relay.relay.end()
        env.check(f"{way}-serves", (await env.stat(env.home)).reason, equals=OK, clause="FRM-16")
