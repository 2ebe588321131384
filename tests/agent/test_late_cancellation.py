"""A cancellation that reaches the agent behind the end of the caller's stream (UPL-34, FRM-17)."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
from agent.agent_harness import Peer, Request, Sandbox, framed, get_upload, metadata, opened, peer_of, until
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.trace_points import TracePoint
from openshell_supervisor_sim.agent.upload.attempt import UploadAttempt

#: Where the publication may stand when the cancellation comes.
STEPS = (TracePoint.UPLOAD_FINISH_RECEIVED, TracePoint.UPLOAD_VERIFYING, TracePoint.UPLOAD_FLUSHED)


@contextmanager
def held(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, step: TracePoint) -> Generator[threading.Event]:
    """Hold the publication until the agent knows of the cancellation; the event says that it is held."""
    reached, known = threading.Event(), threading.Event()
    withdraw = UploadAttempt.withdraw

    def hold() -> None:
        reached.set()
        assert known.wait(60)

    def noted(attempt: UploadAttempt) -> None:
        withdraw(attempt)
        known.set()

    sandbox.on_trace[step] = hold
    monkeypatch.setattr(UploadAttempt, "withdraw", noted)
    try:
        yield reached
    finally:
        known.set()
        del sandbox.on_trace[step]


async def send(peer: Peer, content: bytes, *, together: bool, **fields: Any) -> None:
    """Send an upload of the RFC to its end, in one piece or frame by frame."""
    messages = [
        opened(upload=metadata("/file", len(content), explicit=False, **fields)),
        *([Request(upload=files_pb2.UploadFileRequest(chunk=content))] if content else []),
        Request(input_end=file_relay_pb2.FileRelayInputEnd()),
    ]
    if together:
        await peer.send_bytes(b"".join(map(framed, messages)))
        return
    for message in messages:
        await peer.send(message)


@pytest.mark.parametrize("together", [False, True], ids=["frame by frame", "in one piece"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("content", [b"", b"new", bytes(100_000)], ids=["empty", "small", "larger"])
async def test_the_old_file_stays(
    agent: FileAgent,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    step: TracePoint,
    *,
    together: bool,
) -> None:
    """UPL-1, UPL-34, FRM-17: what is cancelled before the rename is not published, and leaves nothing."""
    (sandbox.root / "file").write_bytes(b"old")
    with held(sandbox, monkeypatch, step) as reached:
        async with peer_of(agent) as peer:
            await send(peer, content, together=together)
            await asyncio.to_thread(reached.wait, 60)
            await peer.input_end(cancelled=True)
            assert (await peer.error()).reason is Reason.UPLOAD_INCOMPLETE
    assert (sandbox.root / "file").read_bytes() == b"old"
    await until(lambda: os.listdir(sandbox.root) == ["file"])


async def test_a_cancellation_in_one_piece_with_the_end(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-34: it arrived before the rename, and before anything else could happen."""
    messages = [
        opened(upload=metadata("/file", 3, explicit=False)),
        Request(upload=files_pb2.UploadFileRequest(chunk=b"new")),
        Request(input_end=file_relay_pb2.FileRelayInputEnd()),
        Request(input_end=file_relay_pb2.FileRelayInputEnd(cancelled=True)),
    ]
    async with peer_of(agent) as peer:
        await peer.send_bytes(b"".join(map(framed, messages)))
        assert (await peer.error()).reason is Reason.UPLOAD_INCOMPLETE
    assert os.listdir(sandbox.root) == []


async def test_what_can_be_resumed_stays_staged(
    agent: FileAgent, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RSM-10: an upload with a request_id can be found, and goes on where it stopped."""
    with held(sandbox, monkeypatch, TracePoint.UPLOAD_FLUSHED) as reached:
        async with peer_of(agent) as peer:
            await send(peer, b"content", together=False, request_id="again")
            await asyncio.to_thread(reached.wait, 60)
            await peer.input_end(cancelled=True)
            assert (await peer.error()).reason is Reason.UPLOAD_INCOMPLETE
    assert not (sandbox.root / "file").exists()
    status = await get_upload(agent, request_id="again")
    assert (status.state, status.staged_bytes) == (files_pb2.UPLOAD_STATE_RECEIVING, 7)


async def test_an_explicit_finish_publishes_all_the_same(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-35, ADR 0001: a finish says that the file is complete; a cancellation behind it takes nothing back."""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", 3)))
        await peer.data(0, b"new")
        await peer.finish(b"new")
        await peer.input_end(cancelled=True)
        assert (await peer.answer()).upload.bytes_written == 3
    assert (sandbox.root / "file").read_bytes() == b"new"


async def test_an_end_without_a_cancellation_publishes(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-2: also if the relay ends right behind it, which means nothing (FRM-14)."""
    async with peer_of(agent) as peer:
        await send(peer, b"new", together=True)
        peer.to_agent.end()
        assert (await peer.answer()).upload.bytes_written == 3
    assert (sandbox.root / "file").read_bytes() == b"new"
