"""Fixtures of the file agent's tests: a sandbox, its agent, and what must not be left over."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from agent.agent_harness import Sandbox, StrictFileSystem
from blockbuster import BlockBuster
from openshell_supervisor_sim.agent import AgentSettings, FileAgent


def _descriptors() -> set[str]:
    found: set[str] = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{fd} -> {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:
            continue
    return {entry for entry in found if "uploads.sqlite3" in entry or "/sandbox-" in entry}


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """No descriptor of a sandbox and no disk thread outlives its test."""
    descriptors = _descriptors()
    before = {thread.name for thread in threading.enumerate()}
    yield
    assert not _descriptors() - descriptors
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("file-agent")]
    assert not set(left) - before


@pytest.fixture(params=["openat2", "walk"])
def resolver(request: pytest.FixtureRequest) -> str:
    """Both ways to resolve paths (PTH-12); only tests that ask for it run twice."""
    name: str = request.param
    return name


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    root = tmp_path / "sandbox-root"
    root.mkdir()
    settings = AgentSettings(root=root, state_dir=tmp_path / "sandbox-state")
    return Sandbox(root, settings, StrictFileSystem(), [1_800_000_000.0], [], {})


@pytest.fixture
def both(sandbox: Sandbox, resolver: str) -> Sandbox:
    """The sandbox with each of the resolvers."""
    sandbox.settings = replace(sandbox.settings, use_openat2=resolver == "openat2")
    return sandbox


@pytest.fixture
async def agent(sandbox: Sandbox) -> AsyncIterator[FileAgent]:
    """A started agent, in a loop that nothing may block."""
    agent = sandbox.agent()
    await agent.start()
    blockbuster = BlockBuster("openshell_supervisor_sim.agent")
    blockbuster.activate()
    try:
        yield agent
    finally:
        blockbuster.deactivate()
        await agent.aclose()
        tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith("file-agent")]
        assert not tasks


@pytest.fixture
async def either(both: Sandbox) -> AsyncIterator[FileAgent]:
    """An agent with each of the resolvers."""
    agent = both.agent()
    await agent.start()
    yield agent
    await agent.aclose()


@pytest.fixture
async def restarted(sandbox: Sandbox) -> AsyncIterator[list[FileAgent]]:
    """Agents, one after the other, on the same directories; the last is closed at the end."""
    agents = [sandbox.agent()]
    await agents[0].start()
    yield agents
    await agents[-1].aclose()
