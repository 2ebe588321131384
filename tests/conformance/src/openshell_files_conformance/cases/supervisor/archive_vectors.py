"""The vectors of archives, most of them hostile or damaged, and what comes of unpacking them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from openshell_files_conformance.cases.supervisor.vector_names import every_clause, slug
from openshell_files_conformance.cases.supervisor.vector_places import Place, path_of
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.operation import OK
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.registry import case
from openshell_files_conformance.vectors_data import value, vectors

FILES: Final = ("names", "links", "members", "damage", "bounds")
#: What a launch calls the limits of a vector.
_SETTINGS: Final = {
    "max_entries": "max_archive_entries",
    "max_bytes": "max_extracted_bytes",
    "max_ratio": "max_expansion_ratio",
}


def _register(file: str, given: Mapping[str, Any]) -> None:
    clauses, outcome = tuple(given["clauses"]), given["outcome"]
    launch = {_SETTINGS[name]: int(limit) for name, limit in given.get("limits", {}).items()}

    async def run(env: SupervisorEnv) -> None:
        place = Place(env)
        await place.make(given.get("before", ()))
        archive = value(given["archive"])
        done = await env.upload(place.top, archive, is_archive=True, durability=files_pb2.DURABILITY_RENAME)
        env.check("reason", done.reason, equals=outcome.get("reason") or OK, clause=clauses[0])
        if outcome.get("reason") is None and done.ok:
            told = done.answer.archive
            if outcome.get("entries") is not None:
                env.check("entries", told.entries, equals=int(outcome["entries"]), clause=clauses[0])
            problems = [(path_of(one["path"]), one["reason"]) for one in outcome.get("problems", ())]
            seen = [(one.path, one.reason) for one in told.problems]
            env.check("problems", seen, equals=problems, clause=clauses[0])
        env.check("files", await place.differences(outcome.get("files")), equals=[], clause=clauses[0])
        env.check("beside", await place.beside(), equals=[], clause=clauses[0])
        every_clause(env, clauses)

    run.__doc__ = f"Vector of archives, {file}: {given['name']}."
    case(
        f"supervisor/archive-{file}/{slug(given['name'])}",
        profile="archives",
        clauses=clauses,
        needs=("archives",),
        launch=launch,
    )(run)


for _file in FILES:
    for _given in vectors(f"archives/{_file}")["archives"]:
        _register(_file, _given)
