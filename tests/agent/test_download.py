"""Downloads through the agent (DWN-1 to DWN-8)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from agent.agent_harness import (
    EIO,
    Refused,
    Request,
    Sandbox,
    get,
    metadata,
    opened,
    peer_of,
    put,
    receive_download,
    stat,
    until,
)
from agent.refusals import refusal
from digest_values import digest_of
from openshell_files_protocol.limits import KIB, MAX_CHUNK_BYTES, MIB, RFC_CHUNK_BYTES
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from vector_cases import PieceSize, Range, Ranges, named, read

SIZES = [0, 1, RFC_CHUNK_BYTES - 1, RFC_CHUNK_BYTES, RFC_CHUNK_BYTES + 1, MAX_CHUNK_BYTES + 1, 5 * MIB]
ALLOW = files_pb2.CHANGE_POLICY_ALLOW


@pytest.mark.parametrize("size", SIZES)
async def test_checked(agent: FileAgent, sandbox: Sandbox, size: int) -> None:
    """DWN-1, DWN-9: header, content, trailer with the digest."""
    content = os.urandom(size)
    (sandbox.root / "file").write_bytes(content)
    got = await get(agent, "/file")
    assert got.content == content
    assert got.header.size_bytes == size
    assert got.trailer is not None
    assert got.trailer.whole_file
    assert not got.trailer.changed
    assert got.trailer.file == await stat(agent, "/file", include_digest=True)


@pytest.mark.parametrize("size", SIZES)
async def test_rfc(agent: FileAgent, sandbox: Sandbox, size: int) -> None:
    """RFC-2, RFC-3, DWN-3: `chunk` messages and nothing that was not asked for."""
    content = os.urandom(size)
    (sandbox.root / "file").write_bytes(content)
    got = await get(agent, "/file", checked=False)
    assert got.content == content
    assert got.trailer is None
    assert all(piece <= RFC_CHUNK_BYTES for piece in got.sizes)


@pytest.mark.parametrize("case", read(Ranges).ranges, ids=named)
@pytest.mark.parametrize("checked", [True, False])
async def test_ranges(agent: FileAgent, sandbox: Sandbox, case: Range, *, checked: bool) -> None:
    """DWN-4, DWN-11, DWN-12, DWN-13"""
    content = b"0123456789"[: int(case.size)]
    (sandbox.root / "file").write_bytes(content)
    wanted: dict[str, Any] = {"offset": int(case.offset), "tail_bytes": int(case.tail_bytes)}
    if case.length is not None:
        wanted["length"] = int(case.length)
    getting = get(agent, "/file", checked=checked, **wanted)
    if case.reason is not None:
        error = await refusal(getting)
        assert (error.reason.name, error.fields) == (case.reason, [case.field] if case.field else [])
        return
    start, end = int(case.start or "0"), int(case.end or "0")
    got = await getting
    assert got.content == content[start:end]
    assert got.header.start_offset == start
    assert got.header.size_bytes == len(content)
    if got.trailer is not None:
        assert got.trailer.whole_file is (start == 0 and end == len(content))


@pytest.mark.parametrize("case", read(Ranges).piece_sizes, ids=named)
async def test_the_caller_chooses_smaller_pieces(agent: FileAgent, sandbox: Sandbox, case: PieceSize) -> None:
    """DWN-8, DWN-16: but none so small that they are a flood, whatever the gateway passes on."""
    content, size = b"x" * (MAX_CHUNK_BYTES + 1), case.piece
    (sandbox.root / "file").write_bytes(content)
    got = await get(agent, "/file", max_chunk_bytes=case.wanted, open_={"max_chunk_bytes": case.limit})
    assert got.content == content
    whole, rest = divmod(len(content), size)
    assert got.sizes == [size] * whole + [rest] * bool(rest)


async def test_the_gateway_limits_the_pieces(agent: FileAgent, sandbox: Sandbox) -> None:
    """DWN-16"""
    (sandbox.root / "file").write_bytes(bytes(MIB))
    async with peer_of(agent) as peer:
        request = files_pb2.DownloadFileRequest(remote_path="/file", checked=True)
        await peer.send(opened(download=request, max_chunk_bytes=300 * KIB))
        assert max((await receive_download(peer)).sizes) == 300 * KIB


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _truncate(path: Path) -> None:
    os.truncate(path, 100)


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"x")


def _touch(path: Path) -> None:
    os.utime(path, (5, 5))


def _chmod(path: Path) -> None:
    path.chmod(0o600)


@pytest.mark.parametrize("change", [_append, _truncate, _overwrite, _chmod])
@pytest.mark.parametrize("point", ["download.opened", "download.first_chunk", "download.before_trailer"])
@pytest.mark.parametrize("checked", [True, False])
async def test_a_change_is_noticed(
    agent: FileAgent,
    sandbox: Sandbox,
    change: Any,
    point: str,
    checked: bool,  # noqa: FBT001
) -> None:
    """DWN-14: whenever it happens, there is no trailer and no good end."""
    path = sandbox.root / "file"
    path.write_bytes(os.urandom(3 * MIB))
    os.utime(path, (1, 1))
    sandbox.on_trace[point] = lambda: change(path)
    assert (await refusal(get(agent, "/file", checked=checked))).reason is Reason.FILE_CHANGED


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"new")
    other.replace(path)


@pytest.mark.parametrize("change", [_replace, Path.unlink])
@pytest.mark.parametrize("point", ["download.opened", "download.first_chunk", "download.before_trailer"])
async def test_a_file_that_is_replaced_is_read_to_its_end(
    agent: FileAgent, sandbox: Sandbox, change: Any, point: str
) -> None:
    """DWN-5, UPL-8: readers see the old file or the new one, whole."""
    path = sandbox.root / "file"
    content = os.urandom(3 * MIB)
    path.write_bytes(content)
    sandbox.on_trace[point] = lambda: change(path)
    download = await get(agent, "/file")
    assert download.content == content
    assert download.trailer is not None
    assert not download.trailer.changed


@pytest.mark.parametrize("change", [_append, _truncate, _overwrite])
async def test_a_change_is_allowed(agent: FileAgent, sandbox: Sandbox, change: Any) -> None:
    """DWN-15: and the trailer says so."""
    path = sandbox.root / "file"
    path.write_bytes(os.urandom(3 * MIB))
    os.utime(path, (1, 1))
    sandbox.on_trace["download.first_chunk"] = lambda: change(path)
    got = await get(agent, "/file", on_change=ALLOW)
    assert got.trailer is not None
    assert got.trailer.changed
    assert got.trailer.file.size_bytes == path.stat().st_size
    assert not got.trailer.file.HasField("digest")
    if change is _truncate:
        assert len(got.content) < 3 * MIB
    else:
        assert len(got.content) == 3 * MIB


async def test_an_unchecked_download_is_never_short(agent: FileAgent, sandbox: Sandbox) -> None:
    """DWN-3: also where changes are allowed; this caller would not see the trailer."""
    path = sandbox.root / "file"
    path.write_bytes(bytes(3 * MIB))
    sandbox.on_trace["download.first_chunk"] = lambda: _truncate(path)
    error = await refusal(get(agent, "/file", checked=False, on_change=ALLOW))
    assert error.reason is Reason.FILE_CHANGED


async def test_version_pin(agent: FileAgent, sandbox: Sandbox) -> None:
    """DWN-6"""
    path = sandbox.root / "file"
    path.write_bytes(b"0123456789")
    version = (await get(agent, "/file")).header.file.version
    assert (await get(agent, "/file", if_version=version, offset=5)).content == b"56789"
    await put(agent, "/file", b"0123456789")
    error = await refusal(get(agent, "/file", if_version=version, offset=5))
    assert error.reason is Reason.VERSION_MISMATCH
    assert error.metadata["version"] == (await stat(agent, "/file")).version


async def test_a_hole_that_is_cut_off(agent: FileAgent, sandbox: Sandbox) -> None:
    """DWN-14, DWN-15: a hole behind the new end is no content."""
    path = sandbox.root / "file"
    with path.open("wb") as file:
        file.write(b"x")
        file.truncate(32 * MIB)
    sandbox.on_trace["download.first_chunk"] = lambda: _truncate(path)
    assert (await refusal(get(agent, "/file"))).reason is Reason.FILE_CHANGED
    with path.open("wb") as file:
        file.write(b"x")
        file.truncate(32 * MIB)
    got = await get(agent, "/file", on_change=ALLOW)
    assert len(got.content) < 32 * MIB
    assert got.trailer is not None
    assert got.trailer.changed


async def test_a_slow_reader_holds_little(agent: FileAgent, sandbox: Sandbox) -> None:
    """Backpressure: the agent reads one batch ahead and no further."""
    (sandbox.root / "file").write_bytes(bytes(32 * MIB))
    request = files_pb2.DownloadFileRequest(remote_path="/file", checked=True)
    async with peer_of(agent, limit=MIB) as peer:
        await peer.send(opened(download=request))
        await until(lambda: peer.from_agent.size > 0)
        for _ in range(200):
            await asyncio.sleep(0)
        # Two batches of one piece each, one of them waiting in `send`.
        await until(lambda: sandbox.fs.calls["preadv"] >= 2)
        for _ in range(200):
            await asyncio.sleep(0)
        assert sandbox.fs.calls["preadv"] <= 5
        assert len((await receive_download(peer)).content) == 32 * MIB


@pytest.mark.parametrize("how", ["cancel", "vanish"])
async def test_a_peer_that_goes_away(agent: FileAgent, sandbox: Sandbox, how: str) -> None:
    """FRM-16: the download ends, also while it waits for the peer to take something."""
    (sandbox.root / "file").write_bytes(bytes(32 * MIB))
    request = files_pb2.DownloadFileRequest(remote_path="/file", checked=True)
    async with peer_of(agent, limit=MIB) as peer:
        await peer.send(opened(download=request))
        await until(lambda: peer.from_agent.size > 0)
        if how == "cancel":
            await peer.input_end(cancelled=True)
            await peer.task
        else:
            await peer.vanish()
    assert agent.statistics().active_downloads == 0


async def test_messages_that_a_download_does_not_take(agent: FileAgent, sandbox: Sandbox) -> None:
    """FRM-2: a second `open`, or content."""
    (sandbox.root / "file").write_bytes(bytes(32 * MIB))
    request = files_pb2.DownloadFileRequest(remote_path="/file", checked=True)
    for wrong in (opened(upload=metadata("/x")), Request(upload=files_pb2.UploadFileRequest(chunk=b"x"))):
        async with peer_of(agent, limit=MIB) as peer:
            await peer.send(opened(download=request))
            await peer.send(wrong)
            await until(lambda: peer.from_agent.size > 0)
            while (frame := await peer.next()) is not None and frame.WhichOneof("frame") != "error":
                pass
            assert frame is not None
            assert frame.error.reason == "INVALID_REQUEST"


async def test_the_end_of_input_means_nothing(agent: FileAgent, sandbox: Sandbox) -> None:
    """FRM-14: a gateway that closes its direction still gets the file."""
    (sandbox.root / "file").write_bytes(b"abc")
    async with peer_of(agent) as peer:
        await peer.send(opened(download=files_pb2.DownloadFileRequest(remote_path="/file", checked=True)))
        peer.to_agent.end()
        assert (await receive_download(peer)).content == b"abc"


async def test_a_disk_that_fails_midway(agent: FileAgent, sandbox: Sandbox) -> None:
    """DWN-2: no trailer, but the reason."""
    (sandbox.root / "file").write_bytes(bytes(5 * MIB))
    sandbox.fs.fail("preadv", None, None, EIO)
    assert (await refusal(get(agent, "/file"))).reason is Reason.IO_ERROR


async def test_stat(agent: FileAgent, sandbox: Sandbox) -> None:
    content = os.urandom(1000)
    path = sandbox.root / "file"
    path.write_bytes(content)
    path.chmod(0o4640)
    os.utime(path, ns=(1, 123_456_789))
    info = await stat(agent, "file", include_digest=True)
    assert info.digest == digest_of(content)
    assert info.modified_time.nanos == 123_456_789
    assert info.mode == 0o4640
    assert not (await stat(agent, "file")).HasField("digest")
    (sandbox.root / "directory").mkdir()
    assert (await stat(agent, "directory")).type == files_pb2.FILE_TYPE_DIRECTORY
    os.mkfifo(sandbox.root / "fifo")
    assert (await stat(agent, "fifo")).type == files_pb2.FILE_TYPE_SPECIAL
    error = await refusal(stat(agent, "directory", include_digest=True))
    assert error.reason is Reason.IS_A_DIRECTORY


async def test_version_changes_with_content_and_metadata(agent: FileAgent, sandbox: Sandbox) -> None:
    """CND-2, DWN-6"""
    path = sandbox.root / "file"
    path.write_bytes(b"one")
    versions = {(await stat(agent, "file")).version}
    for change in (_append, _chmod, _touch):
        change(path)
        versions.add((await stat(agent, "file")).version)
    assert len(versions) == 4
    assert (await stat(agent, "file")).version in versions


async def test_statistics(agent: FileAgent, sandbox: Sandbox) -> None:
    (sandbox.root / "file").write_bytes(b"abc")
    await get(agent, "/file")
    await put(agent, "/other", b"abc")
    with pytest.raises(Refused):
        await get(agent, "/missing")
    numbers = agent.statistics()
    assert (numbers.downloads_completed, numbers.uploads_published, numbers.operations_failed) == (1, 1, 1)
    assert numbers.active_downloads == numbers.active_uploads == numbers.bytes_buffered == 0
    assert numbers.bytes_sent > 3
    assert numbers.bytes_received > 3


def test_end_of_download_names_the_bytes() -> None:
    """FRM-3: the last frame is distinct from every other."""
    end = file_relay_pb2.FileRelayResponse(download_end=file_relay_pb2.FileRelayDownloadEnd())
    assert end.WhichOneof("frame") == "download_end"
