"""Trees that an SDK receives from a server that keeps to the protocol."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from openshell_files_conformance.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_conformance.peers.file_calls import Fault
from openshell_files_conformance.peers.file_sandbox import KIB, TreeNode
from openshell_files_conformance.peers.file_status import LOST
from openshell_files_conformance.peers.sdk_env import Answer, SdkEnv
from openshell_files_conformance.registry import case

REPLY_RULES: Final = ("TRE-6", "TRE-30", "TRE-31")
SECONDS: Final = 1_700_000_000


def directory(path: bytes = b"", **fields: Any) -> TreeNode:
    """Return a directory of a tree."""
    return TreeNode(_entry(path, files_pb2.FILE_TYPE_DIRECTORY, {"mode": 0o755, **fields}))


def file(path: bytes, content: bytes = b"content\n", **fields: Any) -> TreeNode:
    """Return a regular file of a tree."""
    made = {"mode": 0o644, "size_bytes": len(content), **fields}
    return TreeNode(_entry(path, files_pb2.FILE_TYPE_REGULAR, made), content)


def link(path: bytes, target: bytes, **fields: Any) -> TreeNode:
    """Return a symbolic link of a tree."""
    return TreeNode(
        _entry(path, files_pb2.FILE_TYPE_SYMLINK, {"mode": 0o777, "link_target": target, **fields})
    )


def _entry(path: bytes, kind: int, fields: dict[str, Any]) -> trees_pb2.TreeEntry:
    anything: Any = kind
    return trees_pb2.TreeEntry(path=path, type=anything, modified_seconds=SECONDS, modified_nanos=7, **fields)


async def fetched(env: SdkEnv, target: Path, **options: Any) -> Answer:
    """Have the sandbox's tree downloaded."""
    return await env.ask("download_tree", local=str(target), remote="tree", options=options or None)


def found(target: Path) -> dict[str, bytes | None]:
    """Return what is below a local directory: content of files, None for everything else."""
    paths = sorted(Path(root) / name for root, names, files in os.walk(target) for name in (*names, *files))
    return {
        str(path.relative_to(target)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in paths
    }


@case(
    "sdk/received-tree/everything",
    profile="trees",
    needs=("trees",),
    clauses=(*REPLY_RULES, "TRE-32", "TRE-33", "TRE-47", "TRE-48"),
)
async def everything(env: SdkEnv) -> None:
    """Files, directories, links and hard links get into place, with times and modes, also of a directory without write permission."""
    large = env.content(300 * KIB)
    env.gateway.sandbox.tree = [
        directory(),
        directory(b"closed", mode=0o555),
        file(b"closed/inside", b"inside\n"),
        directory(b"empty"),
        file(b"large", large),
        file(b"none", b""),
        file(b"run", b"#!/bin/sh\n", mode=0o755),
        file(b"hard", b"", hard_link=b"run", size_bytes=10, mode=0o755),
        link(b"link", b"../../outside"),
    ]
    target = env.target()
    answered = await fetched(env, target)
    env.check("ok", answered.outcome, equals="ok", clause="TRE-33")
    env.check("complete", answered.fields.get("complete"), equals=True, clause="TRE-33")
    wanted = {
        "closed": None,
        "closed/inside": b"inside\n",
        "empty": None,
        "hard": b"#!/bin/sh\n",
        "large": large,
        "link": None,
        "none": b"",
        "run": b"#!/bin/sh\n",
    }
    env.check("tree", found(target) == wanted, equals=True, clause="TRE-33")
    modified = {name: _modified(target / name) for name in ("closed", "empty", "large", "run")}
    env.check("modified", set(modified.values()), equals={SECONDS * 10**9 + 7}, clause="TRE-32")
    env.check("closed", _mode(target / "closed") & 0o222, equals=0, clause="TRE-47")
    env.check("run", _mode(target / "run") & 0o100, equals=0o100, clause="TRE-32")
    seen = os.readlink(target / "link") if (target / "link").is_symlink() else None
    env.check("link", seen, equals="../../outside", clause="TRE-48")
    env.well_formed(*REPLY_RULES)


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777 if path.exists() else -1


@case(
    "sdk/received-tree/only-what-is-needed",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-7", "TRE-31"),
    depends_on=("sdk/received-tree/everything",),
)
async def only_what_is_needed(env: SdkEnv) -> None:
    """A file of the same size and time is not asked for; one of another size or time is."""
    target = env.target()
    target.mkdir()
    for name, content, when in (
        ("same", b"abcd", SECONDS * 10**9 + 7),
        ("size", b"abc", SECONDS * 10**9 + 7),
        ("time", b"abcd", SECONDS * 10**9 + 8),
    ):
        (target / name).write_bytes(content)
        os.utime(target / name, ns=(when, when))
    env.gateway.sandbox.tree = [
        directory(),
        file(b"same", b"ABCD"),
        file(b"size", b"ABCD"),
        file(b"time", b"ABCD"),
    ]
    answered = await fetched(env, target)
    env.check("ok", answered.outcome, equals="ok", clause="TRE-31")
    env.check("same", found(target).get("same"), equals=b"abcd", clause="TRE-7")
    others = found(target).get("size"), found(target).get("time")
    env.check("others", others, equals=(b"ABCD", b"ABCD"), clause="TRE-31")


@case(
    "sdk/received-tree/by-content",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-8",),
    depends_on=("sdk/received-tree/everything",),
)
async def by_content(env: SdkEnv) -> None:
    """With digests a file of the same size and time and of other content is asked for."""
    target = env.target()
    target.mkdir()
    when = SECONDS * 10**9 + 7
    (target / "file").write_bytes(b"abcd")
    os.utime(target / "file", ns=(when, when))
    env.gateway.sandbox.tree = [directory(), file(b"file", b"ABCD")]
    answered = await fetched(env, target, compare_content=True)
    env.check("ok", answered.outcome, equals="ok", clause="TRE-8")
    env.check("content", found(target).get("file"), equals=b"ABCD", clause="TRE-8")


@case(
    "sdk/received-tree/problems",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-34", "TRE-46", "TRE-25", "TRE-23"),
    depends_on=("sdk/received-tree/everything",),
)
async def problems(env: SdkEnv) -> None:
    """What cannot be put in place, or was not sent, is reported; nothing of it is left, and the rest arrives."""
    target = env.target()
    (target / "is-directory" / "with").mkdir(parents=True)
    (target / "is-file").write_bytes(b"mine")
    env.gateway.sandbox.tree = [
        directory(),
        file(b".openshell-upload-7", b"staged"),
        file(b"is-directory", b"a file"),
        directory(b"is-file"),
        file(b"is-file/below", b"never"),
        file(b"not-sent", b"", reason="ACCESS_DENIED", message="made by the suite"),
        file(b"right", b"right"),
    ]
    answered = await fetched(env, target)
    env.check("ok", answered.outcome, equals="ok", clause="TRE-34")
    env.check("complete", answered.fields.get("complete"), equals=False, clause="TRE-34")
    reported = sorted(answered.problems)
    wanted = [".openshell-upload-7", "is-directory", "is-file", "is-file/below", "not-sent"]
    env.check("reported", reported, equals=wanted, clause="TRE-34")
    env.check("reasons", answered.problems.get("is-directory"), equals="IS_A_DIRECTORY", clause="TRE-46")
    env.check("not-sent", answered.problems.get("not-sent"), equals="ACCESS_DENIED", clause="TRE-25")
    env.check(
        "staging-file", answered.problems.get(".openshell-upload-7"), equals="PATH_FORBIDDEN", clause="TRE-23"
    )
    there = {"is-directory": None, "is-directory/with": None, "is-file": b"mine", "right": b"right"}
    env.check("tree", found(target), equals=there, clause="TRE-34")


@case(
    "sdk/received-tree/file-that-changed",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-42",),
    depends_on=("sdk/received-tree/everything",),
)
async def file_that_changed(env: SdkEnv) -> None:
    """A file that changes while it is sent ends with a reason: the old one stays, and it is reported."""
    target = env.target()
    target.mkdir()
    (target / "file").write_bytes(b"old")
    env.gateway.sandbox.tree = [directory(), file(b"file", env.content(100)), file(b"other")]

    def change(message: trees_pb2.DownloadTreeResponse) -> Any:
        for part in message.content.parts:
            if part.entry == 1:
                part.ClearField("digest")
                part.last, part.reason, part.data = False, "FILE_CHANGED", part.data[:50]
        return (message,)

    env.faults.always("DownloadTree", Fault(change=change))
    answered = await fetched(env, target)
    env.check("problems", answered.problems, equals={"file": "FILE_CHANGED"}, clause="TRE-42")
    env.check("tree", found(target), equals={"file": b"old", "other": b"content\n"}, clause="TRE-42")


@case(
    "sdk/received-tree/dry-run",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-11",),
    depends_on=("sdk/received-tree/everything",),
)
async def dry_run(env: SdkEnv) -> None:
    """A dry run writes nothing and asks for nothing."""
    env.gateway.sandbox.tree = [directory(), file(b"file"), directory(b"sub")]
    target = env.target()
    answered = await fetched(env, target, dry_run=True)
    env.check("ok", answered.outcome, equals="ok", clause="TRE-11")
    env.check("nothing-made", os.listdir(target.parent), equals=[], clause="TRE-11")
    needed = [
        number
        for call in env.book.of("DownloadTree")
        for one in call.payloads("reply")
        for number in one.needed
    ]
    env.check("needed", needed, equals=[], clause="TRE-11")


@case(
    "sdk/received-tree/delete-others",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-14", "TRE-50"),
    depends_on=("sdk/received-tree/everything",),
)
async def delete_others(env: SdkEnv) -> None:
    """What the tree does not have is deleted, but not what the sandbox left out or could not read."""
    target = env.target()
    for name in ("gone", "gone-directory/below", "kept/excluded", "unread/below", "there"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(b"local")
    env.gateway.sandbox.tree = [
        directory(),
        directory(b"kept", excluded=True),
        file(b"there", b"remote"),
        directory(b"unread", reason="ACCESS_DENIED"),
    ]
    answered = await fetched(env, target, delete_others=True)
    env.check("outcome", answered.outcome, equals="ok", clause="TRE-14")
    deleted = [name for name in ("gone", "gone-directory") if (target / name).exists()]
    env.check("deleted", deleted, equals=[], clause="TRE-14")
    kept = [name for name in ("kept/excluded", "unread/below") if not (target / name).exists()]
    env.check("kept", kept, equals=[], clause="TRE-50")


@case(
    "sdk/received-tree/nothing-deleted",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-14", "TRE-54"),
    depends_on=("sdk/received-tree/everything",),
)
async def nothing_deleted(env: SdkEnv) -> None:
    """A stream that ends early deletes nothing, and without the option nothing is deleted at all."""
    target = env.target()
    target.mkdir()
    (target / "mine").write_bytes(b"local")
    env.gateway.sandbox.tree = [directory(), file(b"file")]
    await fetched(env, target)
    env.check("without-the-option", found(target).get("mine"), equals=b"local", clause="TRE-14")
    env.gateway.sandbox.tree = [directory(), *(file(f"file-{number}".encode()) for number in range(5))]
    env.faults.always("DownloadTree", Fault(at="finish", status=LOST))
    answered = await fetched(env, target, delete_others=True, attempts=2)
    env.check("failed", answered.outcome, equals="error", clause="TRE-54")
    env.check("early-end", found(target).get("mine"), equals=b"local", clause="TRE-14")
    env.check("in-place-stays", found(target).get("file-1"), equals=b"content\n", clause="TRE-54")


@case(
    "sdk/received-tree/atomic",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-12", "TRE-13", "TRE-54"),
    depends_on=("sdk/received-tree/everything",),
)
async def atomic(env: SdkEnv) -> None:
    """All or nothing: a tree with a problem, or one whose stream is lost, leaves nothing at its path and nothing beside it."""
    tree = [directory(), file(b"file")]
    env.gateway.sandbox.tree = [*tree, file(b"unread", b"", reason="ACCESS_DENIED")]
    target = env.target()
    answered = await fetched(env, target, atomic=True)
    env.refused(answered, reasons=("TREE_INCOMPLETE", "FAILED_PRECONDITION"), clause="TRE-13")
    env.nothing_left(target, clause="TRE-13")
    env.gateway.sandbox.tree = tree
    env.faults.add("DownloadTree", *[Fault(at="finish", status=LOST)] * 2)
    lost = await fetched(env, target, atomic=True, attempts=2)
    env.check("lost", lost.outcome, equals="error", clause="TRE-54")
    env.nothing_left(target, name="nothing-left-lost", clause="TRE-54")
    whole = await fetched(env, target, atomic=True)
    env.check("whole", (whole.outcome, found(target)), equals=("ok", {"file": b"content\n"}), clause="TRE-12")


@case(
    "sdk/received-tree/lost-stream",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-55", "ERR-6", "TRE-7"),
    depends_on=("sdk/received-tree/everything",),
)
async def lost_stream(env: SdkEnv) -> None:
    """A lost stream is repeated, and goes on: what is in place is not asked for again."""
    env.gateway.sandbox.tree = [
        directory(),
        *(file(f"file-{number}".encode(), env.content(100 * KIB)) for number in range(4)),
    ]
    env.faults.add("DownloadTree", Fault(at="finish", status=LOST))
    target = env.target()
    answered = await fetched(env, target)
    env.check("ok", answered.outcome, equals="ok", clause="ERR-6")
    env.check("files", len(found(target)), equals=4, clause="TRE-55")
    again = [one.needed for call in env.book.of("DownloadTree")[1:] for one in call.payloads("reply")]
    env.check("asked-again", [number for needed in again for number in needed], equals=[], clause="TRE-7")
