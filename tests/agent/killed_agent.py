"""Runs an agent that uploads one file and kills itself at a trace point."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from agent.agent_harness import put
from openshell_supervisor_sim.agent import AgentSettings, FileAgent


async def main(root: Path, state: Path, point: str, request_id: str) -> None:
    def kill(reached: str) -> None:
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)

    agent = FileAgent(AgentSettings(root=root, state_dir=state), trace=kill)
    await agent.start()
    await put(agent, "/file", b"new content", chunk_bytes=4, request_id=request_id)
    await agent.aclose()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
