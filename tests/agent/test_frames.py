"""The agent's end of the file protocol (FRM-1 to FRM-6)."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from agent.agent_harness import (
    Peer,
    Refused,
    Request,
    Sandbox,
    finish_message,
    framed,
    get,
    metadata,
    opened,
    peer_of,
    put,
)
from openshell_files_protocol.errors import FieldViolation, TransferError
from openshell_files_protocol.limits import MAX_FRAME_BYTES, PROTOCOL_VERSION
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_files_protocol.varint import encode_varint
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.streams import error_message


async def first(agent: FileAgent, data: bytes) -> Reason:
    async with peer_of(agent) as peer:
        await peer.send_bytes(data)
        return (await peer.error()).reason


@pytest.mark.parametrize("step", [1, 7, 16384])
async def test_how_bytes_are_cut_means_nothing(agent: FileAgent, sandbox: Sandbox, step: int) -> None:
    """FRM-1"""
    content = bytes(range(256)) * 8
    messages = [
        opened(upload=metadata("/file", len(content))),
        Request(upload=files_pb2.UploadFileRequest(chunk=content)),
        Request(upload=finish_message(content)),
    ]
    whole = b"".join(map(framed, messages))
    async with peer_of(agent) as peer:
        for start in range(0, len(whole), step):
            await peer.send_bytes(whole[start : start + step])
        await peer.answer()
    assert (sandbox.root / "file").read_bytes() == content


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\xff" * 11,
        encode_varint(MAX_FRAME_BYTES + 1),
        b"\x03\xff\xff\xff",
    ],
    ids=["ssh", "endless varint", "too long", "not a message"],
)
async def test_bytes_that_are_not_frames(agent: FileAgent, data: bytes) -> None:
    """FRM-10, FRM-5"""
    assert await first(agent, data) is Reason.AGENT_PROTOCOL_ERROR


async def test_bytes_that_are_not_frames_later(agent: FileAgent, sandbox: Sandbox) -> None:
    """FRM-5: what was staged before is kept, nothing is published."""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", request_id="r")))
        await peer.chunk(b"abc")
        await peer.send_bytes(b"\xff" * 11)
        assert (await peer.error()).reason is Reason.AGENT_PROTOCOL_ERROR
    assert len(sandbox.leftovers()) == 1


@pytest.mark.parametrize(
    "frame",
    [
        Request(),
        Request(input_end=file_relay_pb2.FileRelayInputEnd()),
        Request(upload=files_pb2.UploadFileRequest(chunk=b"x")),
    ],
)
async def test_open_is_first(agent: FileAgent, frame: Request) -> None:
    """FRM-2"""
    assert await first(agent, framed(frame)) is Reason.INVALID_REQUEST


async def test_open_comes_once(agent: FileAgent) -> None:
    """FRM-2"""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file")))
        await peer.send(opened(upload=metadata("/file")))
        error = await peer.error()
    assert error.reason is Reason.INVALID_REQUEST
    assert error.fields == ["open"]


@pytest.mark.parametrize("data", [b"", framed(opened(stat_file=files_pb2.StatFileRequest()))[:3]])
async def test_a_stream_that_ends_before_open(agent: FileAgent, data: bytes) -> None:
    """FRM-14: nobody asked for anything, so nothing is answered."""
    async with peer_of(agent) as peer:
        if data:
            await peer.send_bytes(data)
        peer.to_agent.end()
        await peer.over()


@pytest.mark.parametrize("version", [0, PROTOCOL_VERSION + 1])
async def test_versions(agent: FileAgent, version: int) -> None:
    error = await refusal_of_open(agent, protocol_version=version, upload=metadata("/file"))
    assert error.reason is Reason.FILES_UNSUPPORTED
    assert error.metadata == {"protocol_version": str(PROTOCOL_VERSION)}


async def test_an_operation_that_is_not_known(agent: FileAgent) -> None:
    assert (await refusal_of_open(agent)).reason is Reason.METHOD_UNSUPPORTED


async def refusal_of_open(agent: FileAgent, **operation: Any) -> Any:
    async with peer_of(agent) as peer:
        await peer.send(opened(**operation))
        return await peer.error()


async def test_accepted_is_first(agent: FileAgent, sandbox: Sandbox) -> None:
    """FRM-3, FRM-13: exactly one last frame, and `accepted` before it."""
    (sandbox.root / "file").write_bytes(b"x")
    operations: list[dict[str, Any]] = [
        {"stat_file": files_pb2.StatFileRequest(remote_path="/file")},
        {"list_uploads": files_pb2.ListUploadsRequest()},
        {"start_upload": files_pb2.StartUploadRequest(metadata=metadata("/new"))},
    ]
    for operation in operations:
        async with peer_of(agent) as peer:
            await peer.send(opened(**operation))
            await peer.accepted()
            await peer.answer()


async def test_a_silent_peer(sandbox: Sandbox) -> None:
    """TRANSFER_IDLE: nobody holds a stream for ever; what was staged is kept."""
    sandbox.settings = replace(sandbox.settings, idle_timeout=0.02)
    agent = sandbox.agent()
    await agent.start()
    try:
        async with peer_of(agent) as peer:
            assert (await peer.error()).reason is Reason.TRANSFER_IDLE
        async with peer_of(agent) as peer:
            await peer.send(opened(upload=metadata("/file", request_id="r")))
            assert (await peer.error()).reason is Reason.TRANSFER_IDLE
        assert len(sandbox.leftovers()) == 1
    finally:
        await agent.aclose()


async def test_a_peer_that_takes_nothing(sandbox: Sandbox) -> None:
    """TRANSFER_IDLE, in the other direction."""
    (sandbox.root / "file").write_bytes(bytes(4 << 20))
    sandbox.settings = replace(sandbox.settings, idle_timeout=0.02)
    agent = sandbox.agent()
    await agent.start()
    try:
        peer = Peer(agent, limit=1)
        await peer.send(opened(download=files_pb2.DownloadFileRequest(remote_path="/file")))
        await peer.task
    finally:
        await agent.aclose()


async def test_long_work_is_not_taken_for_standstill(sandbox: Sandbox) -> None:
    """FRM-7: the agent says that it works, several times per idle timeout, until the work is done."""
    (sandbox.root / "file").write_bytes(b"old")
    sandbox.settings = replace(sandbox.settings, idle_timeout=0.05)
    go_on = threading.Event()
    sandbox.on_trace["upload.verifying"] = go_on.wait
    agent = sandbox.agent()
    await agent.start()
    try:
        async with peer_of(agent) as peer:
            await peer.send(opened(upload=metadata("/file", 3)))
            await peer.accepted()
            await peer.data(0, b"new")
            await peer.finish(b"new")
            for _ in range(6):
                frame = await peer.next()
                assert frame is not None
                assert frame.WhichOneof("frame") == "working"
            go_on.set()
            assert (await peer.answer()).upload.bytes_written == 3
    finally:
        go_on.set()
        await agent.aclose()


async def test_serving_needs_a_started_agent(sandbox: Sandbox) -> None:
    agent = sandbox.agent()
    peer = Peer(agent)
    with pytest.raises(RuntimeError, match="not started"):
        await peer.task
    with pytest.raises(RuntimeError, match="not started"):
        agent.statistics()
    with pytest.raises(RuntimeError, match="not started"):
        await agent.sweep()
    await agent.aclose()


async def test_a_root_that_is_not_there(sandbox: Sandbox) -> None:
    sandbox.settings = replace(sandbox.settings, root=sandbox.root / "missing")
    agent = sandbox.agent()
    with pytest.raises(FileNotFoundError):
        await agent.start()


async def test_a_bug_is_answered(
    agent: FileAgent, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """FRM-3: whatever happens, the last frame says so, and the log has the rest."""

    def bug() -> None:
        raise ZeroDivisionError("a bug")

    (sandbox.root / "file").write_bytes(b"old")
    for point in ("upload.admitted", "upload.chunk_staged", "upload.verifying", "download.opened"):
        sandbox.on_trace = {point: bug}
        operation = put(agent, "/file", b"x", request_id="r") if point[0] == "u" else get(agent, "/file")
        with pytest.raises(Refused, match="INTERNAL"):
            await operation
    sandbox.on_trace = {}
    assert "ZeroDivisionError" in caplog.text
    await put(agent, "/file", b"x", request_id="r")


def test_an_error_has_everything_of_its_row() -> None:
    """FRM-3: a gateway that does not know the reason has a code."""
    error = TransferError(
        Reason.DISK_FULL, "full \udc80", {"a": "b"}, (FieldViolation("f", "d"),), retry_delay=1.5
    )
    frame = error_message(error).error
    assert (frame.reason, frame.code) == ("DISK_FULL", 8)
    assert dict(frame.metadata) == {"a": "b"}
    assert frame.retry_delay.ToNanoseconds() == 1_500_000_000
    assert frame.field_violations[0].field == "f"
    assert frame.message == "full ?"
