"""WriteFile (UPL-16): a small file with its content, for which the disk is visited once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from agent.agent_harness import UNKNOWN as UNKNOWN_STATE
from agent.agent_harness import (
    Peer,
    Refused,
    Request,
    Sandbox,
    call,
    get_upload,
    metadata,
    opened,
    peer_of,
    put,
    until,
)
from digest_values import BLAKE3, OTHER, SHA256, UNKNOWN, digest_of
from google.protobuf.empty_pb2 import Empty
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import KIB, MAX_WRITE_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.concurrency import DiskThreads
from openshell_supervisor_sim.agent.upload.attempt import UploadAttempt

ABSENT = files_pb2.UploadCondition(absent=Empty())


def request_of(content: bytes, changes: dict[str, Any] | None = None, **fields: Any) -> Request:
    """Make the first frame, which is the only one; `changes` are of the request, `fields` of its metadata."""
    request: dict[str, Any] = {
        "content": content,
        "crc32c": crc32c(content),
        "digest": digest_of(content),
        "metadata": metadata("/file", len(content), explicit=False, **fields),
    }
    return opened(write_file=files_pb2.WriteFileRequest(**(request | (changes or {}))))


async def write(
    agent: FileAgent, content: bytes, changes: dict[str, Any] | None = None, **fields: Any
) -> files_pb2.WriteFileResponse:
    async with peer_of(agent) as peer:
        await peer.send(request_of(content, changes, **fields))
        return (await peer.answer()).write_file


async def refused(
    agent: FileAgent, content: bytes, changes: dict[str, Any] | None = None, **fields: Any
) -> Refused:
    with pytest.raises(Refused) as refusal:
        await write(agent, content, changes, **fields)
    return refusal.value


async def test_the_disk_is_visited_once(
    agent: FileAgent, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UPL-16, FRM-13: and the answer comes in one piece."""
    visits = 0
    run: Callable[..., Any] = DiskThreads.run

    async def counted(threads: DiskThreads, work: Callable[[], object], **options: Any) -> object:
        nonlocal visits
        visits += 1
        return await run(threads, work, **options)

    monkeypatch.setattr(DiskThreads, "run", counted)
    for content in (b"abc", b"another", b""):
        visits = 0
        async with peer_of(agent) as peer:
            await peer.send(request_of(content, request_id=content.decode()))
            accepted, answer = await peer.next_write()
            assert accepted.WhichOneof("frame") == "accepted"
            file = answer.write_file.file
            assert (file.size_bytes, file.digest) == (len(content), digest_of(content))
            assert answer.write_file.durability == files_pb2.DURABILITY_FSYNC
            await peer.over()
        assert visits == 1
        assert (sandbox.root / "file").read_bytes() == content
    assert not sandbox.leftovers()


async def test_the_algorithm_of_its_digest(agent: FileAgent) -> None:
    """DIG-19: which of several algorithms it has, the digest says; one that is not computed is refused."""
    for algorithm in (BLAKE3, SHA256):
        told = {"digest": digest_of(b"abc", algorithm)}
        answer = await write(agent, b"abc", told, accepted_digests=[SHA256, BLAKE3])
        assert answer.file.digest == told["digest"]
    alone = {"digest": digest_of(b"abc", BLAKE3)}
    assert (await write(agent, b"abc", alone)).file.digest == alone["digest"]
    told = {"digest": digest_of(b"abc", UNKNOWN)}
    assert (
        await refused(agent, b"abc", told, accepted_digests=[UNKNOWN])
    ).reason is Reason.DIGEST_UNSUPPORTED


async def test_it_is_no_chunk(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-56: the largest content is written whatever the limit of chunks is."""
    content = bytes(range(256)) * (MAX_WRITE_BYTES // 256)
    first = request_of(content)
    first.open.max_chunk_bytes = 256 * KIB
    async with peer_of(agent) as peer:
        await peer.send(first)
        assert (await peer.answer()).write_file.file.size_bytes == MAX_WRITE_BYTES
    assert (sandbox.root / "file").read_bytes() == content


@pytest.mark.parametrize("names", [{}, {"request_id": "r"}], ids=["transient", "resumable"])
@pytest.mark.parametrize(
    ("content", "changes", "reason"),
    [
        (b"abc", {"crc32c": 1}, Reason.CHUNK_CHECKSUM),
        (b"", {"crc32c": 1}, Reason.CHUNK_CHECKSUM),
        (b"abc", {"digest": digest_of(b"abd")}, Reason.DIGEST_MISMATCH),
        (b"", {"digest": OTHER}, Reason.DIGEST_MISMATCH),
    ],
    ids=["checksum", "checksum of nothing", "digest", "digest of nothing"],
)
async def test_wrong_content_is_refused(
    agent: FileAgent,
    sandbox: Sandbox,
    content: bytes,
    changes: dict[str, Any],
    reason: Reason,
    names: dict[str, Any],
) -> None:
    """UPL-29, UPL-7: nothing is published, and the right content is taken afterwards."""
    (sandbox.root / "file").write_bytes(b"old")
    assert (await refused(agent, content, changes, **names)).reason is reason
    assert (sandbox.root / "file").read_bytes() == b"old"
    assert not sandbox.leftovers()
    if not names:
        return
    if reason is Reason.DIGEST_MISMATCH:
        status = await get_upload(agent, request_id="r")
        assert (status.state, status.failure_reason) == (files_pb2.UPLOAD_STATE_ABORTED, reason.name)
    else:
        assert (await get_upload(agent, request_id="r")).state == UNKNOWN_STATE
        await write(agent, content, **names)
        assert (sandbox.root / "file").read_bytes() == content


@pytest.mark.parametrize(
    ("fields", "changes", "field"),
    [
        ({"upload_id": "u", "epoch": 1}, {}, "metadata.upload_id"),
        ({"lanes": 1}, {}, "metadata.lanes"),
        ({"lanes": 2}, {}, "metadata.lanes"),
        ({"size_bytes": 2}, {}, "metadata.size_bytes"),
        ({"size_bytes": 4}, {}, "metadata.size_bytes"),
        ({}, {"digest": None}, "digest"),
        ({}, {"digest": files_pb2.Digest(algorithm=SHA256, value=bytes(31))}, "digest.value"),
        ({}, {"digest": files_pb2.Digest(value=bytes(32))}, "digest.algorithm"),
        ({"accepted_digests": [SHA256]}, {"digest": digest_of(b"abc", BLAKE3)}, "digest.algorithm"),
        ({"accepted_digests": [BLAKE3]}, {}, "digest.algorithm"),
        ({"request_id": "r" * 129}, {}, "metadata.request_id"),
        ({"mode": 0o40755}, {}, "metadata.mode"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    agent: FileAgent, sandbox: Sandbox, fields: dict[str, Any], changes: dict[str, Any], field: str
) -> None:
    """UPL-53, UPL-54, UPL-30, DIG-19: by its field, before anything is staged."""
    about = files_pb2.UploadFileMetadata(sandbox_id="s", remote_path="/file", **fields)
    error = await refused(agent, b"abc", {"metadata": about, **changes})
    assert (error.reason, error.fields) == (Reason.INVALID_REQUEST, [field])
    assert not (sandbox.root / "file").exists()
    assert not sandbox.leftovers()


@pytest.mark.parametrize("size", [0, 3])
async def test_the_size_need_not_be_said(agent: FileAgent, sandbox: Sandbox, size: int) -> None:
    """UPL-53."""
    about = files_pb2.UploadFileMetadata(remote_path="/file", size_bytes=size)
    await write(agent, b"abc", {"metadata": about})
    assert (sandbox.root / "file").read_bytes() == b"abc"


@pytest.mark.parametrize("declared", [0, 3])
async def test_a_file_that_is_too_large(agent: FileAgent, sandbox: Sandbox, declared: int) -> None:
    """UPL-27: at its admission, even if the caller left its size out."""
    first = request_of(b"abc")
    first.open.write_file.metadata.size_bytes = declared
    first.open.limits.max_file_bytes = 2
    async with peer_of(agent) as peer:
        await peer.send(first)
        assert (await peer.error()).reason is Reason.FILE_TOO_LARGE
    assert not sandbox.leftovers()


async def test_content_above_the_limit_of_a_write(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-24: from a gateway that did not check it (UPL-55)."""
    async with peer_of(agent) as peer:
        await peer.send(request_of(bytes(MAX_WRITE_BYTES + 1)))
        assert (await peer.error()).reason is Reason.CHUNK_TOO_LARGE
    assert not sandbox.leftovers()


async def test_a_condition_that_does_not_hold(agent: FileAgent, sandbox: Sandbox) -> None:
    """CND-1."""
    (sandbox.root / "file").write_bytes(b"old")
    assert (await refused(agent, b"abc", condition=ABSENT)).reason is Reason.FILE_EXISTS
    assert (sandbox.root / "file").read_bytes() == b"old"
    assert not sandbox.leftovers()


async def test_mode_and_time_are_set(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-10, UPL-48."""
    about = metadata("/file", 3, mode=0o640)
    about.modified_time.FromNanoseconds(1_600_000_000_123_456_789)
    await write(agent, b"abc", {"metadata": about})
    status = (sandbox.root / "file").stat()
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o640, 1_600_000_000_123_456_789)


@pytest.mark.parametrize(("content", "reason"), [(b"abc", None), (b"abd", Reason.FINISH_CONFLICT)])
async def test_a_repeated_one(agent: FileAgent, content: bytes, reason: Reason | None) -> None:
    """RSM-6: gives the answer of the first, unless it is another."""
    first = await write(agent, b"abc", request_id="r")
    if reason is not None:
        assert (await refused(agent, content, request_id="r")).reason is reason
        return
    again = await write(agent, content, request_id="r")
    assert (first.replayed, again.replayed) == (False, True)
    assert again.file == first.file


async def test_the_same_upload_in_messages(agent: FileAgent) -> None:
    """UPL-52, RSM-1: one method repeats the other, in either order."""
    written = await write(agent, b"abc", request_id="r")
    again = await put(agent, "/file", b"abc", request_id="r")
    assert (again.replayed, again.file) == (True, written.file)
    sent = await put(agent, "/file", b"xyz", request_id="s")
    repeated = await write(agent, b"xyz", request_id="s")
    assert (repeated.replayed, repeated.file) == (True, sent.file)


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0)])
async def test_a_size_that_is_left_out_is_that_of_the_content(
    agent: FileAgent, sizes: tuple[int, int]
) -> None:
    """UPL-60."""
    answers = [
        await write(agent, b"abc", {"metadata": metadata("/file", size, request_id="r")}) for size in sizes
    ]
    assert [answer.replayed for answer in answers] == [False, True]
    assert (await put(agent, "/file", b"abc", request_id="r")).replayed


async def test_a_repeated_one_of_a_file_that_was_there(agent: FileAgent) -> None:
    """RSM-9: StartUpload found it, and its answer is repeated."""
    await put(agent, "/file", b"abc")
    start = files_pb2.StartUploadRequest(
        metadata=metadata("/file", 3, request_id="r"), digest=digest_of(b"abc")
    )
    await call(agent, start_upload=start)
    again = await write(agent, b"abc", request_id="r")
    assert (again.already_identical, again.replayed) == (True, True)


async def test_one_that_is_being_verified_is_waited_for(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-6: a repeated one meets the first before its end."""
    verifying, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        verifying.set()
        go_on.wait()

    sandbox.on_trace["upload.verifying"] = hold
    async with peer_of(agent) as first, peer_of(agent) as second:
        await first.send(request_of(b"abc", request_id="r"))
        await until(verifying.is_set)
        await second.send(request_of(b"abc", request_id="r"))
        answering = asyncio.ensure_future(second.answer())
        await until(lambda: second.to_agent.size == 0)
        go_on.set()
        assert not (await first.answer()).write_file.replayed
        assert (await answering).write_file.replayed


async def test_it_takes_over_from_one_in_messages(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-5: the stream that stalls ends, and what it sent is not mixed in."""
    async with peer_of(agent) as slow:
        await slow.send(opened(upload=metadata("/file", 3, request_id="r")))
        await slow.accepted()
        await slow.data(0, b"ab")
        assert (await write(agent, b"xyz", request_id="r")).file.size_bytes == 3
        assert (await slow.error()).reason is Reason.SUPERSEDED
    assert (sandbox.root / "file").read_bytes() == b"xyz"


async def test_the_stream_carries_the_next_operation(agent: FileAgent, sandbox: Sandbox) -> None:
    """FRM-9: one after the other, also behind one that was refused, and when both are there at once."""
    async with peer_of(agent) as peer:
        for content in (b"first", b"second"):
            await send_both(peer, request_of(content), request_of(content, {"crc32c": 1}))
            assert (await peer.last_frame()).write_file.file.size_bytes == len(content)
            assert (await peer.last_frame()).error.reason == "CHUNK_CHECKSUM"
        peer.to_agent.end()
        await peer.over()
    assert (sandbox.root / "file").read_bytes() == b"second"


async def send_both(peer: Peer, *requests: Request) -> None:
    for request in requests:
        request.open.keep_relay = True
        await peer.send(request)


@pytest.mark.parametrize("request_id", ["r", ""])
async def test_a_caller_who_leaves_behind_the_finish(
    agent: FileAgent, sandbox: Sandbox, request_id: str
) -> None:
    """UPL-59, FRM-16, RSM-34: nobody is answered. What is not published is forgotten, since nobody can go on with it."""
    verifying, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        verifying.set()
        go_on.wait()

    sandbox.on_trace["upload.verifying"] = hold
    async with peer_of(agent) as peer:
        await peer.send(request_of(b"abc", request_id=request_id))
        await until(verifying.is_set)
        await peer.input_end(cancelled=True)
        await until(lambda: peer.to_agent.size == 0)
        go_on.set()
        await peer.over()
    if request_id:
        assert (await get_upload(agent, request_id=request_id)).state == files_pb2.UPLOAD_STATE_UNSPECIFIED
    assert list(sandbox.root.iterdir()) == []
    assert agent.statistics().unfinished_uploads == 0
    assert not (await write(agent, b"abc", request_id=request_id)).replayed
    assert (sandbox.root / "file").read_bytes() == b"abc"


async def test_what_another_stream_has_by_now_is_not_forgotten(
    agent: FileAgent, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RSM-5, RSM-6: the same request came again, and found the upload before the one that was left had let go of it."""
    verifying, go_on, taken, forgotten = (threading.Event() for _ in range(4))
    forget = UploadAttempt.forget
    finishes = 0

    def late(attempt: UploadAttempt, error: TransferError) -> None:
        taken.wait()
        forget(attempt, error)
        forgotten.set()

    def finish() -> None:
        nonlocal finishes
        finishes += 1
        if finishes == 2:
            taken.set()
            forgotten.wait()

    def hold() -> None:
        verifying.set()
        go_on.wait()

    monkeypatch.setattr(UploadAttempt, "forget", late)
    sandbox.on_trace |= {"upload.finish_received": finish, "upload.verifying": hold}
    async with peer_of(agent) as left, peer_of(agent) as again:
        await left.send(request_of(b"abc", request_id="r"))
        await until(verifying.is_set)
        await again.send(request_of(b"abc", request_id="r"))
        answering = asyncio.ensure_future(again.answer())
        await until(lambda: again.to_agent.size == 0)
        await left.input_end(cancelled=True)
        await until(lambda: left.to_agent.size == 0)
        go_on.set()
        assert not (await answering).write_file.replayed
        await left.over()
    assert (await get_upload(agent, request_id="r")).state == files_pb2.UPLOAD_STATE_PUBLISHED
    assert (sandbox.root / "file").read_bytes() == b"abc"
