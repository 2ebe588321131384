"""Uploads through the agent: real frames, real files."""

from __future__ import annotations

import asyncio
import os
import stat as stat_module
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from agent.agent_harness import (
    Refused,
    Request,
    Sandbox,
    data_message,
    finish_message,
    framed,
    get,
    get_upload,
    metadata,
    opened,
    peer_of,
    put,
    stat,
    until,
)
from digest_values import OTHER
from google.protobuf.duration_pb2 import Duration
from openshell_files_protocol.digests import PREFERRED
from openshell_files_protocol.limits import KIB, MAX_CHUNK_BYTES, MIB, PROTOCOL_VERSION
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.concurrency import DiskThreads
from openshell_supervisor_sim.agent.upload import publisher

SIZES = [0, 1, 256 * KIB - 1, 256 * KIB, 256 * KIB + 1, MAX_CHUNK_BYTES + 1, 3 * MIB]


@pytest.mark.parametrize("size", SIZES)
async def test_explicit_finish(agent: FileAgent, sandbox: Sandbox, size: int) -> None:
    """UPL-3, UPL-9, UPL-12, UPL-42: what was published is described as it is on disk."""
    content = os.urandom(size)
    answer = await put(agent, "/file", content)
    path = sandbox.root / "file"
    assert path.read_bytes() == content
    assert answer.bytes_written == answer.file.size_bytes == size
    assert answer.durability == files_pb2.DURABILITY_FSYNC
    assert answer.file.path == "/file"
    assert answer.file.type == files_pb2.FILE_TYPE_REGULAR
    described = await stat(agent, "file", include_digest=True)
    assert described == answer.file
    assert not sandbox.leftovers()


@pytest.mark.parametrize("size", SIZES)
async def test_rfc_upload(agent: FileAgent, sandbox: Sandbox, size: int) -> None:
    """RFC-2, UPL-2: fields 1 to 5 are enough, also for an empty file."""
    content = os.urandom(size)
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", size, explicit=False)))
        for start in range(0, size, 64 * KIB):
            await peer.chunk(content[start : start + 64 * KIB])
        await peer.input_end()
        answer = (await peer.answer()).upload
    assert answer.bytes_written == size
    assert (sandbox.root / "file").read_bytes() == content


@pytest.mark.parametrize(("declared", "sent"), [(0, 1), (1, 0), (5, 4), (5, 6)])
async def test_rfc_upload_of_another_size(
    agent: FileAgent, sandbox: Sandbox, declared: int, sent: int
) -> None:
    """UPL-31"""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", declared, explicit=False)))
        await peer.chunk(bytes(sent))
        if sent <= declared:
            await peer.input_end()
        assert (await peer.error()).reason is Reason.SIZE_MISMATCH
    assert not (sandbox.root / "file").exists()
    assert not sandbox.leftovers()


@pytest.mark.parametrize(
    ("explicit", "ending"),
    # A clean end without explicit_finish is the finish (UPL-2).
    [(True, "end"), *((explicit, how) for explicit in (True, False) for how in ("eof", "cancel", "break"))],
)
@pytest.mark.parametrize("names", [{}, {"request_id": "r"}], ids=["transient", "resumable"])
async def test_an_end_without_finish_publishes_nothing(
    agent: FileAgent,
    sandbox: Sandbox,
    explicit: bool,  # noqa: FBT001
    ending: str,
    names: dict[str, Any],
) -> None:
    """UPL-1, UPL-11: all content is there, and yet nothing is published."""
    (sandbox.root / "file").write_bytes(b"old")
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", 3, explicit=explicit, **names)))
        await peer.accepted()
        await peer.chunk(b"new")
        match ending:
            case "eof":
                peer.to_agent.end()
            case "cancel":
                await peer.input_end(cancelled=True)
            case "end":
                await peer.input_end()
            case _:
                await until(lambda: "upload.chunk_staged" in sandbox.traced)
                await peer.vanish()
        if ending != "break":
            assert (await peer.error()).reason is Reason.UPLOAD_INCOMPLETE
    assert (sandbox.root / "file").read_bytes() == b"old"
    assert len(sandbox.leftovers()) == len(names)
    assert agent.statistics().staged_bytes == 3 * len(names)
    if names:
        status = await get_upload(agent, request_id="r", digest=True)
        assert status.state == files_pb2.UPLOAD_STATE_RECEIVING
        assert status.staged_bytes == status.durable_bytes == 3


@pytest.mark.parametrize("names", [{}, {"request_id": "r"}], ids=["transient", "resumable"])
@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ({"size": 4, "digest": OTHER}, Reason.SIZE_MISMATCH),
        ({"size": 3, "digest": OTHER}, Reason.DIGEST_MISMATCH),
    ],
)
async def test_refused_finish(
    agent: FileAgent, sandbox: Sandbox, names: dict[str, Any], finish: dict[str, Any], reason: Reason
) -> None:
    """UPL-3, RSM-34: nothing is published and what was staged is freed."""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", **names)))
        await peer.data(0, b"abc")
        await peer.finish(**finish)
        assert (await peer.error()).reason is reason
    assert list(sandbox.root.iterdir()) == []
    assert agent.statistics().staged_bytes == 0
    if names:
        status = await get_upload(agent, request_id="r")
        assert status.state == files_pb2.UPLOAD_STATE_ABORTED
        assert status.failure_reason == reason.name


async def test_wrong_crc(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-7, UPL-25: the bytes before the chunk stay staged, its own do not."""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", request_id="r")))
        await peer.data(0, b"good")
        await peer.data(4, b"bad", crc=1)
        error = await peer.error()
    assert error.reason is Reason.CHUNK_CHECKSUM
    assert error.metadata["expected_offset"] == "4"
    assert (await get_upload(agent, request_id="r")).staged_bytes == 4
    assert not (sandbox.root / "file").exists()


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (files_pb2.UploadFileRequest(metadata=files_pb2.UploadFileMetadata()), "metadata"),
        (files_pb2.UploadFileRequest(), "payload"),
        (files_pb2.UploadFileRequest(data=files_pb2.FileChunk()), "data"),
        (files_pb2.UploadFileRequest(data=files_pb2.FileChunk(data=b"a", hole_bytes=1)), "data.hole_bytes"),
    ],
)
async def test_wrong_messages(agent: FileAgent, message: files_pb2.UploadFileRequest, field: str) -> None:
    """UPL-4, UPL-5"""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file")))
        await peer.upload_message(message)
        error = await peer.error()
    assert error.reason is Reason.INVALID_REQUEST
    assert error.fields == [field]


async def test_unusual_encodings_of_a_chunk(agent: FileAgent, sandbox: Sandbox) -> None:
    """FRM-4: what the fast codec cannot read, protobuf can."""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file")))
        # FileChunk with its fields in another order and one that is unknown.
        chunk = b"\x12\x03abc" + b"\x1d" + bytes.fromhex("b73f4b36") + b"\x08\x00" + b"\x98\x06\x01"
        message = b"\x52" + bytes([len(chunk)]) + chunk
        request = b"\x12" + bytes([len(message)]) + message
        await peer.send_bytes(bytes([len(request)]) + request)
        await peer.finish(b"abc")
        await peer.answer()
    assert (sandbox.root / "file").read_bytes() == b"abc"


async def test_chunk_limit(agent: FileAgent) -> None:
    """UPL-24: the least of the gateway's limits and the agent's."""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file"), max_chunk_bytes=256 * KIB))
        await peer.data(0, bytes(256 * KIB))
        await peer.data(256 * KIB, bytes(256 * KIB + 1))
        error = await peer.error()
    assert error.reason is Reason.CHUNK_TOO_LARGE
    assert error.metadata == {"max_chunk_bytes": str(256 * KIB)}


async def test_file_limit_at_admission(agent: FileAgent, sandbox: Sandbox) -> None:
    limits = file_relay_pb2.FileRelayLimits(max_file_bytes=10)
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", 11), limits=limits))
        assert (await peer.error()).reason is Reason.FILE_TOO_LARGE
    assert not list(sandbox.root.iterdir())


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


async def test_refusal_while_the_peer_is_sending(agent: FileAgent) -> None:
    """UPL-13: the error comes although the stream does not end."""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/missing/file")))
        assert (await peer.error()).reason is Reason.PARENT_NOT_FOUND
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file")))
        await peer.accepted()
        await peer.data(5, b"x")
        assert (await peer.error()).reason is Reason.OFFSET_MISMATCH


async def test_readers_see_old_or_new_whole(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-8: an open reader keeps the old file; the name changes in one step."""
    path = sandbox.root / "file"
    path.write_bytes(b"old")
    seen: list[bytes] = []
    for point in ("upload.chunk_staged", "upload.verifying", "upload.flushed", "upload.renamed"):
        sandbox.on_trace[point] = lambda: seen.append(path.read_bytes())
    with path.open("rb") as reader:
        await put(agent, "/file", b"new content")
        assert reader.read() == b"old"
    assert seen == [b"old", b"old", b"old", b"new content"]


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


async def test_small_file_in_one_burst(agent: FileAgent, sandbox: Sandbox) -> None:
    """FRM-12: the gateway need not wait for `accepted`."""
    async with peer_of(agent) as peer:
        chunk = Request(upload=files_pb2.UploadFileRequest(chunk=b"abc"))
        finish = Request(upload=finish_message(b"abc"))
        end = Request(input_end=file_relay_pb2.FileRelayInputEnd())
        burst = [opened(upload=metadata("/file")), chunk, finish, end]
        await peer.send_bytes(b"".join(map(framed, burst)))
        await peer.accepted()
        assert (await peer.answer()).upload.bytes_written == 3
    assert (sandbox.root / "file").read_bytes() == b"abc"


async def test_a_small_file_is_answered_in_one_piece(agent: FileAgent) -> None:
    """`accepted` goes with the answer if everything was here when it was admitted, and not later than at once else."""
    async with peer_of(agent) as peer:
        content, finish = data_message(0, b"abc"), finish_message(b"abc")
        burst = [opened(upload=metadata("/file", 3)), Request(upload=content), Request(upload=finish)]
        await peer.send_bytes(b"".join(map(framed, burst)))
        assert [frame.WhichOneof("frame") for frame in await peer.next_write()] == ["accepted", "upload"]
    for size in (3, MIB):
        async with peer_of(agent) as peer:
            await peer.send(opened(upload=metadata("/file", size)))
            assert [frame.WhichOneof("frame") for frame in await peer.next_write()] == ["accepted"]


async def test_memory_is_bounded(sandbox: Sandbox) -> None:
    """A disk that stands still stops the stream: the agent takes no more than its pipeline."""
    sandbox.settings = replace(sandbox.settings, pipeline_bytes=2 * MIB)
    agent = sandbox.agent()
    await agent.start()
    try:
        gate = threading.Event()
        sandbox.on_trace["upload.first_chunk_staged"] = gate.wait
        async with peer_of(agent, limit=MIB) as peer:
            await peer.send(opened(upload=metadata("/file", request_id="r")))
            await peer.accepted()
            sent = 0

            async def flood() -> None:
                nonlocal sent
                while sent < 32 * MIB:
                    await peer.data(sent, bytes(MAX_CHUNK_BYTES))
                    sent += MAX_CHUNK_BYTES

            flooding = asyncio.create_task(flood())
            await until(lambda: agent.statistics().bytes_buffered > MIB and peer.to_agent.size > 0)
            for _ in range(100):
                await asyncio.sleep(0)
            assert agent.statistics().bytes_buffered <= 3 * MIB
            assert sent <= 6 * MIB
            gate.set()
            flooding.cancel()
            await asyncio.wait({flooding})
    finally:
        await agent.aclose()


async def test_archives_are_refused(agent: FileAgent) -> None:
    with pytest.raises(Refused) as refused:
        await put(agent, "/file", b"", is_archive=True)
    assert refused.value.reason is Reason.ARCHIVE_UNSUPPORTED
    with pytest.raises(Refused) as refused:
        await get(agent, "/file", as_archive=True)
    assert refused.value.reason is Reason.ARCHIVE_UNSUPPORTED


async def test_limits_are_announced(sandbox: Sandbox) -> None:
    """CAP-2, DIG-13: for the hello, also before the agent is started."""
    settings = replace(
        sandbox.settings, max_file_bytes=77, max_uploads=3, max_uploads_per_principal=2, idle_timeout=1.5
    )
    assert FileAgent(settings).capability == file_relay_pb2.FileTransferCapability(
        protocol_version=PROTOCOL_VERSION,
        max_chunk_bytes=settings.max_chunk_bytes,
        keeps_relays=True,
        max_file_bytes=77,
        idle_timeout=Duration(seconds=1, nanos=500_000_000),
        upload_expiry=Duration(seconds=24 * 3600),
        max_uploads_per_sandbox=3,
        max_uploads_per_principal=2,
        takes_waiting=True,
        digests=[algorithm.wire for algorithm in PREFERRED],
    )


async def test_quota(sandbox: Sandbox) -> None:
    """RSM-32, RSM-35: unfinished uploads are limited in bytes; the one that finds no room gives back what it had."""
    sandbox.settings = replace(sandbox.settings, max_staged_bytes=10)
    agent = sandbox.agent()
    await agent.start()
    try:
        async with peer_of(agent) as peer:
            await peer.send(opened(upload=metadata("/file", request_id="r")))
            await peer.data(0, bytes(10))
            await peer.data(10, b"x")
            assert (await peer.error()).reason is Reason.QUOTA_EXCEEDED
        status = await get_upload(agent, request_id="r")
        assert (status.state, status.failure_reason) == (files_pb2.UPLOAD_STATE_ABORTED, "QUOTA_EXCEEDED")
        assert not sandbox.leftovers()
        await put(agent, "/other", bytes(10))
    finally:
        await agent.aclose()


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
