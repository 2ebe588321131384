"""Threads for the disk are shared out among principals, and given back when a caller leaves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial

import pytest
from agent.agent_harness import (
    Peer,
    Sandbox,
    abort_upload,
    call,
    get_upload,
    metadata,
    opened,
    peer_of,
    stat,
    until,
)
from conditions import PATIENCE_SECONDS
from openshell_files_process.tasks import end_tasks
from openshell_files_protocol import digests
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent.concurrency import DiskThreads
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt

COUNT = 4


class Work:
    """Work that blocks until it is let go."""

    def __init__(self, threads: DiskThreads) -> None:
        self._threads = threads
        self._gate = threading.Event()
        self._lock = threading.Lock()
        self.running: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    def ask(self, principal: str, count: int = 1, interrupt: Interrupt | None = None) -> None:
        def block() -> None:
            with self._lock:
                self.running.append(principal)
            self._gate.wait()

        share = self._threads.of(principal)
        self.tasks += [asyncio.create_task(share.run(block, interrupt=interrupt)) for _ in range(count)]

    async def let_go(self) -> None:
        self._gate.set()
        await asyncio.wait(self.tasks)


@pytest.fixture
async def threads() -> AsyncIterator[DiskThreads]:
    threads = DiskThreads(COUNT)
    yield threads
    await threads.close()


@pytest.fixture
async def work(threads: DiskThreads) -> AsyncIterator[Work]:
    work = Work(threads)
    yield work
    await work.let_go()


async def test_who_has_few_threads_gets_more_even_if_all_are_busy(threads: DiskThreads, work: Work) -> None:
    work.ask("alice", 3 * COUNT)
    await until(lambda: len(work.running) == COUNT)
    assert threads.crowded
    async with asyncio.timeout(30):
        assert await threads.of("bob").run(lambda: "at once", interrupt=Interrupt()) == "at once"
    assert work.running == ["alice"] * COUNT
    for number in range(2 * COUNT):
        work.ask(f"principal-{number}", 2)
    await until(lambda: len(work.running) == 2 * COUNT)
    assert await threads.run(lambda: "the agent's own") == "the agent's own"
    assert sorted(work.running) == ["alice"] * COUNT + [f"principal-{number}" for number in range(COUNT)]


async def test_turns_go_to_who_has_the_fewest(threads: DiskThreads) -> None:
    order = list[str]()
    gate = threading.Event()
    first = [asyncio.create_task(threads.of("alice").run(gate.wait)) for _ in range(COUNT)]
    first += [asyncio.create_task(threads.of("bob").run(gate.wait)) for _ in range(COUNT)]
    await asyncio.sleep(0)
    later = [
        asyncio.create_task(threads.of(name).run(partial(order.append, name)))
        for name in ("alice", "alice", "bob", "bob")
    ]
    gate.set()
    await asyncio.gather(*first, *later)
    assert sorted(order) == ["alice", "alice", "bob", "bob"]
    assert not threads.crowded


async def test_work_that_waits_is_given_up_at_once(threads: DiskThreads, work: Work) -> None:
    """Unless it cannot be interrupted: then it frees something, and is done."""
    work.ask("alice", COUNT)
    await until(lambda: len(work.running) == COUNT)
    done = list[str]()
    share = threads.of("alice")
    waiting = asyncio.create_task(share.run(lambda: done.append("read"), interrupt=Interrupt()))
    freeing = asyncio.create_task(share.run(lambda: done.append("free")))
    await until(lambda: threads.crowded)
    await end_tasks(waiting)
    freeing.cancel()
    await work.let_go()
    await asyncio.wait({freeing})
    assert (waiting.cancelled(), freeing.cancelled()) == (True, True)
    assert done == ["free"]


async def test_a_hole_does_not_hold_others(sandbox: Sandbox) -> None:
    """DIG-1: sixteen of a terabyte; another caller's stat is answered, and they end when their callers leave."""
    sandbox.settings = replace(sandbox.settings, disk_threads=COUNT)
    agent = sandbox.agent()
    await agent.start()
    try:
        (sandbox.root / "file").write_bytes(b"abc")
        peers = [Peer(agent) for _ in range(2 * COUNT)]
        for number, peer in enumerate(peers):
            await peer.send(opened("mallory", upload=metadata(f"/hole-{number}", request_id=str(number))))
            await peer.data(0, b"", hole=1 << 40)
        await until(lambda: agent.statistics().active_uploads == len(peers))
        assert (await stat(agent, "/file")).size_bytes == 3
        for peer in peers:
            await peer.input_end(cancelled=True)
        async with asyncio.timeout(30):
            for peer in peers:
                assert (await peer.error()).reason is Reason.UPLOAD_INCOMPLETE
        status = await get_upload(agent, request_id="0", principal="mallory")
        assert status.state == files_pb2.UPLOAD_STATE_RECEIVING
        assert status.staged_bytes < 1 << 40
    finally:
        await agent.aclose()


async def test_an_upload_is_answered_for_while_it_hashes_a_hole(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RSM-7: nothing is locked meanwhile, so that it can be asked for, listed and ended."""
    hashing, go_on = threading.Event(), threading.Event()

    def zeros(_: object, count: int, between: Callable[[], object] | None = None) -> None:
        assert count
        assert between is not None
        hashing.set()
        assert go_on.wait(PATIENCE_SECONDS)

    monkeypatch.setattr(digests.ContentHasher, "zeros", zeros)
    agent = sandbox.agent()
    await agent.start()
    try:
        async with peer_of(agent) as peer, asyncio.timeout(PATIENCE_SECONDS):
            await peer.send(opened(upload=metadata("/file", request_id="r")))
            await peer.data(0, b"", hole=1 << 20)
            await until(hashing.is_set)
            status = await get_upload(agent, request_id="r")
            assert (status.state, status.staged_bytes) == (files_pb2.UPLOAD_STATE_RECEIVING, 0)
            listed = (await call(agent, list_uploads=files_pb2.ListUploadsRequest())).list_uploads
            assert [upload.upload_id for upload in listed.uploads] == [status.upload_id]
            start = files_pb2.StartUploadRequest(metadata=metadata("/file", request_id="r"))
            started = (await call(agent, start_upload=start)).start_upload.upload
            about = metadata("/file", upload_id=started.upload_id, epoch=started.epoch)
            async with peer_of(agent) as successor:
                await successor.send(opened(upload=about))
                await successor.data(0, b"abc")
                await until(lambda: agent.statistics().staged_bytes == 3)
                go_on.set()
                assert (await peer.error()).reason is Reason.SUPERSEDED
                assert (await get_upload(agent, request_id="r")).staged_bytes == 3
            ended = await abort_upload(agent, status.upload_id)
            assert ended.state == files_pb2.UPLOAD_STATE_ABORTED
        assert not sandbox.leftovers()
    finally:
        go_on.set()
        await agent.aclose()


async def test_what_came_before_a_cancellation_is_staged(sandbox: Sandbox) -> None:
    """RSM-4: a small hole and bytes, however late the disk is."""
    agent = sandbox.agent()
    await agent.start()
    try:
        async with peer_of(agent) as peer:
            await peer.send(opened(upload=metadata("/file", request_id="r")))
            await peer.data(0, b"", hole=1 << 20)
            await peer.data(1 << 20, b"abc")
            await peer.input_end(cancelled=True)
            await peer.error()
        assert (await get_upload(agent, request_id="r")).staged_bytes == (1 << 20) + 3
    finally:
        await agent.aclose()
