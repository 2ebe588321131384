"""Resuming, taking over, and finding out (RSM-1 to RSM-10)."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import pytest
from agent.agent_harness import (
    UNKNOWN,
    Peer,
    Refused,
    Sandbox,
    abort_upload,
    call,
    get_upload,
    metadata,
    opened,
    peer_of,
    put,
    start_upload,
    until,
)
from agent.resuming import finish, going_on, reason_of, restart, stage
from digest_values import digest_of
from google.protobuf.empty_pb2 import Empty
from openshell_files_protocol.limits import KIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent

PART = 512 * KIB

RECEIVING = files_pb2.UPLOAD_STATE_RECEIVING
PUBLISHED = files_pb2.UPLOAD_STATE_PUBLISHED


async def test_start_is_idempotent(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-1"""
    first = await start_upload(agent, "/file", 3, request_id="r")
    again = await start_upload(agent, "/file", 3, request_id="r")
    assert (first.upload_id, first.epoch) == (again.upload_id, again.epoch)
    assert first.epoch == 1
    assert first.state == RECEIVING
    assert len(sandbox.leftovers()) == 1
    other = await start_upload(agent, "/file", 3, request_id="r", principal="bob")
    assert other.upload_id != first.upload_id


async def test_concurrent_starts_are_one(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-1"""
    answers = await asyncio.gather(*(start_upload(agent, "/file", 3, request_id="r") for _ in range(8)))
    assert len({answer.upload_id for answer in answers}) == 1
    assert len(sandbox.leftovers()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/other"},
        {"size": 4},
        {"mode": 0o600},
        {"condition": files_pb2.UploadCondition(absent=Empty())},
        {"parents": files_pb2.PARENT_POLICY_CREATE},
        {"leaf_link": files_pb2.LEAF_LINK_POLICY_FOLLOW},
        {"durability": files_pb2.DURABILITY_RENAME},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_another_request_under_the_same_name(agent: FileAgent, change: dict[str, Any]) -> None:
    """RSM-11: also for UploadFile, by either name."""
    status = await start_upload(agent, "/file", 3, request_id="r")
    wanted: dict[str, Any] = {"path": "/file", "size": 3} | change
    assert await reason_of(start_upload(agent, request_id="r", **wanted)) is Reason.UPLOAD_CONFLICT
    wanted["declared"] = wanted.pop("size")
    assert await reason_of(put(agent, content=b"abc", request_id="r", **wanted)) is Reason.UPLOAD_CONFLICT
    ids: dict[str, Any] = {"upload_id": status.upload_id, "epoch": status.epoch}
    assert await reason_of(put(agent, content=b"abc", **ids, **wanted)) is Reason.UPLOAD_CONFLICT


async def test_an_upload_is_its_principals(agent: FileAgent) -> None:
    """RSM-2: for everybody else it does not exist, whatever they ask."""
    status = await start_upload(agent, "/file", 3, request_id="r")
    ids: dict[str, Any] = {"upload_id": status.upload_id, "epoch": 1}
    bob: dict[str, Any] = {"principal": "bob"}
    assert (await get_upload(agent, status.upload_id, **bob)).state == UNKNOWN
    assert (await get_upload(agent, request_id="r", **bob)).state == UNKNOWN
    assert await reason_of(put(agent, "/file", b"abc", **ids, **bob)) is Reason.UPLOAD_UNKNOWN
    assert await reason_of(start_upload(agent, "/file", 3, **ids, **bob)) is Reason.UPLOAD_UNKNOWN
    assert await reason_of(abort_upload(agent, status.upload_id, **bob)) is Reason.UPLOAD_UNKNOWN
    listed = (await call(agent, "bob", list_uploads=files_pb2.ListUploadsRequest())).list_uploads
    assert not listed.uploads
    assert listed.staged_bytes == 0


async def test_going_on_reads_nothing_again(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-4: in the same agent the running digest is kept."""
    content = os.urandom(2 * PART)
    status = await start_upload(agent, "/file", len(content))
    await stage(agent, status, content[:PART])
    status = await start_upload(agent, "/file", len(content), upload_id=status.upload_id)
    assert status.staged_bytes == status.durable_bytes == PART
    assert status.staged_digest == digest_of(content[:PART])
    assert sandbox.fs.calls.get("pread", 0) == 0
    answer = await finish(agent, status, content)
    assert answer.resumed_from == PART
    assert (sandbox.root / "file").read_bytes() == content


async def test_an_inline_retry_starts_over(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-17: a caller that has learnt no offset sends from the first byte."""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", request_id="r")))
        await peer.chunk(b"abandoned")
        peer.to_agent.end()
        await peer.error()
    answer = await put(agent, "/file", b"new", declared=0, request_id="r")
    assert answer.resumed_from == 0
    assert (sandbox.root / "file").read_bytes() == b"new"
    assert agent.statistics().staged_bytes == 0


async def test_take_over(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-5, RSM-18: the older stream ends although it is silent; the epoch rises."""
    status = await start_upload(agent, "/file")
    async with peer_of(agent) as old:
        await old.send(opened(upload=going_on(status)))
        await old.data(0, b"abc")
        await until(lambda: "upload.chunk_staged" in sandbox.traced)
        assert (await get_upload(agent, status.upload_id)).epoch == 1
        newer = await start_upload(agent, "/file", upload_id=status.upload_id)
        assert newer.epoch == 2
        assert (await old.error()).reason is Reason.SUPERSEDED
    async with peer_of(agent) as late:
        await late.send(opened(upload=going_on(status)))
        # One that is taken would end here, with another error.
        await late.input_end()
        assert (await late.error()).reason is Reason.SUPERSEDED
    assert (await finish(agent, newer, b"abcdef")).resumed_from == 3


async def test_a_late_writer_writes_nothing(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-18: a chunk that is in the disk thread when the epoch rises is not written."""
    status = await start_upload(agent, "/file")
    gate, reached = threading.Event(), threading.Event()

    def pause() -> None:
        reached.set()
        gate.wait()

    async with peer_of(agent) as old:
        await old.send(opened(upload=going_on(status)))
        await old.accepted()
        sandbox.on_trace["upload.first_chunk_staged"] = pause
        await old.data(0, b"abc")
        await until(reached.is_set)
        await old.data(3, b"OLD")
        await old.finish(b"abcOLD")
        newer = await start_upload(agent, "/file", upload_id=status.upload_id)
        assert newer.staged_bytes == 3
        del sandbox.on_trace["upload.first_chunk_staged"]
        assert (await finish(agent, newer, b"abcNEW")).bytes_written == 6
        gate.set()
        assert (await old.error()).reason is Reason.SUPERSEDED
    assert (sandbox.root / "file").read_bytes() == b"abcNEW"


async def test_a_second_stream_of_the_same_epoch(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-18: the newer stream goes on; the agent had not noticed that the older is dead."""
    status = await start_upload(agent, "/file")
    async with peer_of(agent) as old:
        await old.send(opened(upload=going_on(status)))
        await old.data(0, b"abc")
        await until(lambda: "upload.chunk_staged" in sandbox.traced)
        status = await get_upload(agent, status.upload_id)
        await finish(agent, status, b"abcd")
        assert (await old.error()).reason is Reason.SUPERSEDED


async def test_epochs_that_were_never_given(agent: FileAgent) -> None:
    """RSM-20"""
    status = await start_upload(agent, "/file")
    for epoch in (0, 2):
        with pytest.raises(Refused) as refused:
            await put(agent, "/file", b"", upload_id=status.upload_id, epoch=epoch)
        assert refused.value.fields == ["metadata.epoch"]


async def test_identical_file_is_not_sent(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-9, RSM-33: mode and time are applied; the answer can be found again."""
    path = sandbox.root / "file"
    path.write_bytes(b"same")
    inode = path.stat().st_ino
    wanted = files_pb2.UploadFileMetadata()
    wanted.modified_time.FromSeconds(1_000_000)
    digest = digest_of(b"same")
    fields: dict[str, Any] = {"mode": 0o600, "modified_time": wanted.modified_time, "request_id": "r"}
    for _ in range(2):
        status = await start_upload(agent, "/file", 4, digest=digest, **fields)
        assert status.state == PUBLISHED
        assert status.result.already_identical
        assert status.result.file.digest == digest
        assert status.result.durability == files_pb2.DURABILITY_FSYNC
    assert path.stat().st_ino == inode
    assert path.stat().st_mode & 0o7777 == 0o600
    assert path.stat().st_mtime == 1_000_000
    assert not sandbox.leftovers()


@pytest.mark.parametrize("content", [b"Same", b"sam", None])
async def test_another_file_is_sent(agent: FileAgent, sandbox: Sandbox, content: bytes | None) -> None:
    """RSM-9"""
    if content is not None:
        (sandbox.root / "file").write_bytes(content)
    status = await start_upload(agent, "/file", 4, digest=digest_of(b"same"))
    assert status.state == RECEIVING


async def test_staging_file_removed_inside_the_sandbox(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-24: of what cannot be known nothing is claimed."""
    status = await start_upload(agent, "/file", request_id="r")
    (sandbox.root / sandbox.leftovers()[0]).unlink()
    assert await reason_of(finish(agent, status, b"abc")) is Reason.UPLOAD_UNKNOWN
    assert (await get_upload(agent, request_id="r")).state == UNKNOWN


async def test_staging_file_shortened_inside_the_sandbox(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-4: the offset and digest that are told are those of the file."""
    status = await start_upload(agent, "/file")
    await stage(agent, status, b"abcdef")
    os.truncate(sandbox.root / sandbox.leftovers()[0], 2)
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=going_on(status)))
        await peer.data(6, b"x")
        assert (await peer.error()).metadata["expected_offset"] == "2"
    assert agent.statistics().staged_bytes == 2
    status = await start_upload(agent, "/file", upload_id=status.upload_id)
    assert status.staged_digest == digest_of(b"ab")
    await finish(agent, status, b"abCD")
    assert (sandbox.root / "file").read_bytes() == b"abCD"


async def test_asking_for_the_digest_of_what_was_removed(
    restarted: list[FileAgent], sandbox: Sandbox
) -> None:
    """RSM-24: it is as unknown as any other."""
    await start_upload(restarted[0], "/file", request_id="r")
    agent = await restart(restarted, sandbox)
    (sandbox.root / sandbox.leftovers()[0]).unlink()
    assert (await get_upload(agent, request_id="r", digest=True)).state == UNKNOWN
    assert agent.statistics().unfinished_uploads == 0


async def test_cancelling_serve_frees_everything(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-10: and keeps what can be gone on with."""
    both: list[dict[str, Any]] = [{}, {"request_id": "r"}]
    for names in both:
        peer = Peer(agent)
        await peer.send(opened(upload=metadata("/file", **names)))
        await peer.chunk(b"abc")
        sandbox.traced.clear()
        await until(lambda: "upload.chunk_staged" in sandbox.traced)
        peer.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await peer.task
    assert (await get_upload(agent, request_id="r")).staged_bytes == 3
    assert agent.statistics().active_uploads == 0


async def test_closing_ends_streams(sandbox: Sandbox) -> None:
    """RSM-10: closing the agent ends `serve` without an exception."""
    agent = sandbox.agent()
    await agent.start()
    peer = Peer(agent)
    await peer.send(opened(upload=metadata("/file", request_id="r")))
    await peer.accepted()
    await agent.aclose()
    await peer.task
    assert len(sandbox.leftovers()) == 1
