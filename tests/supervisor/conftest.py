"""A sandbox's directories for every test of supervisors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from leaks import grpc_engine, nothing_is_left_in_this_process
from supervisor_scene import SandboxPlaces, Scene, lay_out, serving_commands

__all__ = ["grpc_engine", "nothing_is_left_in_this_process"]


@pytest.fixture
def places(tmp_path: Path) -> SandboxPlaces:
    return lay_out(tmp_path / "sandbox-home")


@pytest.fixture
async def scene(places: SandboxPlaces) -> AsyncIterator[Scene]:
    """A supervisor that serves commands, with the view that this machine allows."""
    async with serving_commands(places, environment={"OF_THE_SANDBOX": "1", "HOME": "/sandbox"}) as running:
        yield running
