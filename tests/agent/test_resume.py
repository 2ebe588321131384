"""Resuming, taking over, and finding out (RSM-1 to RSM-10)."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import pytest
from agent.agent_harness import (
    EACCES,
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
from digest_values import digest_of
from google.protobuf.empty_pb2 import Empty
from openshell_files_protocol.limits import KIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.store.journal import Journal

PART = 512 * KIB

RECEIVING = files_pb2.UPLOAD_STATE_RECEIVING
VERIFYING = files_pb2.UPLOAD_STATE_VERIFYING
PUBLISHED = files_pb2.UPLOAD_STATE_PUBLISHED
ABORTED = files_pb2.UPLOAD_STATE_ABORTED
EXPIRED = files_pb2.UPLOAD_STATE_EXPIRED


async def reason_of(awaitable: Any) -> Reason:
    with pytest.raises(Refused) as refused:
        await awaitable
    return refused.value.reason


def going_on(
    status: files_pb2.UploadStatus, path: str = "/file", **fields: Any
) -> files_pb2.UploadFileMetadata:
    return metadata(path, status.size_bytes, upload_id=status.upload_id, epoch=status.epoch, **fields)


async def stage(
    agent: FileAgent, status: files_pb2.UploadStatus, content: bytes, offset: int = 0, *, path: str = "/file"
) -> None:
    """Send content and lose the stream."""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=going_on(status, path)))
        await peer.data(offset, content)
        peer.to_agent.end()
        assert (await peer.error()).reason is Reason.UPLOAD_INCOMPLETE


async def finish(
    agent: FileAgent, status: files_pb2.UploadStatus, content: bytes, *, path: str = "/file"
) -> files_pb2.UploadFileResponse:
    """Send what is missing, and the finish."""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=going_on(status, path)))
        if status.staged_bytes < len(content):
            await peer.data(status.staged_bytes, content[status.staged_bytes :])
        await peer.finish(content)
        return (await peer.answer()).upload


@pytest.fixture
async def restarted(sandbox: Sandbox) -> AsyncIterator[list[FileAgent]]:
    """Agents, one after the other, on the same directories; the last is closed at the end."""
    agents = [sandbox.agent()]
    await agents[0].start()
    yield agents
    await agents[-1].aclose()


async def restart(agents: list[FileAgent], sandbox: Sandbox) -> FileAgent:
    await agents[-1].aclose()
    agents.append(sandbox.agent())
    await agents[-1].start()
    return agents[-1]


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


async def test_going_on_after_a_restart(restarted: list[FileAgent], sandbox: Sandbox) -> None:
    """RSM-3, RSM-4: the state lives in the sandbox; the prefix is read once."""
    content = os.urandom(2 * PART)
    status = await start_upload(restarted[0], "/file", len(content), request_id="r", mode=0o640)
    status.size_bytes = len(content)
    async with peer_of(restarted[0]) as peer:
        await peer.send(opened(upload=going_on(status, request_id="r", mode=0o640)))
        await peer.data(0, content[:PART])
        await until(lambda: "upload.chunk_staged" in sandbox.traced)
        await peer.vanish()
    agent = await restart(restarted, sandbox)
    assert agent.statistics().staged_bytes == PART
    for _ in range(2):
        status = await start_upload(agent, "/file", len(content), request_id="r", mode=0o640)
        assert status.state == RECEIVING
        assert status.staged_digest == digest_of(content[:PART])
    assert sandbox.fs.calls["pread"] == 1
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=going_on(status, request_id="r", mode=0o640)))
        await peer.data(PART, content[PART:])
        await peer.finish(content)
        assert (await peer.answer()).upload.file.mode == 0o640
    # Once for the prefix, once for everything before it was published.
    assert sandbox.fs.calls["pread"] == 2
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


async def test_finish_is_idempotent(restarted: list[FileAgent], sandbox: Sandbox) -> None:
    """RSM-6, RSM-21: by either name, with or without the content, and after a restart."""
    status = await start_upload(restarted[0], "/file", 3, request_id="r")
    first = await put(
        restarted[0], "/file", b"abc", request_id="r", upload_id=status.upload_id, epoch=status.epoch
    )
    assert not first.replayed
    first.replayed = True
    for again_after in ("nothing", "restart"):
        agent = restarted[-1] if again_after == "nothing" else await restart(restarted, sandbox)
        status = await get_upload(agent, status.upload_id)
        assert status.state == PUBLISHED
        again = await put(agent, "/file", b"abc", request_id="r")
        assert again == first
        only_finish = await put(agent, "/file", b"abc", skip=3, upload_id=status.upload_id, epoch=1)
        assert only_finish == first
        started = await start_upload(agent, "/file", 3, request_id="r")
        assert started.state == PUBLISHED
        assert await reason_of(put(agent, "/file", b"abd", request_id="r")) is Reason.FINISH_CONFLICT
    assert restarted[-1].statistics().uploads_published == 0


async def test_tombstones_are_forgotten(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-22: after their time, not before."""
    await put(agent, "/file", b"abc", request_id="r")
    sandbox.now[0] += sandbox.settings.tombstone_seconds - 1
    await agent.sweep()
    assert (await get_upload(agent, request_id="r")).state == PUBLISHED
    sandbox.now[0] += 2
    await agent.sweep()
    assert (await get_upload(agent, request_id="r")).state == UNKNOWN


async def test_verifying_is_said(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-7: while the finish is carried out; who goes on waits for it and gets its answer."""
    gate = threading.Event()
    reached = threading.Event()

    def pause() -> None:
        reached.set()
        gate.wait()

    sandbox.on_trace["upload.flushed"] = pause
    async with peer_of(agent) as peer, peer_of(agent) as second:
        await peer.send(opened(upload=metadata("/file", request_id="r")))
        await peer.chunk(b"abc")
        await peer.finish(b"abc")
        await until(reached.is_set)
        status = await get_upload(agent, request_id="r")
        assert status.state == VERIFYING
        assert (await start_upload(agent, "/file", request_id="r")).state == VERIFYING
        assert (await start_upload(agent, "/file", upload_id=status.upload_id)).epoch == 1
        aborting = asyncio.create_task(abort_upload(agent, status.upload_id))
        await second.send(opened(upload=going_on(status)))
        await second.finish(b"abc")
        gate.set()
        assert not (await peer.answer()).upload.replayed
        assert (await second.answer()).upload.replayed
        assert (await aborting).state == PUBLISHED


async def test_abort(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-34: frees what was staged and ends a stream; it can be repeated."""
    status = await start_upload(agent, "/file", request_id="r")
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=going_on(status)))
        await peer.data(0, b"abc")
        await until(lambda: "upload.chunk_staged" in sandbox.traced)
        aborted = await abort_upload(agent, status.upload_id)
        assert (aborted.state, aborted.staged_bytes, aborted.durable_bytes) == (ABORTED, 0, 0)
        assert (await peer.error()).reason is Reason.UPLOAD_ABORTED
    again = await abort_upload(agent, status.upload_id)
    assert (again.state, again.staged_bytes) == (ABORTED, 0)
    assert not sandbox.leftovers()
    assert agent.statistics().staged_bytes == 0
    assert (await get_upload(agent, request_id="r")).state == ABORTED
    assert await reason_of(put(agent, "/file", b"", request_id="r")) is Reason.UPLOAD_ABORTED
    assert await reason_of(start_upload(agent, "/file", request_id="r")) is Reason.UPLOAD_ABORTED
    assert await reason_of(abort_upload(agent, "nonsense")) is Reason.UPLOAD_UNKNOWN


@pytest.mark.parametrize("attached", [True, False])
async def test_expiry(agent: FileAgent, sandbox: Sandbox, attached: bool) -> None:  # noqa: FBT001
    """RSM-8: counted from the last byte."""
    status = await start_upload(agent, "/file", request_id="r")
    expiry = sandbox.settings.upload_expiry
    async with peer_of(agent) as peer:
        sandbox.now[0] += expiry - 1
        await peer.send(opened(upload=going_on(status)))
        await peer.data(0, b"abc")
        await until(lambda: "upload.chunk_staged" in sandbox.traced)
        if not attached:
            await peer.vanish()
        sandbox.now[0] += expiry - 1
        assert await agent.sweep() == 0
        assert (await get_upload(agent, request_id="r")).state == RECEIVING
        sandbox.now[0] += 2
        assert await agent.sweep() == 1
        if attached:
            assert (await peer.error()).reason is Reason.UPLOAD_EXPIRED
    assert (await get_upload(agent, request_id="r")).state == EXPIRED
    assert await reason_of(put(agent, "/file", b"", request_id="r")) is Reason.UPLOAD_EXPIRED
    assert not sandbox.leftovers()
    assert agent.statistics().staged_bytes == 0


async def test_expiry_after_a_restart(restarted: list[FileAgent], sandbox: Sandbox) -> None:
    """RSM-3, RSM-8: time goes on while no agent runs."""
    await start_upload(restarted[0], "/file", request_id="r")
    sandbox.now[0] += sandbox.settings.upload_expiry + 1
    agent = await restart(restarted, sandbox)
    await agent.sweep()
    assert (await get_upload(agent, request_id="r")).state == EXPIRED
    assert not sandbox.leftovers()


async def test_a_staging_file_of_the_future(restarted: list[FileAgent], sandbox: Sandbox) -> None:
    """RSM-8: a program that sets its time, or a clock that was set back, does not make an upload live longer."""
    await start_upload(restarted[0], "/file", request_id="r")
    (name,) = sandbox.leftovers()
    future = sandbox.now[0] + 1e8
    os.utime(sandbox.root / name, (future, future))
    agent = await restart(restarted, sandbox)
    status = await get_upload(agent, request_id="r")
    assert status.updated_time.seconds <= sandbox.now[0]
    sandbox.now[0] += sandbox.settings.upload_expiry + 1
    await agent.sweep()
    assert (await get_upload(agent, request_id="r")).state == EXPIRED


async def test_the_row_of_a_staging_file_that_is_gone(restarted: list[FileAgent], sandbox: Sandbox) -> None:
    """RSM-3: it is not kept: nothing would ever end it."""
    await start_upload(restarted[0], "/file", request_id="r")
    (name,) = sandbox.leftovers()
    (sandbox.root / name).unlink()
    agent = await restart(restarted, sandbox)
    assert (await get_upload(agent, request_id="r")).state == UNKNOWN
    await agent.aclose()
    with closing(Journal(sandbox.settings.state_dir)) as journal:
        assert journal.unfinished() == []


async def test_directories_that_an_earlier_agent_made(
    restarted: list[FileAgent], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UPL-40, CRS-9: nobody knows whether they are flushed, so they are before the answer promises it."""
    parents = files_pb2.PARENT_POLICY_CREATE
    status = await start_upload(restarted[0], "/a/b/file", request_id="r", parents=parents)
    agent = await restart(restarted, sandbox)
    flushed: set[int] = set()
    flush = sandbox.fs.fsync

    def noted(fd: int) -> None:
        flushed.add(os.fstat(fd).st_ino)
        flush(fd)

    monkeypatch.setattr(sandbox.fs, "fsync", noted)
    async with peer_of(agent) as peer:
        again = metadata("/a/b/file", upload_id=status.upload_id, epoch=status.epoch, parents=parents)
        await peer.send(opened(upload=again))
        await peer.data(0, b"abc")
        await peer.finish(b"abc")
        answer = (await peer.answer()).upload
    assert answer.durability == files_pb2.DURABILITY_FSYNC
    directories = (sandbox.root, sandbox.root / "a", sandbox.root / "a/b")
    assert flushed >= {os.stat(path).st_ino for path in directories}


async def test_list(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-31: the caller's own, oldest first."""
    for name in ("one", "two"):
        sandbox.now[0] += 1
        status = await start_upload(agent, f"/{name}", request_id=name)
        async with peer_of(agent) as peer:
            await peer.send(opened(upload=going_on(status, f"/{name}")))
            await peer.data(0, b"abc")
            peer.to_agent.end()
            await peer.error()
    await put(agent, "/three", b"", request_id="three")
    listed = (await call(agent, list_uploads=files_pb2.ListUploadsRequest())).list_uploads
    assert [upload.path for upload in listed.uploads] == ["/one", "/two"]
    assert listed.staged_bytes == 6


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


async def test_a_staging_file_that_its_owner_may_not_write(agent: FileAgent, sandbox: Sandbox) -> None:
    """CRS-6: an agent that died before the rename left the mode of the published file on it."""
    status = await start_upload(agent, "/file")
    await stage(agent, status, b"abc")
    (sandbox.root / sandbox.leftovers()[0]).chmod(0o444)
    # The superuser would be let through.
    sandbox.fs.fail("open", EACCES, None)
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=going_on(status)))
        await peer.finish(b"abc")
        assert (await peer.answer()).upload.bytes_written == 3
    assert sandbox.fs.calls["chmod_entry"] == 1
    assert (sandbox.root / "file").read_bytes() == b"abc"


async def test_asking_for_the_digest_of_what_was_removed(
    restarted: list[FileAgent], sandbox: Sandbox
) -> None:
    """RSM-24: it is as unknown as any other."""
    await start_upload(restarted[0], "/file", request_id="r")
    agent = await restart(restarted, sandbox)
    (sandbox.root / sandbox.leftovers()[0]).unlink()
    assert (await get_upload(agent, request_id="r", digest=True)).state == UNKNOWN
    assert agent.statistics().unfinished_uploads == 0


async def test_orphans_of_a_killed_agent_are_removed(restarted: list[FileAgent], sandbox: Sandbox) -> None:
    """RSM-8: a name noted for an upload that nobody can find again."""
    await restarted[0].aclose()
    journal = Journal(sandbox.settings.state_dir)
    journal.add_name(b"/", b".openshell-upload-orphan")
    journal.add_name(b"/gone", b".openshell-upload-orphan")
    journal.close()
    (sandbox.root / ".openshell-upload-orphan").write_bytes(b"x")
    restarted.append(sandbox.agent())
    await restarted[-1].start()
    assert not sandbox.leftovers()


async def test_two_agents_on_one_state(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-14: a second agent would break every promise; it does not start."""
    second = sandbox.agent()
    with pytest.raises(RuntimeError, match="another agent"):
        await second.start()
    await put(agent, "/file", b"x", request_id="r")


@pytest.mark.parametrize("request_", [{}, {"upload_id": "a", "request_id": "b"}])
async def test_get_upload_needs_one_name(agent: FileAgent, request_: dict[str, Any]) -> None:
    assert (
        await reason_of(call(agent, get_upload=files_pb2.GetUploadRequest(**request_)))
        is Reason.INVALID_REQUEST
    )


async def test_abort_needs_a_name(agent: FileAgent) -> None:
    """RSM-2: nothing is not a name that could match somebody's upload."""
    await start_upload(agent, "/file")
    assert await reason_of(abort_upload(agent, "")) is Reason.INVALID_REQUEST


async def test_a_directory_that_cannot_be_reached_at_the_start(
    restarted: list[FileAgent], sandbox: Sandbox
) -> None:
    """RSM-3, RSM-7: its uploads wait, and are found under their names; the others are served."""
    mount, elsewhere = sandbox.root / "mount", sandbox.root / "elsewhere"
    mount.mkdir()
    status = await start_upload(restarted[0], "/mount/file", 3, request_id="r")
    await stage(restarted[0], status, b"ab", path="/mount/file")
    await start_upload(restarted[0], "/mount/other", 3, request_id="aborted")
    await start_upload(restarted[0], "/file", 3, request_id="other")
    mount.rename(elsewhere)
    mount.symlink_to("mount")
    agent = await restart(restarted, sandbox)
    assert (await get_upload(agent, request_id="other")).state == RECEIVING
    waiting = await get_upload(agent, request_id="r", digest=True)
    assert (waiting.state, waiting.upload_id, waiting.staged_bytes) == (RECEIVING, status.upload_id, 2)
    assert len((await call(agent, list_uploads=files_pb2.ListUploadsRequest())).list_uploads.uploads) == 3
    for _ in range(2):
        assert await reason_of(start_upload(agent, "/mount/file", 3, request_id="r")) is Reason.INVALID_PATH
        assert await reason_of(finish(agent, status, b"abc", path="/mount/file")) is Reason.INVALID_PATH
    aborted = await get_upload(agent, request_id="aborted")
    assert (await abort_upload(agent, aborted.upload_id)).state == ABORTED
    mount.unlink()
    elsewhere.rename(mount)
    again = await start_upload(agent, "/mount/file", 3, request_id="r")
    assert (again.state, again.upload_id, again.staged_bytes) == (RECEIVING, status.upload_id, 2)
    await finish(agent, again, b"abc", path="/mount/file")
    assert (mount / "file").read_bytes() == b"abc"
    await agent.sweep()
    assert len(sandbox.leftovers()) == 1, "the other upload's"


async def test_a_directory_that_was_removed(restarted: list[FileAgent], sandbox: Sandbox) -> None:
    """RSM-24: the upload went with it."""
    (sandbox.root / "gone").mkdir()
    await start_upload(restarted[0], "/gone/file", 3, request_id="r")
    await restarted[0].aclose()
    (sandbox.root / sandbox.leftovers()[0]).unlink()
    (sandbox.root / "gone").rmdir()
    restarted.append(sandbox.agent())
    await restarted[-1].start()
    assert (await get_upload(restarted[-1], request_id="r")).state == UNKNOWN
    assert restarted[-1].statistics().unfinished_uploads == 0


async def test_asking_all_the_time(agent: FileAgent) -> None:
    """RSM-7, RSM-19: from RECEIVING over VERIFYING to PUBLISHED, never UNKNOWN, never without the result."""
    for round_ in range(20):
        status = await start_upload(agent, "/file", request_id=str(round_))
        states: list[int] = []
        publishing = asyncio.create_task(
            put(agent, "/file", b"x", declared=0, upload_id=status.upload_id, epoch=1)
        )
        while not states or states[-1] != PUBLISHED:
            answer = await get_upload(agent, status.upload_id)
            states.append(answer.state)
            assert (answer.state == PUBLISHED) is (answer.result.bytes_written == 1)
        await publishing
        assert states == sorted(states)
        assert set(states) <= {RECEIVING, VERIFYING, PUBLISHED}


async def test_finishing_twice_at_the_same_time(agent: FileAgent) -> None:
    """RSM-5, RSM-6: one publishes; the others are superseded or get its answer.

    The last to attach may find the byte of the one before it staged, and both
    end without publishing; then the upload is still there to be finished.
    """
    for round_ in range(20):
        status = await start_upload(agent, "/file", request_id=str(round_))
        ids: dict[str, Any] = {"declared": 0, "upload_id": status.upload_id, "epoch": 1}
        outcomes = await asyncio.gather(
            *(put(agent, "/file", b"x", request_id=str(round_), **ids) for _ in range(4)),
            return_exceptions=True,
        )
        answers = [outcome for outcome in outcomes if isinstance(outcome, files_pb2.UploadFileResponse)]
        published = sum(not answer.replayed for answer in answers)
        upload = await get_upload(agent, status.upload_id)
        if not published:
            assert upload.state == files_pb2.UPLOAD_STATE_RECEIVING
            ids["skip"] = upload.staged_bytes
            last = await put(agent, "/file", b"x", request_id=str(round_), **ids)
            published += not last.replayed
            upload = await get_upload(agent, status.upload_id)
        assert published == 1
        assert upload.state == files_pb2.UPLOAD_STATE_PUBLISHED
        reasons = {outcome.reason for outcome in outcomes if isinstance(outcome, Refused)}
        # A stream that took over after the byte was staged is told where to go on.
        assert reasons <= {Reason.SUPERSEDED, Reason.OFFSET_MISMATCH}


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
