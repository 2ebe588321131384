"""The vectors of trees and archives against a whole server, as far as they begin with an empty directory; observed by DownloadTree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from openshell_files_conformance.cases.supervisor.tree_vectors import FILES, messages_of
from openshell_files_conformance.cases.supervisor.vector_names import every_clause, slug
from openshell_files_conformance.cases.supervisor.vector_places import path_of
from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.caller import OK
from openshell_files_conformance.peers.gateway_env import GatewayEnv
from openshell_files_conformance.peers.tree_calls import TreeUpload, begin_tree, differences, download_tree
from openshell_files_conformance.registry import case
from openshell_files_conformance.vectors_data import value, vectors

_ARCHIVES: Final = ("names", "links", "members", "damage")
_TREES: Final = ("trees", "own-sandbox")
_OPTIONS: Final = ("delete_others", "atomic", "dry_run", "compare_content")


async def make_top(env: GatewayEnv, path: str) -> None:
    """Make a directory, by an empty tree.

    Raises:
        CannotGoOnError: the server does not.
    """
    upload = await begin_tree(env.caller, path)
    await upload.send(*messages_of([{"manifest": [{"type": "directory", "mode": "0755"}]}, {"end": "1"}]))
    ended = await upload.end()
    if not ended.ok:
        raise CannotGoOnError(f"a tree that only prepares the case: {ended}")


def _replies(env: GatewayEnv, upload: TreeUpload, outcome: Mapping[str, Any], clause: str) -> None:
    for name, seen in (("needed", upload.needed), ("changed", upload.changed)):
        wanted = outcome.get(name, ())
        if wanted is not None:
            env.check(name, sorted(seen), equals=sorted(map(int, wanted)), clause=clause)
    problems = sorted((int(one["entry"]), one["reason"]) for one in outcome.get("problems", ()))
    env.check("problems", sorted(upload.problems), equals=problems, clause=clause)


def _register(file: str, given: Mapping[str, Any]) -> None:
    clauses, outcome, options = tuple(given["clauses"]), given["outcome"], given.get("options", {})
    lost = "end" not in given["messages"][-1] and "reason" not in outcome
    ends = ["end" in message for message in given["messages"]]

    async def run(env: GatewayEnv) -> None:
        path = env.path("top")
        if given.get("before") is not None:
            await make_top(env, path)
        chosen = {name: options.get(name, False) for name in _OPTIONS}
        upload = await begin_tree(env.caller, path, durability=files_pb2.DURABILITY_RENAME, **chosen)
        await upload.wait(lambda: upload.started is not None)
        await upload.send_all(messages_of(given["messages"]))
        if lost:
            lists = ((upload.needed, "needed"), (upload.changed, "changed"), (upload.problems, "problems"))
            await upload.wait(
                lambda: all(len(seen) >= len(outcome.get(name) or ()) for seen, name in lists), env.scaled(2)
            )
        ended = await upload.end(half_close=lost or "reason" not in outcome)
        wanted = "UPLOAD_INCOMPLETE" if lost else outcome.get("reason") or OK
        # Whoever has answered the end may leave what comes behind it unread.
        env.check(
            "reason", ended.reason, one_of=(wanted, OK) if any(ends[:-1]) else (wanted,), clause=clauses[0]
        )
        if any(ends[:-1]) and ended.ok:
            env.check("answered-the-end", upload.result is not None, equals=True, clause=clauses[0])
        if outcome.get("reason") is None:
            _replies(env, upload, outcome, clauses[0])
            if not lost:
                env.check("result-last", upload.result is not None, equals=True, clause=clauses[0])
        found = await download_tree(env.caller, path)
        there = found.ended is not None and found.ended.ok
        if given.get("before") is None and ("reason" in outcome or outcome.get("files", ()) is None):
            env.check("not-made", there, equals=False, clause=clauses[0])
        elif there and not any(ends[:-1]):
            env.check(
                "files", differences(found, outcome.get("files"), path_of), equals=[], clause=clauses[0]
            )
        every_clause(env, clauses)

    run.__doc__ = f"Vector of trees, {file}: {given['name']}."
    # Thousands of entries take their time, up and down again.
    timeout = 60.0 if file == "limits" else 20.0
    case(
        f"gateway/tree-{file}/{slug(given['name'])}",
        profile="trees",
        clauses=clauses,
        needs=_TREES,
        timeout=timeout,
    )(run)


def _register_archive(file: str, given: Mapping[str, Any]) -> None:
    clauses, outcome = tuple(given["clauses"]), given["outcome"]

    async def run(env: GatewayEnv) -> None:
        path = env.path("top")
        await make_top(env, path)
        archive = value(given["archive"])
        done = await env.caller.upload(path, archive, is_archive=True, durability=files_pb2.DURABILITY_RENAME)
        env.check("reason", done.reason, equals=outcome.get("reason") or OK, clause=clauses[0])
        if outcome.get("reason") is None and done.ok:
            told = done.answer.archive
            if outcome.get("entries") is not None:
                env.check("entries", told.entries, equals=int(outcome["entries"]), clause=clauses[0])
            problems = [(path_of(one["path"]), one["reason"]) for one in outcome.get("problems", ())]
            env.check(
                "problems",
                [(one.path, one.reason) for one in told.problems],
                equals=problems,
                clause=clauses[0],
            )
        found = await download_tree(env.caller, path)
        env.check("files", differences(found, outcome.get("files"), path_of), equals=[], clause=clauses[0])
        every_clause(env, clauses)

    run.__doc__ = f"Vector of archives, {file}: {given['name']}."
    case(
        f"gateway/archive-{file}/{slug(given['name'])}",
        profile="archives",
        clauses=clauses,
        needs=("archives", *_TREES),
    )(run)


def _empty_before(given: Mapping[str, Any]) -> bool:
    options = given.get("options", {})
    return (
        not given.get("before")
        and not options.get("folds")
        and not {"max_entries", "max_file_bytes"} & options.keys()
    )


for _file in FILES:
    for _given in vectors(f"trees/{_file}")["trees"]:
        if _empty_before(_given):
            _register(_file, _given)
for _file in _ARCHIVES:
    for _given in vectors(f"archives/{_file}")["archives"]:
        if not _given.get("before") and not _given.get("limits"):
            _register_archive(_file, _given)
