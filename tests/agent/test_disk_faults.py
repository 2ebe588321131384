"""A disk that fails: the right reason, nothing published, nothing lost that was promised."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest
from agent.agent_harness import (
    EDQUOT,
    EIO,
    ENOSPC,
    EROFS,
    Sandbox,
    StrictFileSystem,
    get_upload,
    metadata,
    opened,
    peer_of,
    put,
)
from agent.refusals import refusal
from google.protobuf.empty_pb2 import Empty
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.store.journal import Journal

REASONS = {
    ENOSPC: Reason.DISK_FULL,
    EDQUOT: Reason.QUOTA_EXCEEDED,
    EIO: Reason.IO_ERROR,
    EROFS: Reason.READ_ONLY_FILE_SYSTEM,
    errno.EFBIG: Reason.FILE_TOO_LARGE,
}
RECEIVING = files_pb2.UPLOAD_STATE_RECEIVING
ABORTED = files_pb2.UPLOAD_STATE_ABORTED

names_of_both = pytest.mark.parametrize("names", [{}, {"request_id": "r"}], ids=["transient", "resumable"])


@names_of_both
@pytest.mark.parametrize("code", [ENOSPC, EDQUOT, EIO, EROFS])
async def test_at_open(agent: FileAgent, sandbox: Sandbox, names: dict[str, Any], code: int) -> None:
    """UPL-13: refused at once; no row and no file stays."""
    sandbox.fs.fail("open", code)
    assert (await refusal(put(agent, "/file", b"x", **names))).reason is REASONS[code]
    assert not list(sandbox.root.iterdir())
    assert agent.statistics().unfinished_uploads == 0
    sandbox.fs.fail("open")
    await put(agent, "/file", b"x", **names)


@names_of_both
@pytest.mark.parametrize("code", [ENOSPC, EDQUOT, EIO, errno.EFBIG])
async def test_midway(agent: FileAgent, sandbox: Sandbox, names: dict[str, Any], code: int) -> None:
    """RSM-10, RSM-35: what can be gone on with stays; the rest is freed, and so is what a full disk has no room for."""
    content = os.urandom(9)
    sandbox.fs.fail("pwrite", None, None, code)
    error = await refusal(put(agent, "/file", content, chunk_bytes=3, **names))
    assert error.reason is REASONS[code]
    assert error.metadata == {"errno": errno.errorcode[code]}
    assert not (sandbox.root / "file").exists()
    kept = bool(names) and code not in {ENOSPC, EDQUOT}
    assert len(sandbox.leftovers()) == kept
    assert agent.statistics().staged_bytes == 6 * kept
    assert agent.statistics().unfinished_uploads == kept
    sandbox.fs.fail("pwrite")
    if not names:
        return
    status = await get_upload(agent, request_id="r", digest=True)
    if not kept:
        assert (status.state, status.staged_bytes) == (ABORTED, 0)
        assert status.failure_reason == REASONS[code].name
        return
    assert (status.state, status.staged_bytes) == (RECEIVING, 6)
    answer = await put(
        agent, "/file", content, skip=6, upload_id=status.upload_id, epoch=status.epoch, **names
    )
    assert answer.resumed_from == 6
    assert (sandbox.root / "file").read_bytes() == content


async def test_short_writes(agent: FileAgent, sandbox: Sandbox) -> None:
    """A write may take less than all."""
    sandbox.fs.short_writes = True
    content = os.urandom(100_000)
    await put(agent, "/file", content, chunk_bytes=30_000)
    assert (sandbox.root / "file").read_bytes() == content


async def test_a_write_that_took_a_part(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-4: what a failing disk took is staged, and told."""
    sandbox.fs.short_writes = True
    sandbox.fs.fail("pwrite", None, EIO)
    content = os.urandom(99)
    await refusal(put(agent, "/file", content, request_id="r"))
    status = await get_upload(agent, request_id="r")
    assert status.staged_bytes == agent.statistics().staged_bytes == 33
    sandbox.fs.fail("pwrite")
    await put(agent, "/file", content, skip=33, upload_id=status.upload_id, epoch=1, request_id="r")
    assert (sandbox.root / "file").read_bytes() == content


@names_of_both
@pytest.mark.parametrize("code", [ENOSPC, EDQUOT, EIO])
async def test_at_flush(agent: FileAgent, sandbox: Sandbox, names: dict[str, Any], code: int) -> None:
    """UPL-9: after a failed flush nobody knows what is on the device: all of it is freed."""
    (sandbox.root / "file").write_bytes(b"old")
    sandbox.fs.fail("fsync", code)
    assert (await refusal(put(agent, "/file", b"new", **names))).reason is REASONS[code]
    assert (sandbox.root / "file").read_bytes() == b"old"
    assert not sandbox.leftovers()
    assert agent.statistics().staged_bytes == 0
    if names:
        status = await get_upload(agent, request_id="r")
        assert (status.state, status.failure_reason) == (ABORTED, REASONS[code].name)


@names_of_both
@pytest.mark.parametrize("code", [EIO, ENOSPC])
@pytest.mark.parametrize("call", ["chmod", "set_modified", "rename", "link_descriptor"])
async def test_before_the_rename(
    agent: FileAgent, sandbox: Sandbox, names: dict[str, Any], call: str, code: int
) -> None:
    """RSM-34: what trying later can help is not a refused finish, unless the disk is full."""
    (sandbox.root / "file").write_bytes(b"old")
    sandbox.fs.fail(call, code)
    if call == "link_descriptor" and names:
        await put(agent, "/file", b"new", **names)
        return
    assert (await refusal(put(agent, "/file", b"new", **names))).reason is REASONS[code]
    assert (sandbox.root / "file").read_bytes() == b"old"
    assert len(sandbox.leftovers()) == (code == EIO and bool(names))
    sandbox.fs.fail(call)
    if names and code == ENOSPC:
        status = await get_upload(agent, request_id="r")
        assert (status.state, status.failure_reason) == (ABORTED, "DISK_FULL")
    elif names:
        status = await get_upload(agent, request_id="r")
        assert (status.state, status.staged_bytes) == (RECEIVING, 3)
        await put(agent, "/file", b"new", skip=3, upload_id=status.upload_id, epoch=1, **names)
        assert (sandbox.root / "file").read_bytes() == b"new"


async def test_a_rename_that_will_never_work(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-34: refused for good, so it is freed."""
    sandbox.fs.fail("rename", errno.EACCES)
    error = await refusal(put(agent, "/file", b"new", request_id="r"))
    assert error.reason is Reason.ACCESS_DENIED
    assert not sandbox.leftovers()


@names_of_both
@pytest.mark.parametrize("code", [EIO, errno.EINVAL])
async def test_a_directory_that_cannot_be_flushed(
    agent: FileAgent, sandbox: Sandbox, names: dict[str, Any], code: int
) -> None:
    """UPL-9: the file is published; the answer promises no more than was reached."""
    sandbox.fs.fail("fsync", None, code)
    answer = await put(agent, "/file", b"x", **names)
    assert answer.durability == files_pb2.DURABILITY_RENAME
    assert (sandbox.root / "file").read_bytes() == b"x"


async def test_a_file_system_that_cannot_flush(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-9"""
    sandbox.fs.fail("fsync", errno.EOPNOTSUPP)
    assert (await put(agent, "/file", b"x")).durability == files_pb2.DURABILITY_RENAME


async def test_a_flush_that_fails_when_a_stream_breaks(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-4: staged, but not durable; the caller can tell."""
    sandbox.fs.fail("fdatasync", EIO)
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", request_id="r")))
        await peer.chunk(b"abc")
        peer.to_agent.end()
        await peer.error()
    status = await get_upload(agent, request_id="r")
    assert (status.staged_bytes, status.durable_bytes) == (3, 0)


async def test_a_hole_that_is_too_large_for_the_file_system(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-27"""
    sandbox.fs.fail("truncate", errno.EFBIG)
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", request_id="r")))
        await peer.data(0, b"", hole=1000)
        assert (await peer.error()).reason is Reason.FILE_TOO_LARGE
    assert (await get_upload(agent, request_id="r", digest=True)).staged_bytes == 0


async def test_a_second_name_that_stays(sandbox: Sandbox) -> None:
    """CND-1, UPL-8: published is published; the next start removes what is left."""
    agent = sandbox.agent()
    await agent.start()
    try:
        sandbox.fs.fail("rename_noreplace", errno.EINVAL)
        sandbox.fs.fail("unlink", EIO)
        create_only = files_pb2.UploadCondition(absent=Empty())
        await put(agent, "/file", b"abc", request_id="r", condition=create_only)
        assert (await get_upload(agent, request_id="r")).state == files_pb2.UPLOAD_STATE_PUBLISHED
        assert len(sandbox.leftovers()) == 1
    finally:
        await agent.aclose()
    sandbox.fs.fail("unlink")
    agent = sandbox.agent()
    await agent.start()
    await agent.aclose()
    assert not sandbox.leftovers()
    assert (sandbox.root / "file").read_bytes() == b"abc"


def _no_tmpfile(fs: StrictFileSystem) -> None:
    real = fs.open

    def open_(name: bytes, flags: int, **kwargs: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return real(name, flags, **kwargs)

    fs.__dict__["open"] = open_
    fs.fail("pwrite", EIO)


def _link_with_effect(fs: StrictFileSystem) -> None:
    real = fs.link_descriptor

    def link(fd: int, dir_fd: int, name: bytes) -> None:
        real(fd, dir_fd, name)
        raise OSError(EIO, "the link is there all the same")

    fs.__dict__["link_descriptor"] = link


def _no_rename(fs: StrictFileSystem) -> None:
    fs.fail("rename", EIO)


@pytest.mark.parametrize(
    "prepare",
    [_no_tmpfile, _link_with_effect, _no_rename],
    ids=["named from the start", "named for the rename", "not renamed"],
)
async def test_a_name_that_cannot_be_removed(
    sandbox: Sandbox, prepare: Callable[[StrictFileSystem], object]
) -> None:
    """RSM-36: whatever name an upload had that nobody can find again, the next start removes it."""
    (sandbox.root / "file").write_bytes(b"old")
    agent = sandbox.agent()
    await agent.start()
    try:
        prepare(sandbox.fs)
        sandbox.fs.fail("unlink", EIO)
        await refusal(put(agent, "/file", b"abc"))
        assert len(sandbox.leftovers()) == 1
    finally:
        await agent.aclose()
    assert len(sandbox.leftovers()) == 1
    sandbox.fs = StrictFileSystem()
    agent = sandbox.agent()
    await agent.start()
    await agent.aclose()
    assert not sandbox.leftovers()
    assert (sandbox.root / "file").read_bytes() == b"old"


@pytest.mark.parametrize("nameless", [True, False], ids=["for the rename", "from the start"])
async def test_a_name_is_noted_before_it_exists(
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    nameless: bool,  # noqa: FBT001
) -> None:
    """RSM-36: an agent may be killed at any moment, and the next one has to know what it left."""
    noted, made = set[bytes](), list[bytes]()

    class NotingJournal(Journal):
        def add_name(self, parent: bytes, name: bytes) -> None:
            super().add_name(parent, name)
            noted.add(name)

    monkeypatch.setattr("openshell_supervisor_sim.agent.file_agent.Journal", NotingJournal)
    real_open, real_link = sandbox.fs.open, sandbox.fs.link_descriptor

    def open_(name: bytes, flags: int, **kwargs: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE and not nameless:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        if flags & os.O_CREAT:
            made.append(name)
            assert name in noted
        return real_open(name, flags, **kwargs)

    def link(fd: int, dir_fd: int, name: bytes) -> None:
        if name != b"file":
            made.append(name)
            assert name in noted
        real_link(fd, dir_fd, name)

    sandbox.fs.__dict__.update(open=open_, link_descriptor=link)
    (sandbox.root / "file").write_bytes(b"old")
    agent = sandbox.agent()
    await agent.start()
    try:
        await put(agent, "/file", b"abc")
    finally:
        await agent.aclose()
    assert len(made) == 1
