"""A hole is hashed without the upload's lock: what happens to the staged bytes meanwhile is noticed."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable

import pytest
from agent.agent_harness import Sandbox, metadata, opened, peer_of, until
from conditions import PATIENCE_SECONDS
from openshell_files_protocol import digests
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent


async def test_a_file_that_became_shorter(
    agent: FileAgent, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RSM-5: a stream that is about to take the upload over saw it; the older one adds nothing to it."""
    hashing, go_on = threading.Event(), threading.Event()

    def zeros(_: object, count: int, between: Callable[[], object] | None = None) -> None:
        assert count
        assert between is not None
        hashing.set()
        assert go_on.wait(PATIENCE_SECONDS)

    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", request_id="r")))
        await peer.data(0, b"abc")
        await until(lambda: agent.statistics().staged_bytes == 3)
        monkeypatch.setattr(digests.ContentHasher, "zeros", zeros)
        await peer.data(3, b"", hole=1 << 20)
        await until(hashing.is_set)
        assert agent._services is not None
        (upload,) = agent._services.uploads.all_in_memory()
        staged = sandbox.root / sandbox.leftovers()[0]

        def looked_at() -> bool:
            with staged.open("r+b") as file, upload.lock:
                os.truncate(file.fileno(), 1)
                return upload.content.matches_file(file.fileno())

        assert not await asyncio.to_thread(looked_at)
        go_on.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await peer.error()).reason is Reason.SUPERSEDED
        assert (upload.content.size, staged.stat().st_size) == (1, 1)
