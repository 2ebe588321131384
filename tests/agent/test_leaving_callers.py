"""Callers that leave while the agent computes: nothing goes on for nobody."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from agent.agent_harness import (
    Request,
    Sandbox,
    data_message,
    metadata,
    opened,
    peer_of,
    start_upload,
    stat,
    until,
)
from conditions import PATIENCE_SECONDS
from digest_values import OTHER, digest_of
from openshell_files_protocol import digests
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt

#: Would have to be hashed to be replaced.
ANOTHER = files_pb2.UploadCondition(digest=OTHER)

#: Would be hashed for an hour.
HOLE_BYTES = 1 << 42
#: The largest file that the agent takes.
SENT_BYTES = 1 << 40

OPERATIONS: dict[str, dict[str, Any]] = {
    "stat": {"stat_file": files_pb2.StatFileRequest(remote_path="/hole", include_digest=True)},
    "download": {"download": files_pb2.DownloadFileRequest(remote_path="/hole", checked=True)},
    "write": {
        "write_file": files_pb2.WriteFileRequest(
            metadata=metadata("/hole", condition=ANOTHER), digest=digest_of(b"")
        ),
    },
    "start": {
        "start_upload": files_pb2.StartUploadRequest(metadata=metadata("/hole"), digest=digest_of(b"x")),
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

    monkeypatch.setattr(digests.ContentHasher, "zeros", zeros)
    return begun


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_hole_is_not_hashed_for_nobody(
    agent: FileAgent, sandbox: Sandbox, endless_zeros: threading.Event, operation: str
) -> None:
    """FRM-16: `cancelled` ends the hashing of a hole at its next step, also in a download's first piece."""
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
    """FRM-16: what an agent that is closed would still compute, nobody could be told."""
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


class CountedHash:
    """Stands for SHA-256: hashes nothing, counts, and after a few steps goes on only when it was told to stop."""

    digest_size = 32

    def __init__(self, work: Work) -> None:
        self._work = work

    def update(self, data: bytes | memoryview, /) -> None:
        self._work.step(len(data))

    def digest(self) -> bytes:
        return bytes(32)

    def copy(self) -> CountedHash:
        return self


class Work:
    """What was hashed, and what of it after the first who hashed should have stopped.

    Attributes:
        begun: a few steps were done.
        after: steps that were begun after that.
    """

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.stopped = threading.Event()
        self.after = 0
        self._lock = threading.Lock()
        self._steps = 0

    def step(self, size: int) -> None:
        assert size <= MIB, "a step is too long to be stopped soon"
        with self._lock:
            self._steps += 1
            self.after += self.stopped.is_set()
            waits = self._steps > 3
        if waits:
            self.begun.set()
            assert self.stopped.wait(PATIENCE_SECONDS), "nobody stops the hashing"


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """Count what is hashed from now on."""
    work = Work()
    real = Interrupt.set

    def stop(interrupt: Interrupt) -> None:
        real(interrupt)
        work.stopped.set()

    counted = dict.fromkeys(digests.DigestAlgorithm, lambda: CountedHash(work))
    monkeypatch.setattr(digests, "HASHERS", counted)
    monkeypatch.setattr(Interrupt, "set", stop)
    return work


OTHER_CONTENT = files_pb2.UploadCondition(digest=digest_of(b"x"))

HASHING: dict[str, list[Request]] = {
    **{name: [opened(**fields)] for name, fields in OPERATIONS.items()},
    "part of a file": [
        opened(download=files_pb2.DownloadFileRequest(remote_path="/hole", checked=True, offset=1))
    ],
    "condition at the start": [
        opened(start_upload=files_pb2.StartUploadRequest(metadata=metadata("/hole", condition=OTHER_CONTENT)))
    ],
    "staged": [
        opened(get_upload=files_pb2.GetUploadRequest(request_id="staged", include_digest=True)),
    ],
    "sent": [
        opened(upload=metadata("/sent", request_id="r")),
        Request(upload=data_message(0, b"", hole=SENT_BYTES)),
    ],
}


@pytest.mark.parametrize("operation", HASHING)
async def test_the_work_that_follows_a_cancellation(sandbox: Sandbox, work: Work, operation: str) -> None:
    """FRM-16: at most the step that was under way, by each who hashes; the threads are free for others."""
    with (sandbox.root / "hole").open("wb") as file:
        file.truncate(HOLE_BYTES)
    first = sandbox.agent()
    await first.start()
    await start_upload(first, "/new", request_id="staged")
    await first.aclose()
    (staged,) = sandbox.leftovers()
    os.truncate(sandbox.root / staged, HOLE_BYTES)
    work.stopped.clear()
    agent = sandbox.agent()
    await agent.start()
    try:
        async with peer_of(agent) as peer:
            for message in HASHING[operation]:
                await peer.send(message)
            await until(work.begun.is_set)
            assert (await stat(agent, "/hole")).size_bytes == HOLE_BYTES
            assert not work.stopped.is_set()
            await peer.input_end(cancelled=True)
            while await peer.next() is not None:
                pass
            await peer.task
            assert work.after <= 2
            assert agent.statistics().active_operations == agent.statistics().active_downloads == 0
    finally:
        await agent.aclose()
