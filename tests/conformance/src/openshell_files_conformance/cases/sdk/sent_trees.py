"""Trees that an SDK sends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from openshell_files_conformance.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_conformance.peers.file_calls import Answered, Fault
from openshell_files_conformance.peers.file_sandbox import KIB, MIB, TreeNode
from openshell_files_conformance.peers.file_status import LOST, refusal
from openshell_files_conformance.peers.sdk_env import FEW_ATTEMPTS, Answer, SdkEnv
from openshell_files_conformance.registry import case

TREE_RULES: Final = (
    "TRE-2",
    "TRE-4",
    "TRE-5",
    "TRE-15",
    "TRE-20",
    "TRE-21",
    "TRE-22",
    "TRE-24",
    "TRE-27",
    "TRE-31",
    "TRE-37",
    "TRE-38",
)
_Answer = trees_pb2.UploadTreeResponse


def source(env: SdkEnv) -> Path:
    """Make a local tree of every kind of entry."""
    top = env.directory / env.fresh_name("tree")
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "a.txt").write_bytes(env.content(10))
    (top / "large").write_bytes(env.content(300 * KIB))
    (top / "none").write_bytes(b"")
    (top / "sub" / "deep" / "b").write_bytes(env.content(1000))
    os.link(top / "a.txt", top / "sub" / "other-name")
    (top / "link").symlink_to("a.txt")
    (top / "dangling").symlink_to("../nowhere")
    outside = env.directory / env.fresh_name("outside")
    outside.mkdir()
    (outside / "secret").write_bytes(b"not of this tree")
    (top / "out").symlink_to(outside)
    (top / "sub" / "run").write_bytes(b"#!/bin/sh\n")
    (top / "sub" / "run").chmod(0o755)
    os.utime(top / "none", ns=(5, 1_234_567_890_123_456_789))
    return top


async def sent(env: SdkEnv, top: Path, **options: Any) -> Answer:
    """Have a tree uploaded."""
    return await env.ask("upload_tree", local=str(top), remote="tree", options=options or None)


def received(env: SdkEnv) -> dict[str, TreeNode]:
    """Return what is in place in the sandbox, by path."""
    return {path.decode(): node for path, node in env.gateway.sandbox.trees.get(b"tree", {}).items()}


@case(
    "sdk/sent-tree/everything",
    profile="trees",
    needs=("trees",),
    clauses=(*TREE_RULES, "TRE-26", "TRE-28", "TRE-33"),
)
async def everything(env: SdkEnv) -> None:
    """Files, directories, links and hard links arrive as they are, by the rules of a stream."""
    top = source(env)
    answered = await sent(env, top)
    env.check("ok", answered.outcome, equals="ok", clause="TRE-15")
    env.check("complete", answered.fields.get("complete"), equals=True, clause="TRE-33")
    there = received(env)
    wanted = sorted(str(path.relative_to(top)) for path in top.rglob("*"))
    env.check("entries", sorted(path for path in there if path), equals=wanted, clause="TRE-15")
    content = {
        path: there[path].content if path in there else None for path in ("large", "none", "sub/deep/b")
    }
    right = {path: (top / path).read_bytes() for path in content}
    env.check("content", content == right, equals=True, clause="TRE-37")
    targets = [_entry(there, name).link_target for name in ("link", "dangling")]
    env.check("links", targets, equals=[b"a.txt", b"../nowhere"], clause="TRE-24")
    leaked = [path for path, node in there.items() if "secret" in path or b"not of" in node.content]
    env.check("nothing-from-outside", leaked, equals=[], clause="TRE-28")
    env.check("mode", oct(_entry(there, "sub/run").mode), equals="0o755", clause="TRE-24")
    none = _entry(there, "none")
    when = none.modified_seconds, none.modified_nanos
    env.check("modified", when, equals=(1_234_567_890, 123_456_789), clause="TRE-24")
    hard = {_entry(there, "a.txt").hard_link, _entry(there, "sub/other-name").hard_link}
    env.check("hard-link", hard, one_of=({b"", b"a.txt"}, {b"", b"sub/other-name"}, {b""}), clause="TRE-27")
    env.check("losses", list(_entry(there, "a.txt").losses), equals=[], clause="TRE-26")
    env.well_formed(*TREE_RULES)


def _entry(there: dict[str, TreeNode], path: str) -> trees_pb2.TreeEntry:
    node = there.get(path)
    return trees_pb2.TreeEntry() if node is None else node.entry


@case(
    "sdk/sent-tree/only-what-is-needed",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-31",),
    depends_on=("sdk/sent-tree/everything",),
)
async def only_what_is_needed(env: SdkEnv) -> None:
    """What the sandbox has is not sent."""
    env.gateway.trees.present = {b"large", b"none", b"sub/deep/b"}
    answered = await sent(env, source(env))
    env.check("ok", answered.outcome, equals="ok", clause="TRE-31")
    (call,) = env.book.of("UploadTree")[:1] or (None,)
    parts = [part.entry for content in (call.payloads("content") if call else ()) for part in content.parts]
    entries = [
        entry for manifest in (call.payloads("manifest") if call else ()) for entry in manifest.entries
    ]
    paths = {entries[number].path for number in parts}
    env.check("sent", paths & env.gateway.trees.present, equals=set(), clause="TRE-31")
    env.check("sent-others", len(paths), satisfies=("the other files", lambda n: n >= 2), clause="TRE-31")
    env.well_formed("TRE-31")


@case(
    "sdk/sent-tree/by-content",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-3", "TRE-8", "TRE-38"),
    depends_on=("sdk/sent-tree/everything",),
)
async def by_content(env: SdkEnv) -> None:
    """With digests in the manifest: none before the sandbox named the algorithm, then one for each file, and the right one."""
    env.gateway.trees.started_after = 0.2
    answered = await sent(env, source(env), compare_content=True)
    env.check("ok", answered.outcome, equals="ok", clause="TRE-8")
    starts = [call.request.start.compare_content for call in env.book.of("UploadTree")]
    env.check("asked", starts, equals=[True], clause="TRE-8")
    env.well_formed("TRE-3", "TRE-8", "TRE-38")


@case(
    "sdk/sent-tree/many-entries",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-5", "TRE-15"),
    depends_on=("sdk/sent-tree/everything",),
)
async def many_entries(env: SdkEnv) -> None:
    """A directory with 2500 files is announced in several manifests."""
    top = env.directory / "many"
    top.mkdir()
    for number in range(2500):
        (top / f"file-{number:04}").write_bytes(b"x")
    answered = await sent(env, top)
    env.check("ok", answered.outcome, equals="ok", clause="TRE-15")
    env.check("entries", len(received(env)), equals=2501, clause="TRE-15")
    env.well_formed("TRE-5")


@case(
    "sdk/sent-tree/problem",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-34", "TRE-31"),
    depends_on=("sdk/sent-tree/everything",),
)
async def problem(env: SdkEnv) -> None:
    """An entry that the sandbox cannot put in place is reported with its reason, and the others arrive."""
    env.gateway.trees.problems = {b"sub/run": "ACCESS_DENIED"}
    answered = await sent(env, source(env))
    env.check("ok", answered.outcome, equals="ok", clause="TRE-34")
    env.check("problems", answered.problems, equals={"sub/run": "ACCESS_DENIED"}, clause="TRE-34")
    env.check("complete", answered.fields.get("complete"), equals=False, clause="TRE-34")
    env.check("others", "large" in received(env), equals=True, clause="TRE-34")
    env.well_formed("TRE-31")


@case(
    "sdk/sent-tree/unreadable",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-25", "TRE-23"),
    depends_on=("sdk/sent-tree/everything",),
)
async def unreadable(env: SdkEnv) -> None:
    """A special file is announced with a reason and reported; a name of a staging file is left out; the rest is sent."""
    top = source(env)
    os.mkfifo(top / "fifo")
    (top / ".openshell-upload-1").write_bytes(b"left by an agent")
    answered = await sent(env, top)
    env.check("ok", answered.outcome, equals="ok", clause="TRE-25")
    entries = [
        entry
        for call in env.book.of("UploadTree")
        for manifest in call.payloads("manifest")
        for entry in manifest.entries
    ]
    reasons = {entry.path: entry.reason for entry in entries}
    env.check("announced", reasons.get(b"fifo"), satisfies=("a reason", bool), clause="TRE-25")
    env.check("reported", "fifo" in answered.problems, equals=True, clause="TRE-25")
    env.check("staging-file", b".openshell-upload-1" in reasons, equals=False, clause="TRE-23")
    env.check("others", "large" in received(env), equals=True, clause="TRE-25")


@case(
    "sdk/sent-tree/dry-run",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-11",),
    depends_on=("sdk/sent-tree/everything",),
)
async def dry_run(env: SdkEnv) -> None:
    """A dry run is asked for as one, and sends no content."""
    answered = await sent(env, source(env), dry_run=True)
    env.check("ok", answered.outcome, equals="ok", clause="TRE-11")
    calls = env.book.of("UploadTree")
    env.check("asked", [call.request.start.dry_run for call in calls], equals=[True], clause="TRE-11")
    contents = [len(call.payloads("content")) for call in calls]
    env.check("content", sum(contents), equals=0, clause="TRE-11")


@case(
    "sdk/sent-tree/changing-file",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-41", "TRE-42"),
    depends_on=("sdk/sent-tree/everything",),
)
async def changing_file(env: SdkEnv) -> None:
    """A file that becomes shorter while it is sent ends with a reason, and is reported; its rest is not made up."""
    top = env.directory / "changing"
    top.mkdir()
    (top / "file").write_bytes(env.content(32 * MIB))
    (top / "small").write_bytes(b"small")

    def shrink(_: object) -> None:
        os.truncate(top / "file", MIB)

    env.faults.add("UploadTree", Fault(at="content", after_bytes=100, then=shrink, of_received=True))
    answered = await sent(env, top)
    parts = [
        part
        for call in env.book.of("UploadTree")
        for content in call.payloads("content")
        for part in content.parts
        if part.reason or part.last
    ]
    env.check("reasons", {part.reason for part in parts}, equals={"", "FILE_CHANGED"}, clause="TRE-41")
    env.check("reported", answered.problems, equals={"file": "FILE_CHANGED"}, clause="TRE-42")


@case(
    "sdk/sent-tree/lost-stream",
    profile="trees",
    needs=("trees",),
    clauses=("TRE-55", "ERR-6"),
    depends_on=("sdk/sent-tree/everything",),
)
async def lost_stream(env: SdkEnv) -> None:
    """A lost stream is repeated, with a new one that begins at entry 0."""
    env.faults.add("UploadTree", Fault(at="finish", status=LOST))
    answered = await sent(env, source(env))
    env.check("ok", answered.outcome, equals="ok", clause="ERR-6")
    arrived = "large" in received(env)
    env.check("arrived", arrived, equals=answered.ok, clause="TRE-55")


@case(
    "sdk/sent-tree/refused",
    profile="trees",
    needs=("trees",),
    clauses=("ERR-1", "ERR-7"),
    depends_on=("sdk/sent-tree/everything",),
)
async def refused(env: SdkEnv) -> None:
    """A tree that is refused is not sent again."""
    env.faults.always("UploadTree", Fault(status=refusal("LEAF_IS_LINK")))
    answered = await sent(env, source(env))
    env.refused(answered, reasons=("LEAF_IS_LINK", "FAILED_PRECONDITION"), clause="ERR-7")
    env.check("calls", len(env.book.of("UploadTree")), equals=1, clause="ERR-1")


def _broken(name: str, summary: str, change: Any, *, clause: str) -> None:
    """Register a case in which the sandbox breaks the protocol of a tree that is sent."""

    async def run(env: SdkEnv) -> None:
        env.faults.always("UploadTree", Fault(change=change))
        answered = await sent(env, source(env), attempts=FEW_ATTEMPTS)
        env.check("called", len(env.book.of("UploadTree")), satisfies=("a call", bool), clause=clause)
        env.check("outcome", answered.outcome, equals="error", clause=clause)
        env.check("left-the-call", await env.gateway.gone(env.scaled(3)), equals=True, clause=clause)

    run.__doc__ = summary
    requires = ("sdk/sent-tree/everything",)
    case(f"sdk/sent-tree/{name}", profile="trees", needs=("trees",), clauses=(clause,), depends_on=requires)(
        run
    )


def _without_result(answer: _Answer) -> Any:
    return () if answer.HasField("result") else (answer,)


def _unknown_entry(answer: _Answer) -> Any:
    if answer.HasField("reply"):
        answer.reply.needed.append(999)
    return (answer,)


def _too_many_decided(answer: _Answer) -> Any:
    if answer.HasField("reply"):
        answer.reply.decided_entries += 5
    return (answer,)


def _falling(answer: _Answer) -> Any:
    fallen = _Answer(reply=trees_pb2.TreeReply(decided_entries=1))
    return (answer, fallen) if answer.HasField("reply") else (answer,)


def _needed_directory(answer: _Answer) -> Any:
    if answer.HasField("reply"):
        answer.reply.needed.insert(0, 0)
    return (answer,)


def _repeated_change(answer: _Answer) -> Any:
    if answer.HasField("reply") and answer.reply.changed:
        answer.reply.changed.append(answer.reply.changed[0])
    return (answer,)


def _without_started(answer: _Answer) -> Any:
    return () if answer.HasField("started") else (answer,)


def _early_result(answer: _Answer) -> Any:
    if answer.HasField("reply"):
        info = files_pb2.FileInfo(path="/tree", type=files_pb2.FILE_TYPE_DIRECTORY, version="t")
        raise Answered(_Answer(result=trees_pb2.UploadTreeResult(directory=info)))
    return (answer,)


def _unknown_algorithm(answer: _Answer) -> Any:
    number: Any = 99
    if answer.HasField("started"):
        answer.started.digest_algorithm = number
    return (answer,)


for _name, _summary, _change, _clause in (
    (
        "without-result",
        "The stream ends with OK and without a result: the tree is incomplete.",
        _without_result,
        "TRE-53",
    ),
    ("unknown-entry", "The sandbox needs an entry that was not announced.", _unknown_entry, "TRE-6"),
    ("too-many-decided", "The sandbox decides more entries than were announced.", _too_many_decided, "TRE-6"),
    ("falling-number", "The number of decided entries falls.", _falling, "TRE-30"),
    ("repeated-change", "The sandbox says twice that an entry is in place.", _repeated_change, "TRE-30"),
    ("needed-directory", "The sandbox needs the content of a directory.", _needed_directory, "TRE-31"),
    ("without-started", "The first message is not `started`.", _without_started, "TRE-3"),
    ("early-result", "The result comes before the end of the tree.", _early_result, "TRE-53"),
    (
        "unknown-algorithm",
        "The digests are of an algorithm that the SDK did not accept.",
        _unknown_algorithm,
        "RFC-9",
    ),
):
    _broken(_name, _summary, _change, clause=_clause)
