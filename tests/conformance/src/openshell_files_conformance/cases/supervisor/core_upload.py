"""Uploads into the sandbox: content, finish, and what is published."""

from __future__ import annotations

from openshell_files_conformance.peers.operation import OK
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.registry import case


@case("supervisor/upload/published", profile="core", clauses=("UPL-3", "UPL-12"))
async def published(env: SupervisorEnv) -> None:
    """A file with an explicit finish is published under its path, whole."""
    content = b"conformance\n" * 100_000
    done = await env.upload(env.path(), content)
    env.require("reason", done.reason, equals=OK, clause="UPL-3")
    env.check("content", await env.files.read(env.path()), equals=content, clause="UPL-3")
    env.check("bytes-written", done.answer.bytes_written, equals=len(content), clause="UPL-12")
