"""What an upload promises while it lives, and what a start-up makes of it: the cases that once went wrong."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import replace

import pytest
from agent.agent_harness import (
    UNKNOWN,
    Refused,
    Sandbox,
    abort_upload,
    get_upload,
    metadata,
    opened,
    peer_of,
    put,
    start_upload,
    until,
)
from digest_values import OTHER, digest_of
from openshell_files_protocol.chunks import Chunk
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.core.upload import Finish, Publish, Refuse, UploadCore, UploadTerms
from openshell_supervisor_sim.agent.core.upload_life import (
    OF_THE_HOLDER,
    TRANSITIONS,
    Event,
    State,
    UploadLife,
)

RECEIVING, VERIFYING = files_pb2.UPLOAD_STATE_RECEIVING, files_pb2.UPLOAD_STATE_VERIFYING
PUBLISHED = files_pb2.UPLOAD_STATE_PUBLISHED
NEW = b"new content"


@pytest.mark.parametrize("of_holder", [True, False])
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_an_end_is_an_end(state: State, event: Event, *, of_holder: bool) -> None:
    """RSM-7: nothing leads out of PUBLISHED, ABORTED, EXPIRED or LOST, and an event without a rule changes nothing."""
    life = UploadLife(state)
    taken = life.take(event, of_holder=of_holder)
    assert taken is ((state, event) in TRANSITIONS and (of_holder or event not in OF_THE_HOLDER))
    assert life.state is (TRANSITIONS[state, event] if taken else state)
    if not state.unfinished:
        assert not taken


# What was flushed


async def test_a_flush_counts_for_its_content_only(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-4: a stream that restarts the upload while another one's bytes are flushed; they are gone, and not durable."""
    flushing, go_on = threading.Event(), threading.Event()
    real = sandbox.fs.fdatasync

    def slow(fd: int) -> None:
        real(fd)
        flushing.set()
        go_on.wait()

    sandbox.fs.__dict__["fdatasync"] = slow
    async with peer_of(agent) as first, peer_of(agent) as second:
        await first.send(opened(upload=metadata("/file", 2000, request_id="r")))
        await first.data(0, bytes(1000))
        first.to_agent.end()
        await until(flushing.is_set)
        await second.send(opened(upload=metadata("/file", 2000, request_id="r")))
        await second.accepted()
        go_on.set()
        await first.error()
        status = await get_upload(agent, request_id="r")
        assert (status.staged_bytes, status.durable_bytes) == (0, 0)
        await second.data(0, bytes(500))
        second.to_agent.end()
        await second.error()
    status = await get_upload(agent, request_id="r")
    assert (status.staged_bytes, status.durable_bytes) == (500, 500)


@pytest.mark.parametrize("plan", [[0], [1], [2]], ids=["first directory", "second", "the destination's own"])
async def test_a_directory_on_the_way_that_cannot_be_flushed(
    agent: FileAgent, sandbox: Sandbox, plan: list[int]
) -> None:
    """UPL-40: FSYNC is said only if each directory that was made is flushed, now or at the finish."""
    real, failed = sandbox.fs.fsync, list[int]()

    def fsync(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        depth = path.removeprefix(str(sandbox.root)).count("/") if os.path.isdir(path) else -1
        if depth == plan[0]:
            failed.append(depth)
            raise OSError(5, "it was told to fail")
        real(fd)

    sandbox.fs.__dict__["fsync"] = fsync
    answer = await put(agent, "/a/b/file", NEW, parents=files_pb2.PARENT_POLICY_CREATE)
    assert failed
    assert answer.durability == files_pb2.DURABILITY_RENAME
    assert (sandbox.root / "a/b/file").read_bytes() == NEW
    del sandbox.fs.__dict__["fsync"]
    again = await put(agent, "/a/b/file", NEW, parents=files_pb2.PARENT_POLICY_CREATE)
    assert again.durability == files_pb2.DURABILITY_FSYNC


# Locks


async def test_no_lock_is_held_while_a_destination_is_hashed(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-1, CND-2: of many StartUploads of one id, each reads, one begins, and others are not kept waiting."""
    (sandbox.root / "file").write_bytes(b"old")
    reading, go_on = threading.Semaphore(0), threading.Event()
    real = sandbox.fs.pread

    def slow(fd: int, size: int, offset: int) -> bytes:
        reading.release()
        go_on.wait()
        return real(fd, size, offset)

    sandbox.fs.__dict__["pread"] = slow
    digest = digest_of(NEW)
    starts = [
        asyncio.create_task(start_upload(agent, "/file", 3, request_id="r", digest=digest)) for _ in range(3)
    ]
    for _ in starts:
        await until(lambda: reading.acquire(blocking=False))
    go_on.set()
    ids = {status.upload_id for status in await asyncio.gather(*starts)}
    assert len(ids) == 1
    assert len(sandbox.leftovers()) == 1


# Sizes


@pytest.mark.parametrize(("size", "allowed"), [(9, True), (10, True), (11, False)])
async def test_the_largest_file(sandbox: Sandbox, size: int, allowed: bool) -> None:  # noqa: FBT001
    """UPL-27: `max_file_bytes` is allowed, one byte more is not, declared or not."""
    sandbox.settings = replace(sandbox.settings, max_file_bytes=10)
    agent = sandbox.agent()
    await agent.start()
    try:
        for declared in (size, 0):
            work = put(agent, f"/{declared}", bytes(size), declared=declared, chunk_bytes=3)
            if allowed:
                assert (await work).bytes_written == size
            else:
                with pytest.raises(Refused) as refused:
                    await work
                assert refused.value.reason is Reason.FILE_TOO_LARGE
    finally:
        await agent.aclose()


@pytest.mark.parametrize(("size", "allowed"), [(10, True), (11, False)])
def test_the_largest_file_in_the_rules(size: int, allowed: bool) -> None:  # noqa: FBT001
    """UPL-27"""
    core = UploadCore(
        UploadTerms(
            declared_size=None,
            explicit_finish=True,
            resumable=False,
            staged=0,
            max_chunk_bytes=64,
            max_file_bytes=10,
        )
    )
    action = core.receive(Chunk(0, bytes(size), 0, 0))
    assert isinstance(action, Refuse) is not allowed
    if allowed:
        assert isinstance(core.receive(Finish(size, OTHER.algorithm, OTHER.value)), Publish)


# The journal, from outside


async def test_a_version_that_is_none(agent: FileAgent) -> None:
    """CND-2: nothing that is compared is longer than what this server gives out."""
    condition = files_pb2.UploadCondition(version="x" * 129)
    with pytest.raises(Refused) as refused:
        await start_upload(agent, "/file", condition=condition, request_id="r")
    assert refused.value.fields == ["metadata.condition.version"]


# Starts


async def test_nobody_finds_anothers_upload(agent: FileAgent) -> None:
    """RSM-2: unfinished or published, by either id, however it is asked for."""
    await start_upload(agent, "/live", 3, request_id="live")
    await put(agent, "/ended", NEW, request_id="ended")
    for name in ("live", "ended"):
        mine = await get_upload(agent, request_id=name)
        assert mine.state in {RECEIVING, PUBLISHED}
        theirs = [
            await get_upload(agent, request_id=name, principal="bob"),
            await get_upload(agent, mine.upload_id, principal="bob"),
        ]
        assert [status.state for status in theirs] == [UNKNOWN, UNKNOWN]
        for asked in (
            abort_upload(agent, mine.upload_id, principal="bob"),
            put(agent, f"/{name}", NEW, upload_id=mine.upload_id, epoch=1, principal="bob"),
        ):
            with pytest.raises(Refused) as refused:
                await asked
            assert refused.value.reason is Reason.UPLOAD_UNKNOWN
        own = await start_upload(agent, f"/bob-{name}", 3, request_id=name, principal="bob")
        assert own.upload_id != mine.upload_id
