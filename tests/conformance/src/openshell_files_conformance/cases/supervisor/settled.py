"""Waiting until an agent has come to rest: staging files that appear and go."""

from __future__ import annotations

from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.peers.waiting import holds


async def nothing_staged(env: SupervisorEnv, *, wanted: bool = True, seconds: float = 5.0) -> bool:
    """Wait until no staging file is below the case's directory; with `wanted` false, until there is one.

    Returns:
        Whether that came to be.
    """

    async def condition() -> bool:
        return (not await env.left()) is wanted

    return await holds(condition, env.scaled(seconds))
