"""Trees of a hostile sandbox: nothing outside of the target is made, changed or removed, whatever is sent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from openshell_files_conformance.cases.sdk.received_trees import directory, fetched, file, found, link
from openshell_files_conformance.pb.openshell.v1 import trees_pb2
from openshell_files_conformance.peers.file_calls import Fault
from openshell_files_conformance.peers.file_sandbox import TreeNode, digest_value
from openshell_files_conformance.peers.sdk_env import FEW_ATTEMPTS, SdkEnv
from openshell_files_conformance.registry import case

_EVERYTHING = ("sdk/received-tree/everything",)
_Response = trees_pb2.DownloadTreeResponse


def _surroundings(env: SdkEnv) -> tuple[Path, Path]:
    """Make a directory with something beside the target; return target and the file beside it."""
    target = env.target()
    beside = target.parent / "beside"
    beside.mkdir()
    (beside / "mine").write_bytes(b"mine")
    return target, beside


def _untouched(env: SdkEnv, beside: Path, clause: str, name: str = "outside") -> None:
    """Check that nothing but the target was made or changed."""
    outside = (
        found(beside),
        sorted(one for one in os.listdir(beside.parent) if one not in {"beside", "target"}),
    )
    env.check(name, outside, equals=({"mine": b"mine"}, []), clause=clause)


def _hostile(name: str, summary: str, *nodes: TreeNode, clause: str) -> None:
    """Register a case in which the entries of a tree break the protocol."""

    async def run(env: SdkEnv) -> None:
        target, beside = _surroundings(env)
        env.gateway.sandbox.tree = [directory(), file(b"before"), *nodes]
        answered = await fetched(env, target, attempts=FEW_ATTEMPTS)
        env.check("called", len(env.book.of("DownloadTree")), satisfies=("a call", bool), clause=clause)
        env.check("outcome", answered.outcome, equals="error", clause=clause)
        _untouched(env, beside, "TRE-44")
        env.check("left-the-call", await env.gateway.gone(env.scaled(3)), equals=True, clause=clause)

    run.__doc__ = summary
    clauses = (clause, "TRE-44")
    case(
        f"sdk/hostile-tree/{name}", profile="trees", needs=("trees",), clauses=clauses, depends_on=_EVERYTHING
    )(run)


_hostile("parent-path", "A path leads out by `..`.", file(b"../beside/mine", b"theirs"), clause="TRE-21")
_hostile(
    "parent-in-the-middle",
    "A path has `..` in the middle.",
    directory(b"d"),
    file(b"d/../../beside/mine", b"theirs"),
    clause="TRE-21",
)
_hostile(
    "absolute-path",
    "A path is absolute.",
    file(b"/tmp/openshell-conformance-outside", b"theirs"),
    clause="TRE-21",
)
_hostile("dot", "A path has the component `.`.", file(b"./file"), clause="TRE-21")
_hostile(
    "empty-component", "A path has an empty component.", directory(b"d"), file(b"d//file"), clause="TRE-21"
)
_hostile("second-top", "A second entry has the path of the top directory.", directory(b""), clause="TRE-21")
_hostile("nul", "A path has a NUL.", file(b"a\0b"), clause="TRE-21")
_hostile("long-name", "A name has 256 bytes.", file(b"n" * 256), clause="TRE-21")
_hostile("twice", "A name occurs twice.", file(b"twice"), file(b"twice"), clause="TRE-22")
_hostile("below-a-file", "The parent of an entry is a file.", file(b"before/below"), clause="TRE-20")
_hostile(
    "below-a-link",
    "The parent of an entry is a link that leads out.",
    link(b"out", b"../beside"),
    file(b"out/mine", b"theirs"),
    clause="TRE-20",
)
_hostile("below-nothing", "The parent of an entry was not announced.", file(b"nowhere/file"), clause="TRE-20")
_hostile(
    "late-child",
    "An entry comes after its directory is complete.",
    directory(b"d"),
    file(b"e"),
    file(b"d/late"),
    clause="TRE-20",
)
_hostile("set-id", "A mode has the set-user-id bit.", file(b"suid", mode=0o4755), clause="TRE-24")
_hostile("link-without-target", "A link has no target.", link(b"link", b""), clause="TRE-24")
_hostile(
    "hard-link-outside",
    "A hard link names a file outside.",
    file(b"hard", b"", hard_link=b"../beside/mine", size_bytes=4),
    clause="TRE-27",
)
_hostile(
    "hard-link-to-a-later-one",
    "A hard link names a later file.",
    file(b"hard", b"", hard_link=b"later", size_bytes=8),
    file(b"later"),
    clause="TRE-27",
)


_hostile(
    "below-an-excluded-one",
    "The parent of an entry was left out.",
    directory(b"d", excluded=True),
    file(b"d/file"),
    clause="TRE-20",
)
_hostile(
    "below-an-unread-one",
    "The parent of an entry could not be read.",
    directory(b"d", reason="ACCESS_DENIED"),
    file(b"d/file"),
    clause="TRE-20",
)
_hostile(
    "announced-parent",
    "`..` is announced as a directory, and the way out goes through it.",
    directory(b".."),
    directory(b"../beside"),
    file(b"../beside/mine", b"theirs"),
    clause="TRE-21",
)
_hostile(
    "announced-dot",
    "`.` is announced as a directory.",
    directory(b"."),
    file(b"./file"),
    clause="TRE-21",
)


@case(
    "sdk/hostile-tree/announced-root",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-21", "TRE-44"),
    depends_on=_EVERYTHING,
)
async def announced_root(env: SdkEnv) -> None:
    """Each directory of an absolute path is announced, down to a file outside of the target."""
    target, beside = _surroundings(env)
    absolute = os.fsencode(beside)
    steps = [b"/".join(absolute.split(b"/")[:depth]) for depth in range(2, absolute.count(b"/") + 2)]
    env.gateway.sandbox.tree = [directory(), *map(directory, steps), file(absolute + b"/mine", b"theirs")]
    answered = await fetched(env, target, attempts=FEW_ATTEMPTS)
    env.check("called", len(env.book.of("DownloadTree")), satisfies=("a call", bool), clause="TRE-21")
    env.check("outcome", answered.outcome, equals="error", clause="TRE-21")
    _untouched(env, beside, "TRE-44")


@case(
    "sdk/hostile-tree/without-top",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-4", "TRE-44"),
    depends_on=_EVERYTHING,
)
async def without_top(env: SdkEnv) -> None:
    """Entry 0 is a file and not the top directory."""
    target, beside = _surroundings(env)
    env.gateway.sandbox.tree = [file(b"file"), directory()]
    answered = await fetched(env, target, attempts=FEW_ATTEMPTS)
    env.check("called", len(env.book.of("DownloadTree")), satisfies=("a call", bool), clause="TRE-4")
    env.check("outcome", answered.outcome, equals="error", clause="TRE-4")
    _untouched(env, beside, "TRE-44")


@case(
    "sdk/hostile-tree/link-that-was-there",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-44", "TRE-46"),
    depends_on=_EVERYTHING,
)
async def link_that_was_there(env: SdkEnv) -> None:
    """Where the tree has a directory, the target has a link that leads out: it is not followed."""
    target, beside = _surroundings(env)
    target.mkdir()
    (target / "sub").symlink_to(beside)
    env.gateway.sandbox.tree = [
        directory(),
        directory(b"sub"),
        file(b"sub/mine", b"theirs"),
        file(b"sub/new"),
    ]
    answered = await fetched(env, target)
    _untouched(env, beside, "TRE-44")
    env.check("reported", answered.problems.get("sub"), equals="LEAF_IS_LINK", clause="TRE-46")


@case(
    "sdk/hostile-tree/link-that-is-replaced",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-44", "TRE-46"),
    depends_on=_EVERYTHING,
)
async def link_that_is_replaced(env: SdkEnv) -> None:
    """Where the tree has a file, the target has a link that leads out: the link is replaced, not what it names."""
    target, beside = _surroundings(env)
    target.mkdir()
    (target / "file").symlink_to(beside / "mine")
    env.gateway.sandbox.tree = [directory(), file(b"file", b"theirs")]
    answered = await fetched(env, target)
    env.check("ok", answered.outcome, equals="ok", clause="TRE-46")
    env.check("replaced", found(target), equals={"file": b"theirs"}, clause="TRE-46")
    _untouched(env, beside, "TRE-44")


@case(
    "sdk/hostile-tree/deletes-through-no-link",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-44", "TRE-14"),
    depends_on=_EVERYTHING,
)
async def deletes_through_no_link(env: SdkEnv) -> None:
    """A link that leads out is deleted itself, and nothing of what it names."""
    target, beside = _surroundings(env)
    target.mkdir()
    (target / "out").symlink_to(beside)
    env.gateway.sandbox.tree = [directory(), file(b"file")]
    answered = await fetched(env, target, delete_others=True)
    env.check("ok", answered.outcome, equals="ok", clause="TRE-14")
    env.check("deleted", found(target), equals={"file": b"content\n"}, clause="TRE-14")
    _untouched(env, beside, "TRE-44")


def _damaged(name: str, summary: str, change: Any, *, clause: str, problem: str = "") -> None:
    """Register a case in which content or the end of a tree is damaged: a violation, or the problem of one entry."""

    async def run(env: SdkEnv) -> None:
        target = env.target()
        target.mkdir()
        (target / "file").write_bytes(b"old")
        env.gateway.sandbox.tree = [directory(), file(b"file", b"0123456789"), file(b"other")]
        env.faults.always("DownloadTree", Fault(change=change))
        answered = await fetched(env, target, attempts=FEW_ATTEMPTS)
        env.check("called", len(env.book.of("DownloadTree")), satisfies=("a call", bool), clause=clause)
        if problem:
            env.check("problem", answered.problems, equals={"file": problem}, clause=clause)
        else:
            env.check("outcome", answered.outcome, equals="error", clause=clause)
        placed = (b"old", b"0123456789") if clause in {"TRE-15", "TRE-53"} else (b"old",)
        env.check("kept", found(target).get("file"), one_of=placed, clause="TRE-34")
        known = {"file", "other"}
        env.check("nothing-else", set(found(target)) - known, equals=set(), clause="TRE-34")

    run.__doc__ = summary
    clauses = tuple(dict.fromkeys((clause, "TRE-34")))
    case(
        f"sdk/hostile-tree/{name}", profile="trees", needs=("trees",), clauses=clauses, depends_on=_EVERYTHING
    )(run)


def _part(message: _Response) -> trees_pb2.TreePart | None:
    """Return the part of the first file, if the message has it."""
    return next((part for part in message.content.parts if part.entry == 1), None)


def _digest(message: _Response) -> Any:
    if (part := _part(message)) is not None:
        part.digest = bytes([part.digest[0] ^ 1]) + part.digest[1:]
    return (message,)


def _other_content(message: _Response) -> Any:
    if (part := _part(message)) is not None:
        part.data = b"012345678X"
    return (message,)


def _short(message: _Response) -> Any:
    if (part := _part(message)) is not None:
        part.data, part.digest = b"01234", digest_value(b"01234", 2)
    return (message,)


def _beyond(message: _Response) -> Any:
    if (part := _part(message)) is not None:
        part.data += b"more"
    return (message,)


def _gap(message: _Response) -> Any:
    if (part := _part(message)) is not None:
        part.offset = 1
    return (message,)


def _hole(message: _Response) -> Any:
    if (part := _part(message)) is not None:
        part.hole_bytes = 1 << 50
    return (message,)


def _not_needed(message: _Response) -> Any:
    if (part := _part(message)) is not None:
        part.entry = 0
    return (message,)


def _announced_later(message: _Response) -> Any:
    if (part := _part(message)) is not None:
        part.entry = 77
    return (message,)


def _wrong_end(message: _Response) -> Any:
    if message.HasField("end"):
        message.end.entries += 1
    return (message,)


def _no_end(message: _Response) -> Any:
    return () if message.HasField("end") else (message,)


def _early_end(message: _Response) -> Any:
    if _part(message) is not None:
        return (_Response(end=trees_pb2.TreeEnd(entries=3)),)
    return () if message.HasField("content") or message.HasField("end") else (message,)


for _name, _summary, _change, _clause, _problem in (
    (
        "wrong-digest",
        "The digest of a file is not that of its content.",
        _digest,
        "TRE-40",
        "DIGEST_MISMATCH",
    ),
    ("other-content", "A byte of a file is another one.", _other_content, "TRE-40", "DIGEST_MISMATCH"),
    ("short-content", "The content of a file ends early.", _short, "TRE-40", "SIZE_MISMATCH"),
    ("content-beyond", "Content comes behind the announced size.", _beyond, "TRE-39", ""),
    ("gap", "Content comes at another offset.", _gap, "TRE-37", ""),
    ("endless-hole", "A hole is larger than the file.", _hole, "TRE-39", ""),
    ("content-of-a-directory", "Content comes for a directory.", _not_needed, "TRE-31", ""),
    (
        "content-of-nothing",
        "Content comes for an entry that was not announced.",
        _announced_later,
        "TRE-6",
        "",
    ),
    ("wrong-end", "The end counts another number of entries.", _wrong_end, "TRE-15", ""),
    (
        "without-end",
        "The stream ends with OK and without an end: the tree is incomplete.",
        _no_end,
        "TRE-53",
        "",
    ),
    ("early-end", "The end comes before needed content.", _early_end, "TRE-15", ""),
):
    _damaged(_name, _summary, _change, clause=_clause, problem=_problem)
