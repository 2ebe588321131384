"""Uploads through the agent: real frames, real files."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import replace
from typing import Any

import pytest
from agent.agent_harness import (
    Request,
    Sandbox,
    data_message,
    finish_message,
    framed,
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
    """UPL-19, UPL-26"""
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


async def test_limits_are_announced(sandbox: Sandbox) -> None:
    """CAP-2, DIG-13: for the hello, also before the agent is started."""
    settings = replace(
        sandbox.settings,
        max_file_bytes=77,
        max_uploads=3,
        max_uploads_per_principal=2,
        idle_timeout=1.5,
        max_tree_entries=5,
        max_archive_entries=6,
        max_extracted_bytes=7,
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
        serves_directories=True,
        serves_trees=True,
        serves_archives=True,
        max_tree_entries=5,
        max_archive_entries=6,
        max_extracted_bytes=7,
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
