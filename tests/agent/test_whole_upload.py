"""Uploads whose input is all there with the first frame (UPL-16): the disk is visited once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from agent.agent_harness import (
    Peer,
    Request,
    Sandbox,
    data_message,
    finish_message,
    framed,
    get_upload,
    metadata,
    opened,
    peer_of,
    until,
)
from google.protobuf.empty_pb2 import Empty
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.concurrency import DiskThreads


def input_end(*, cancelled: bool = False) -> Request:
    return Request(input_end=file_relay_pb2.FileRelayInputEnd(cancelled=cancelled))


async def send_whole(
    peer: Peer,
    content: bytes,
    *messages: files_pb2.UploadFileRequest,
    cancelled: bool = False,
    keep: bool = False,
    **fields: Any,
) -> None:
    """Send everything in one piece; content and its finish unless there are other messages."""
    if not messages:
        messages = (data_message(0, content), finish_message(content))
    first = opened(upload=metadata("/file", len(content), **fields), keep_relay=keep)
    burst = [first, *(Request(upload=message) for message in messages), input_end(cancelled=cancelled)]
    await peer.send_bytes(b"".join(map(framed, burst)))


async def test_the_disk_is_visited_once(
    agent: FileAgent, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UPL-16, FRM-2: and the answer comes in one piece."""
    visits = 0
    run: Callable[..., Any] = DiskThreads.run

    async def counted(threads: DiskThreads, work: Callable[[], object], **options: Any) -> object:
        nonlocal visits
        visits += 1
        return await run(threads, work, **options)

    monkeypatch.setattr(DiskThreads, "run", counted)
    for content in (b"abc", b"another"):
        visits = 0
        async with peer_of(agent) as peer:
            await send_whole(peer, content, request_id=content.decode())
            assert [frame.WhichOneof("frame") for frame in await peer.next_write()] == ["accepted", "upload"]
            await peer.over()
        assert visits == 1
        assert (sandbox.root / "file").read_bytes() == content
    assert not sandbox.leftovers()


@pytest.mark.parametrize("names", [{}, {"request_id": "r"}], ids=["transient", "resumable"])
@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([data_message(0, b"abc", crc=1), finish_message(b"abc")], Reason.CHUNK_CHECKSUM),
        ([data_message(1, b"abc"), finish_message(b"abc")], Reason.OFFSET_MISMATCH),
        ([data_message(0, b"abc"), finish_message(b"abd")], Reason.DIGEST_MISMATCH),
        ([data_message(0, b"abc"), finish_message(b"abcd")], Reason.SIZE_MISMATCH),
        ([data_message(0, b"abc")], Reason.UPLOAD_INCOMPLETE),
    ],
    ids=["checksum", "offset", "digest", "size", "no finish"],
)
async def test_what_is_wrong_is_refused(
    agent: FileAgent,
    sandbox: Sandbox,
    messages: list[files_pb2.UploadFileRequest],
    reason: Reason,
    names: dict[str, Any],
) -> None:
    """UPL-3, UPL-7, UPL-11: nothing is published, and what can be found again is kept."""
    (sandbox.root / "file").write_bytes(b"old")
    async with peer_of(agent) as peer:
        await send_whole(peer, b"abc", *messages, **names)
        assert (await peer.error()).reason is reason
    assert (sandbox.root / "file").read_bytes() == b"old"
    if names and reason is Reason.UPLOAD_INCOMPLETE:
        status = await get_upload(agent, request_id="r")
        assert (status.state, status.staged_bytes) == (files_pb2.UPLOAD_STATE_RECEIVING, 3)
    elif not names:
        assert not sandbox.leftovers()


async def test_an_upload_that_is_refused_admission(agent: FileAgent, sandbox: Sandbox) -> None:
    """CND-1."""
    (sandbox.root / "file").write_bytes(b"old")
    async with peer_of(agent) as peer:
        await send_whole(peer, b"abc", condition=files_pb2.UploadCondition(absent=Empty()))
        assert (await peer.error()).reason is Reason.FILE_EXISTS
    assert (sandbox.root / "file").read_bytes() == b"old"
    assert not sandbox.leftovers()


async def test_one_that_was_cancelled_before_its_finish(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-1, FRM-6."""
    async with peer_of(agent) as peer:
        await send_whole(peer, b"abc", data_message(0, b"abc"), cancelled=True)
        await peer.error()
    assert not (sandbox.root / "file").exists()
    assert not sandbox.leftovers()


@pytest.mark.parametrize(
    "behind", [b"", framed(Request(upload=data_message(0, b"abc")))], ids=["open", "content"]
)
async def test_bytes_that_are_no_frame_behind_it(agent: FileAgent, sandbox: Sandbox, behind: bytes) -> None:
    """FRM-5: looked at early or late, they are what they are."""
    async with peer_of(agent) as peer:
        await peer.send_bytes(framed(opened(upload=metadata("/file", 3))) + behind + b"\xff" * 11)
        assert (await peer.error()).reason is Reason.AGENT_PROTOCOL_ERROR
    assert not (sandbox.root / "file").exists()
    assert not sandbox.leftovers()


@pytest.mark.parametrize(("content", "reason"), [(b"abc", None), (b"abd", Reason.FINISH_CONFLICT)])
async def test_a_repeated_one(agent: FileAgent, content: bytes, reason: Reason | None) -> None:
    """RSM-6: gives the answer of the first, unless it is another."""
    async with peer_of(agent) as peer:
        await send_whole(peer, b"abc", request_id="r")
        first = (await peer.answer()).upload
    async with peer_of(agent) as peer:
        await send_whole(peer, content, request_id="r")
        if reason is not None:
            assert (await peer.error()).reason is reason
            return
        again = (await peer.answer()).upload
    assert (first.replayed, again.replayed) == (False, True)
    assert again.file == first.file


async def test_one_that_is_being_verified_is_waited_for(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-6: a repeated one meets the first before its end."""
    verifying, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        verifying.set()
        go_on.wait()

    sandbox.on_trace["upload.verifying"] = hold
    async with peer_of(agent) as first, peer_of(agent) as second:
        await send_whole(first, b"abc", request_id="r")
        await until(verifying.is_set)
        await send_whole(second, b"abc", request_id="r")
        answering = asyncio.ensure_future(second.answer())
        await until(lambda: second.to_agent.size == 0)
        go_on.set()
        assert not (await first.answer()).upload.replayed
        assert (await answering).upload.replayed


async def test_it_takes_over_from_one_in_pieces(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-5: the stream that stalls ends, and what it sent is not mixed in."""
    async with peer_of(agent) as slow, peer_of(agent) as peer:
        await slow.send(opened(upload=metadata("/file", 3, request_id="r")))
        await slow.accepted()
        await slow.data(0, b"ab")
        await send_whole(peer, b"xyz", request_id="r")
        assert (await slow.error()).reason is Reason.SUPERSEDED
        assert (await peer.answer()).upload.bytes_written == 3
    assert (sandbox.root / "file").read_bytes() == b"xyz"


async def test_the_stream_carries_the_next_operation(agent: FileAgent, sandbox: Sandbox) -> None:
    """FRM-9: one after the other, also behind one that was refused."""
    async with peer_of(agent) as peer:
        for content in (b"first", b"second"):
            await send_whole(peer, content, keep=True)
            assert (await peer.last_frame()).upload.bytes_written == len(content)
            await send_whole(peer, content, data_message(0, content, crc=1), keep=True)
            assert (await peer.last_frame()).error.reason == "CHUNK_CHECKSUM"
        peer.to_agent.end()
        await peer.over()
    assert (sandbox.root / "file").read_bytes() == b"second"


async def test_one_that_takes_long_can_be_stopped(agent: FileAgent, sandbox: Sandbox) -> None:
    """A hole is hashed for minutes; an agent that is to stop does not wait for it."""
    size = 1 << 39
    admitted = threading.Event()
    sandbox.on_trace["upload.admitted"] = admitted.set
    async with peer_of(agent) as peer:
        hole, finish = data_message(0, b"", hole=size), finish_message(size=size, sha256=bytes(32))
        await send_whole(peer, b"", hole, finish)
        await until(admitted.is_set)
        peer.task.cancel()
        async with asyncio.timeout(20):
            await asyncio.wait({peer.task})
    assert not (sandbox.root / "file").exists()
    assert not sandbox.leftovers()
