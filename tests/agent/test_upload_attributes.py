"""Attributes of an uploaded file: mode, owner, time, holes, durability, directories on the way (UPL-9, UPL-10)."""

from __future__ import annotations

import asyncio
import os
import stat as stat_module
from collections.abc import Callable
from typing import Any

import pytest
from agent.agent_harness import (
    Refused,
    Sandbox,
    get_upload,
    metadata,
    opened,
    peer_of,
    put,
)
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.concurrency import DiskThreads
from openshell_supervisor_sim.agent.upload import publisher


@pytest.mark.parametrize(
    ("mode", "replaced", "expected"),
    [
        (0, None, 0o666 & ~0o022),
        (0, 0o640, 0o640),
        (0o600, 0o644, 0o600),
        (0o100755, None, 0o755),
        (0o6755, None, 0o755),
        (0o1777, None, 0o777),
        (0o100000, 0o644, 0),
        (0o4000, None, 0),
        (0, 0o4755, 0o755),
    ],
)
async def test_mode(sandbox: Sandbox, mode: int, replaced: int | None, expected: int) -> None:
    """UPL-10, UPL-46, UPL-14"""
    previous = os.umask(0o022)
    agent = sandbox.agent()
    try:
        await agent.start()
        path = sandbox.root / "file"
        if replaced is not None:
            path.write_bytes(b"old")
            path.chmod(replaced)
        answer = await put(agent, "/file", b"new", mode=mode)
        assert stat_module.S_IMODE(path.stat().st_mode) == answer.file.mode == expected
    finally:
        await agent.aclose()
        os.umask(previous)


async def test_a_large_file_that_is_replaced_is_freed_by_somebody_else(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller does not wait until the space of the old one is free, and it is free soon."""
    later: list[Callable[[], object]] = []
    monkeypatch.setattr(publisher, "_LARGE_BYTES", 4096)

    def put_off(_: DiskThreads, work: Callable[[], object]) -> None:
        later.append(work)

    monkeypatch.setattr(DiskThreads, "later", put_off)
    path = sandbox.root / "file"
    path.write_bytes(bytes(8192))

    def held() -> list[str]:
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd_is_open(fd)]
        return [link for link in links if link.startswith(str(path))]

    def fd_is_open(fd: str) -> bool:
        return os.path.lexists(f"/proc/self/fd/{fd}")

    agent = sandbox.agent()
    try:
        await agent.start()
        await put(agent, "/file", b"new")
        assert path.read_bytes() == b"new"
        assert held() == [f"{path} (deleted)"]
        for work in later:
            await asyncio.to_thread(work)
        assert held() == []
        await put(agent, "/file", b"newer")
        assert len(later) == 1, "a small one is not worth it"
    finally:
        await agent.aclose()


async def test_the_owner_is_the_agents_user(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-51: also of a file that replaces another user's, where the agent may do that."""
    path = sandbox.root / "file"
    path.write_bytes(b"old")
    if os.geteuid() == 0:
        os.chown(path, 12_345, 12_345)
    await put(agent, "/file", b"new")
    found = path.stat()
    assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())


@pytest.mark.parametrize("mode", [0o040755, 0o120777, 0o010644, 1 << 16, 0xFFFFFFFF])
async def test_mode_of_something_else(agent: FileAgent, mode: int) -> None:
    """UPL-47: only the type bits of a regular file are allowed."""
    with pytest.raises(Refused) as refused:
        await put(agent, "/file", b"", mode=mode)
    assert refused.value.fields == ["metadata.mode"]


@pytest.mark.parametrize("nanoseconds", [0, -1, 1, 1_700_000_000_123_456_789])
async def test_modified_time(agent: FileAgent, sandbox: Sandbox, nanoseconds: int) -> None:
    """UPL-48"""
    wanted = files_pb2.UploadFileMetadata()
    wanted.modified_time.FromNanoseconds(nanoseconds)
    answer = await put(agent, "/file", b"x", modified_time=wanted.modified_time)
    assert (sandbox.root / "file").stat().st_mtime_ns == nanoseconds
    assert answer.file.modified_time == wanted.modified_time


async def test_modified_time_out_of_range(agent: FileAgent) -> None:
    """UPL-49"""
    wanted = files_pb2.UploadFileMetadata()
    wanted.modified_time.nanos = 1_000_000_000
    with pytest.raises(Refused) as refused:
        await put(agent, "/file", b"x", modified_time=wanted.modified_time)
    assert refused.value.fields == ["metadata.modified_time"]


async def test_hole_stays_a_hole(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-18: sparse in, sparse on disk, with content on both sides."""
    content = b"head" + bytes(16 * MIB) + b"tail"
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", len(content))))
        await peer.data(0, b"head")
        await peer.data(4, b"", hole=16 * MIB)
        await peer.data(4 + 16 * MIB, b"tail")
        await peer.finish(content)
        answer = (await peer.answer()).upload
    path = sandbox.root / "file"
    assert path.read_bytes() == content
    assert path.stat().st_blocks * 512 < MIB
    assert answer.file.allocated_bytes == path.stat().st_blocks * 512


@pytest.mark.parametrize(
    "algorithm",
    [
        files_pb2.DIGEST_ALGORITHM_BLAKE3,
        # Takes three times as long.
        pytest.param(files_pb2.DIGEST_ALGORITHM_SHA256, marks=pytest.mark.long),
    ],
    ids=files_pb2.DigestAlgorithm.Name,
)
async def test_hole_behind_4_gib(
    agent: FileAgent, sandbox: Sandbox, algorithm: files_pb2.DigestAlgorithm
) -> None:
    """UPL-5: sizes beyond 32 bits, without the content of them."""
    size = 2**32 + 1
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", request_id="big", accepted_digests=[algorithm])))
        await peer.data(0, b"", hole=size - 1)
        await peer.data(size - 1, b"!")
        # A stream that ends is not waited for: what it had not hashed by then is not staged.
        while (await get_upload(agent, request_id="big")).staged_bytes < size:
            pass
        peer.to_agent.end()
        assert (await peer.error()).metadata == {"received_bytes": str(size)}
    status = await get_upload(agent, request_id="big", digest=True)
    assert status.staged_bytes == size
    assert agent.statistics().staged_bytes == 1
    answer = await call_finish(agent, status)
    assert answer.bytes_written == (sandbox.root / "file").stat().st_size == size


async def call_finish(agent: FileAgent, status: files_pb2.UploadStatus) -> files_pb2.UploadFileResponse:
    async with peer_of(agent) as peer:
        fields: dict[str, Any] = {
            "upload_id": status.upload_id,
            "epoch": status.epoch,
            "request_id": status.request_id,
            "accepted_digests": [status.digest_algorithm],
        }
        await peer.send(opened(upload=metadata("/file", **fields)))
        await peer.finish(size=status.staged_bytes, digest=status.staged_digest)
        return (await peer.answer()).upload


async def test_durability_rename(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-9, UPL-41: what was not flushed is not called flushed."""
    answer = await put(agent, "/file", b"x", durability=files_pb2.DURABILITY_RENAME)
    assert answer.durability == files_pb2.DURABILITY_RENAME
    assert sandbox.fs.calls.get("fsync", 0) == 0


async def test_create_parents(agent: FileAgent, sandbox: Sandbox) -> None:
    """PTH-16, PTH-18."""
    with pytest.raises(Refused) as refused:
        await put(agent, "/a/b/c/file", b"x")
    assert refused.value.reason is Reason.PARENT_NOT_FOUND
    assert refused.value.metadata["parent"] == "/a/b/c"
    previous = os.umask(0o027)
    try:
        await put(agent, "/a/b/c/file", b"x", parents=files_pb2.PARENT_POLICY_CREATE)
    finally:
        os.umask(previous)
    assert (sandbox.root / "a/b/c/file").read_bytes() == b"x"
    modes = [stat_module.S_IMODE((sandbox.root / made).stat().st_mode) for made in ("a", "a/b", "a/b/c")]
    assert modes == [0o750] * 3


async def test_no_file_without_a_name(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-8: where O_TMPFILE is not known a named file serves, noted in the journal."""
    real_open = sandbox.fs.open

    def no_tmpfile(name: bytes, flags: int, **kwargs: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "not supported")
        return real_open(name, flags, **kwargs)

    sandbox.fs.__dict__["open"] = no_tmpfile
    await put(agent, "/file", b"one")
    await put(agent, "/file", b"two")
    assert (sandbox.root / "file").read_bytes() == b"two"
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file")))
        await peer.accepted()
        assert len(sandbox.leftovers()) == 1
        await peer.vanish()
    assert not sandbox.leftovers()
