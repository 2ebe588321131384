"""The vectors of paths: names that are none, odd names, and trees with links that lead everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from openshell_files_conformance.cases.supervisor.vector_names import every_clause, slug
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.operation import OK, Outcome
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.registry import case
from openshell_files_conformance.vectors_data import vectors

#: What every file in these trees has in it.
_CONTENT: Final = b"x"


def _register_refused(given: Mapping[str, Any]) -> None:
    path, clauses = "".join(given["path"]), tuple(given["clauses"])
    stat = given["stat"] is None
    named = tuple(clause for clause in clauses if clause == "PTH-2" or stat)

    async def run(env: SupervisorEnv) -> None:
        uploaded = await env.upload(path, _CONTENT)
        env.check("upload", uploaded.reason, equals="INVALID_PATH", clause="PTH-2")
        env.check("upload-field", uploaded.fields, equals=["metadata.remote_path"], clause="PTH-2")
        downloaded = await env.download(path)
        env.check("download", downloaded.reason, equals="INVALID_PATH", clause="PTH-2")
        env.check("download-field", downloaded.outcome.fields, equals=["remote_path"], clause="PTH-2")
        if stat:
            env.check("stat", (await env.stat(path)).reason, equals="INVALID_PATH", clause="PTH-2")
        every_clause(env, named)

    run.__doc__ = f"Vector of paths: {given['name']} names no file."
    case(f"supervisor/path-names/{slug(given['name'])}", profile="core", clauses=named)(run)


def _register_odd(given: Mapping[str, Any]) -> None:
    path, clauses = "".join(given["path"]).lstrip("/"), tuple(given["clauses"])

    async def run(env: SupervisorEnv) -> None:
        here = env.path(path)
        uploaded = await env.upload(here, _CONTENT, parents=files_pb2.PARENT_POLICY_CREATE)
        env.require("upload", uploaded.reason, equals=OK, clause=clauses[0])
        env.check("path", uploaded.answer.file.path, equals=here, clause=clauses[0])
        env.check("content", await env.files.read(here), equals=_CONTENT, clause=clauses[0])
        env.check("download", (await env.download(here)).content, equals=_CONTENT, clause=clauses[0])
        every_clause(env, clauses)

    run.__doc__ = f"Vector of paths: {given['name']} is a name like every other."
    case(f"supervisor/path-names/{slug(given['name'])}", profile="core", clauses=clauses)(run)


async def _access(env: SupervisorEnv, access: Mapping[str, Any]) -> tuple[Outcome, str]:
    """Carry out a call; return its outcome, and the path that it found."""
    policies = {"leaf_link": access.get("leaf_link", 0)}
    match access["method"]:
        case "upload":
            done = await env.upload(access["path"], _CONTENT, parents=access.get("parents", 0), **policies)
            return done, done.answer.file.path if done.ok else ""
        case "download":
            found = await env.download(access["path"], **policies)
            return found.outcome, found.header.file.path if found.outcome.ok and found.header else ""
        case _:
            told = await env.stat(
                access["path"], include_digest=access.get("include_digest", False), **policies
            )
            return told, told.answer.file.path if told.ok else ""


async def _make(env: SupervisorEnv, entries: Sequence[Mapping[str, Any]]) -> None:
    for entry in entries:
        match entry["kind"]:
            case "directory":
                await env.files.mkdir(entry["path"])
            case "file":
                await env.files.write(entry["path"], _CONTENT)
            case "link":
                await env.files.link(entry["path"], entry["target"])
            case _:
                await env.files.special(entry["path"], "fifo")


def _trees(workdir: str) -> list[Mapping[str, Any]]:
    return [tree for tree in vectors("paths")["trees"] if tree.get("workdir", "/") == workdir]


async def _try_trees(env: SupervisorEnv, trees: Sequence[Mapping[str, Any]]) -> None:
    covered: dict[str, list[str]] = {}
    for tree in trees:
        there = set(await env.files.tree("/"))
        await _make(env, tree["entries"])
        for number, access in enumerate(tree["accesses"]):
            outcome, resolved = await _access(env, access)
            name = f"{slug(tree['name'])}-{number}-{access['method']}"
            clause = tree["clauses"][0]
            wanted = (access.get("reason", OK), access.get("resolved") or "")
            passed = env.check(name, (outcome.reason, resolved), equals=wanted, clause=clause)
            for other in tree["clauses"]:
                covered.setdefault(other, []).extend([] if passed else [name])
        for path in sorted(set(await env.files.tree("/")) - there, reverse=True):
            await env.files.remove(b"/" + path)
    for clause, failed in covered.items():
        env.check(f"outcome-{clause.lower()}", failed, equals=[], clause=clause)


def _clauses(workdir: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(clause for tree in _trees(workdir) for clause in tree["clauses"]))


@case(
    "supervisor/path-trees/from-the-root",
    profile="core",
    clauses=_clauses("/"),
    launch={"workdir": "/", "exec": False},
    alone=True,
    timeout=40,
)
async def from_the_root(env: SupervisorEnv) -> None:
    """Vectors of paths: links on the way and at the end, special files, and what is missing."""
    await _try_trees(env, _trees("/"))


@case(
    "supervisor/path-trees/from-a-working-directory",
    profile="core",
    clauses=_clauses("/home"),
    launch={"workdir": "/home", "exec": False},
    alone=True,
    timeout=40,
)
async def from_a_working_directory(env: SupervisorEnv) -> None:
    """Vectors of paths: what StatFile describes and refuses, relative to a working directory."""
    await _try_trees(env, _trees("/home"))


for _given in vectors("paths")["names"]:
    if "workdir" in _given:
        continue
    if _given["transfer"] is None:
        _register_refused(_given)
    elif "PTH-10" not in _given["clauses"] and len("".join(_given["path"])) < 1000:
        _register_odd(_given)
