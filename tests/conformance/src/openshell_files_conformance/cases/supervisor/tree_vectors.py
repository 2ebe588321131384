"""The vectors of trees: streams, most of them hostile, and what a receiver makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from openshell_files_conformance.cases.supervisor.vector_names import every_clause, slug
from openshell_files_conformance.cases.supervisor.vector_places import Place, path_of
from openshell_files_conformance.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_conformance.peers.operation import OK, digest
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.peers.tree_stream import TreeUpload
from openshell_files_conformance.registry import case
from openshell_files_conformance.vectors_data import value, vectors

FILES: Final = ("valid", "names", "entries", "content", "limits", "ends", "deleting")
_TYPES: Final = {
    "file": files_pb2.FILE_TYPE_REGULAR,
    "directory": files_pb2.FILE_TYPE_DIRECTORY,
    "link": files_pb2.FILE_TYPE_SYMLINK,
    "special": files_pb2.FILE_TYPE_SPECIAL,
}


def _entry(given: Mapping[str, Any], n: int) -> trees_pb2.TreeEntry:
    kind = given.get("type", "file")
    return trees_pb2.TreeEntry(
        path=path_of(given.get("path", ""), n),
        type=_TYPES[kind] if isinstance(kind, str) else kind,
        size_bytes=int(given.get("size_bytes", "0")),
        mode=int(given.get("mode", "0644"), 8),
        modified_seconds=int(given.get("modified_seconds", "1000000000")),
        modified_nanos=given.get("modified_nanos", 0),
        link_target=path_of(given.get("link_target", ""), n),
        hard_link=path_of(given.get("hard_link", ""), n),
        digest=bytes.fromhex(given.get("digest") or ""),
        excluded=given.get("excluded", False),
        reason=given.get("reason", ""),
    )


def _part(given: Mapping[str, Any]) -> trees_pb2.TreePart:
    whole = given.get("digest_of")
    told = bytes.fromhex(given.get("digest") or "")
    if whole is not None and not told:
        told = digest(value(whole)).value
    return trees_pb2.TreePart(
        entry=int(given["entry"]),
        offset=int(given.get("offset", "0")),
        data=value(given.get("data", "")),
        hole_bytes=int(given.get("hole_bytes", "0")),
        last=given.get("last", False),
        digest=told,
        reason=given.get("reason", ""),
    )


def messages_of(given: Sequence[Mapping[str, Any]]) -> Iterator[trees_pb2.UploadTreeRequest]:
    """Yield the messages of the sender."""
    for message in given:
        if "manifest" in message:
            for repetition in range(message.get("times", 1)):
                entries = [
                    _entry(entry, repetition * entry.get("times", 1) + n)
                    for entry in message["manifest"]
                    for n in range(entry.get("times", 1))
                ]
                yield trees_pb2.UploadTreeRequest(manifest=trees_pb2.TreeManifest(entries=entries))
        elif "content" in message:
            parts = [_part(part) for part in message["content"]]
            yield trees_pb2.UploadTreeRequest(content=trees_pb2.TreeContent(parts=parts))
        else:
            yield trees_pb2.UploadTreeRequest(end=trees_pb2.TreeEnd(entries=int(message.get("end", "0"))))


def _register(file: str, given: Mapping[str, Any]) -> None:
    clauses, outcome = tuple(given["clauses"]), given["outcome"]
    options = given.get("options", {})
    launch = {"max_tree_entries": int(options["max_entries"])} if options.get("max_entries") else {}
    limits = {"max_file_bytes": int(options["max_file_bytes"])} if options.get("max_file_bytes") else {}

    async def run(env: SupervisorEnv) -> None:
        place = Place(env)
        await place.make(given.get("before"))
        start = trees_pb2.UploadTreeStart(
            path=place.top.encode(),
            delete_others=options.get("delete_others", False),
            atomic=options.get("atomic", False),
            dry_run=options.get("dry_run", False),
            compare_content=options.get("compare_content", False),
            # The vectors are about rules; flushing is for other cases.
            durability=files_pb2.DURABILITY_RENAME,
        )
        relay = await env.relay()
        await relay.begin(env.opening(upload_tree=start, limits=limits))
        tree = TreeUpload(relay)
        await tree.wait(lambda: tree.started is not None)
        await tree.send_all(messages_of(given["messages"]))
        lost = "end" not in given["messages"][-1] and "reason" not in outcome
        if lost:
            # The stream is lost after the agent has taken the last message.
            await tree.wait(lambda: _said(tree), env.scaled(2))
            await relay.input_end()
        ended = await tree.outcome(env.scaled(20))
        wanted = "UPLOAD_INCOMPLETE" if lost else outcome.get("reason") or OK
        ends = ["end" in message for message in given["messages"]]
        # Whoever has answered the end may leave what comes behind it unread.
        allowed = (wanted, OK) if any(ends[:-1]) else (wanted,)
        env.check("reason", ended.reason, one_of=allowed, clause=clauses[0])
        if outcome.get("reason") is None:
            _replies(env, tree, lost=lost)
        there = await env.files.exists(place.top)
        # A refusal of what comes behind the end may overtake the content before it.
        if (there or given.get("before") is not None) and not any(ends[:-1]):
            wrong = await place.differences(outcome.get("files"))
            env.check("files", wrong, equals=[], clause=clauses[0])
        if given.get("before") is None and ("reason" in outcome or outcome.get("files", ()) is None):
            env.check("not-made", there, equals=False, clause=clauses[0])
        env.check("beside", await place.beside(), equals=[], clause=clauses[0])
        every_clause(env, clauses)

    def _said(tree: TreeUpload) -> bool:
        lists = (
            (tree.needed, outcome.get("needed") or ()),
            (tree.changed, outcome.get("changed") or ()),
            (tree.problems, outcome.get("problems", ())),
        )
        return all(len(seen) >= len(wanted) for seen, wanted in lists)

    def _replies(env: SupervisorEnv, tree: TreeUpload, *, lost: bool) -> None:
        for name, seen in (("needed", tree.needed), ("changed", tree.changed)):
            wanted = outcome.get(name, ())
            if wanted is not None:
                env.check(name, sorted(seen), equals=sorted(map(int, wanted)), clause=clauses[0])
        problems = sorted((int(one["entry"]), one["reason"]) for one in outcome.get("problems", ()))
        env.check("problems", sorted(tree.problems), equals=problems, clause=clauses[0])
        deleted = sorted(map(path_of, outcome.get("deleted", ())))
        env.check("deleted", sorted(tree.deleted), equals=deleted, clause=clauses[0])
        if not lost:
            announced = sum(len(message.manifest.entries) for message in messages_of(given["messages"]))
            env.check("decided", tree.decided, equals=announced, clause=clauses[0])

    run.__doc__ = f"Vector of trees, {file}: {given['name']}."
    case(
        f"supervisor/tree-{file}/{slug(given['name'])}",
        profile="trees",
        clauses=clauses,
        needs=("trees",),
        launch=launch,
    )(run)


for _file in FILES:
    for _given in vectors(f"trees/{_file}")["trees"]:
        # What folds names is the file system, and the suite has none that does.
        if not _given.get("options", {}).get("folds"):
            _register(_file, _given)
