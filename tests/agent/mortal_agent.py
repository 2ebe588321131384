"""An agent that can be killed without a process of its own.

Nothing of a killed process reaches the disk any more. Here, from the moment of the kill on, every system
call of the old agent fails, and its journal is one that nobody reads: its successor goes on with a copy
that was made in that moment. What a process leaves in the page cache stays, as it does with SIGKILL; what a
loss of power takes away is not shown.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.agent_harness import StrictFileSystem
from openshell_supervisor_sim.agent import AgentSettings, FileAgent

#: Calls that a dead process makes too: the kernel closes its descriptors.
_BURIAL = frozenset({"close"})
#: The step that makes a staging file the destination; a kill can come just before.
PUBLISHING = frozenset({"rename", "rename_noreplace", "link", "link_descriptor"})
BEFORE_RENAME = "before the rename"


class MortalFileSystem(StrictFileSystem):
    """System calls of an agent until it dies.

    Args:
        clock: seconds since 1970, also for the times of staging files.
        reached: told when a name becomes the destination next.
    """

    def __init__(self, clock: Callable[[], float], reached: Callable[[str], None]) -> None:
        super().__init__()
        self._clock = clock
        self._reached = reached
        self._dead = False

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name.startswith("_") or name in {"fail", "die"} or not callable(value):
            return value

        def mortal(*args: Any, **kwargs: Any) -> Any:
            if name in PUBLISHING and not self._dead:
                self._reached(BEFORE_RENAME)
            if self._dead and name not in _BURIAL:
                raise OSError(errno.EIO, "the agent is dead")
            result = value(*args, **kwargs)
            if name in {"pwrite", "truncate"}:
                moment = round(self._clock()) * 1_000_000_000
                os.utime(args[0], ns=(moment, moment))
            return result

        return mortal

    def fsync(self, fd: int) -> None:
        """Nothing: what a loss of power takes away is not shown."""

    def fdatasync(self, fd: int) -> None:
        """Nothing."""

    def die(self) -> None:
        """Make every later call fail."""
        self._dead = True


@dataclass
class MortalAgent:
    """A root and the agents that serve it, one after the other.

    Attributes:
        directory: for root and state.
        settings: of every agent; `state_dir` changes at each kill.
        clock: seconds since 1970.
    """

    directory: Path
    settings: AgentSettings
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self.staged = asyncio.Event()
        self.killed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._deadly = ""
        self._deaths = 0
        self._fs = MortalFileSystem(self.clock, self._reached)
        self.agent = FileAgent(self.settings)

    async def start(self) -> None:
        """Start the next agent on what the last one left."""
        self._deadly = ""
        self.killed.clear()
        self._fs = MortalFileSystem(self.clock, self._reached)
        self.agent = FileAgent(self.settings, trace=self._reached, filesystem=self._fs, clock=self.clock)
        await self.agent.start()

    def die_at(self, point: str) -> None:
        """Kill the agent when it comes to a trace point or BEFORE_RENAME; empty for never."""
        self._deadly = point

    def die(self) -> None:
        """Kill the agent now; from any thread. It still has to be closed."""
        self._deadly = ""
        self._deaths += 1
        state = self.directory / f"sandbox-state-{self._deaths}"
        shutil.copytree(self.settings.state_dir, state)
        self._fs.die()
        self.settings = replace(self.settings, state_dir=state)

    async def close(self) -> None:
        """Close the agent, or what is left of it."""
        await self.agent.aclose()

    def _reached(self, point: str) -> None:
        if point == self._deadly:
            self.die()
            self._loop.call_soon_threadsafe(self.killed.set)
        if point == "upload.chunk_staged":
            self._loop.call_soon_threadsafe(self.staged.set)
