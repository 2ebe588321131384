"""The vectors of conditions on the destination."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.empty_pb2 import Empty

from openshell_files_conformance.cases.supervisor.vector_names import digest_of, every_clause, slug
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.operation import BLAKE3, OK
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.registry import case
from openshell_files_conformance.vectors_data import value, vectors

_NEW: Final = b"new content"


async def _condition(env: SupervisorEnv, given: Mapping[str, Any]) -> files_pb2.UploadCondition:
    match given:
        case {"absent": _}:
            return files_pb2.UploadCondition(absent=Empty())
        case {"present": _}:
            return files_pb2.UploadCondition(present=Empty())
        case {"digest": fields}:
            return files_pb2.UploadCondition(digest=digest_of(fields))
        case {"version": "current"}:
            told = await env.stat(env.path())
            return files_pb2.UploadCondition(version=told.answer.file.version)
        case {"version": version}:
            return files_pb2.UploadCondition(version=version)
        case _:
            return files_pb2.UploadCondition.FromString(bytes.fromhex(given["encoded"]))


def _register(given: Mapping[str, Any]) -> None:
    clauses, there = tuple(given["clauses"]), given["there"]
    by_blake3 = given["condition"].get("digest", {}).get("algorithm") == BLAKE3

    async def run(env: SupervisorEnv) -> None:
        match there["kind"]:
            case "file":
                await env.files.write(env.path(), value(there.get("content", "")))
            case "directory":
                await env.files.mkdir(env.path())
            case "link":
                await env.files.write(env.path("target"), b"target")
                await env.files.link(env.path(), "target")
            case _:
                pass
        before = await env.files.tree(env.home)
        condition = await _condition(env, given["condition"])
        done = await env.upload(env.path(), _NEW, condition=condition)
        env.check("reason", done.reason, equals=given.get("reason", OK), clause=clauses[0])
        if given.get("published"):
            env.check("content", await env.files.read(env.path()), equals=_NEW, clause=clauses[0])
        else:
            env.check("unchanged", await env.files.tree(env.home), equals=before, clause=clauses[0])
        if "field" in given:
            env.check("field", done.fields, equals=[given["field"]], clause=clauses[0])
        every_clause(env, clauses)

    run.__doc__ = f"Vector of conditions: {given['name']}."
    case(
        f"supervisor/condition-vectors/{slug(given['name'])}",
        profile="core",
        clauses=clauses,
        needs=("blake3",) if by_blake3 else (),
    )(run)


for _given in vectors("conditions")["conditions"]:
    _register(_given)
