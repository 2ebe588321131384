"""Callers that leave while the agent computes: nothing goes on for nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from agent.agent_harness import Sandbox, metadata, opened, peer_of, until
from openshell_files_protocol import digests
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_supervisor_sim.agent import FileAgent

OPERATIONS: dict[str, dict[str, Any]] = {
    "stat": {"stat_file": files_pb2.StatFileRequest(remote_path="/hole", include_digest=True)},
    "download": {"download": files_pb2.DownloadFileRequest(remote_path="/hole", checked=True)},
    "start": {
        "start_upload": files_pb2.StartUploadRequest(metadata=metadata("/hole"), sha256=b"x" * 32),
    },
}


@pytest.fixture
def endless_zeros(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A hole whose zeros are hashed until somebody says that nobody waits."""
    begun = threading.Event()

    def zeros(_: object, count: int, between: Callable[[], object] | None = None) -> None:
        begun.set()
        assert count
        assert between is not None, "nobody can stop this"
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            between()
        raise AssertionError("the hole was hashed although the caller is gone")

    monkeypatch.setattr(digests.WholeDigest, "zeros", zeros)
    return begun


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_hole_is_not_hashed_for_nobody(
    agent: FileAgent, sandbox: Sandbox, endless_zeros: threading.Event, operation: str
) -> None:
    """FRM-6: `cancelled` ends the hashing of a hole at its next step, also in a download's first piece."""
    with (sandbox.root / "hole").open("wb") as file:
        file.truncate(1 << 42)
    async with peer_of(agent) as peer:
        await peer.send(opened(**OPERATIONS[operation]))
        await until(endless_zeros.is_set)
        await peer.input_end(cancelled=True)
        started = time.monotonic()
        await peer.over()
        assert time.monotonic() - started < 25
    assert agent.statistics().active_operations == agent.statistics().active_downloads == 0


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_an_agent_that_stops_hashes_nothing(
    sandbox: Sandbox, endless_zeros: threading.Event, operation: str
) -> None:
    """FRM-6: what an agent that is closed would still compute, nobody could be told."""
    with (sandbox.root / "hole").open("wb") as file:
        file.truncate(1 << 42)
    agent = sandbox.agent()
    await agent.start()
    async with peer_of(agent) as peer:
        await peer.send(opened(**OPERATIONS[operation]))
        await until(endless_zeros.is_set)
        started = time.monotonic()
        await agent.aclose()
        assert time.monotonic() - started < 25
