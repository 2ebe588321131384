"""Uploads after a restart: what the next agent finds in journal and directories (RSM-3, RSM-7)."""

from __future__ import annotations

import os
from contextlib import closing

import pytest
from agent.agent_harness import (
    EACCES,
    UNKNOWN,
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
from openshell_files_protocol.limits import KIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.store.journal import Journal

PART = 512 * KIB


RECEIVING = files_pb2.UPLOAD_STATE_RECEIVING


ABORTED = files_pb2.UPLOAD_STATE_ABORTED


EXPIRED = files_pb2.UPLOAD_STATE_EXPIRED


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


async def test_orphans_of_a_killed_agent_are_removed(restarted: list[FileAgent], sandbox: Sandbox) -> None:
    """RSM-36: a name noted for an upload that nobody can find again."""
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
