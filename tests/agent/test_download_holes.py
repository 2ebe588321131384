"""Holes in a download, and reads that take long (DWN-7, FRM-7)."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest
from agent.agent_harness import (
    Sandbox,
    get,
    opened,
    peer_of,
    receive_download,
    until,
)
from conditions import PATIENCE_SECONDS
from openshell_files_protocol.limits import KIB, MIB, MIN_CHUNK_BYTES
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.core.download import next_piece
from vector_cases import Ranges, Sparse, named, read


@pytest.mark.parametrize("case", read(Ranges).sparse_files, ids=named)
def test_pieces_of_sparse_files(case: Sparse) -> None:
    """DWN-7: a hole is worth a message from one chunk on."""
    pieces, position, size = list[tuple[int, int, bool]](), 0, int(case.size)
    while position < size:
        extents = [(int(begin), int(end)) for begin, end in case.extents]
        data_at = min((max(begin, position) for begin, end in extents if end > position), default=size)
        piece = next_piece(position, size, data_at, case.max_chunk_bytes)
        pieces.append((piece.offset, piece.length, piece.hole))
        position += piece.length
    assert pieces == [(int(piece.offset), int(piece.length), piece.hole) for piece in case.pieces]


async def test_holes(agent: FileAgent, sandbox: Sandbox) -> None:
    """DWN-7: from one chunk on; smaller ones come as zeros."""
    path = sandbox.root / "file"
    with path.open("wb") as file:
        for position in (0, 64 * KIB, 8 * MIB):
            file.seek(position)
            file.write(b"x" * 4096)
        file.truncate(12 * MIB)
    got = await get(agent, "/file", max_chunk_bytes=256 * KIB)
    assert got.content == path.read_bytes()
    assert sum(size for _, size in got.holes) > 11 * MIB
    assert len(got.holes) == 2
    unchecked = await get(agent, "/file", checked=False)
    assert unchecked.content == got.content
    assert not unchecked.holes
    middle = await get(agent, "/file", offset=MIB, length=2 * MIB)
    assert middle.holes == [(MIB, 2 * MIB)]


@pytest.mark.parametrize(
    ("hole", "holes"),
    [
        (MIN_CHUNK_BYTES - 4 * KIB, []),
        (MIN_CHUNK_BYTES, [(MIN_CHUNK_BYTES, MIN_CHUNK_BYTES)]),
        (MIN_CHUNK_BYTES + 4 * KIB, [(MIN_CHUNK_BYTES, MIN_CHUNK_BYTES + 4 * KIB)]),
    ],
)
async def test_a_hole_of_one_chunk(
    agent: FileAgent, sandbox: Sandbox, hole: int, holes: list[tuple[int, int]]
) -> None:
    """DWN-7: exactly where a hole is worth a message."""
    with (sandbox.root / "file").open("wb") as file:
        file.write(b"x" * MIN_CHUNK_BYTES)
        file.seek(hole, os.SEEK_CUR)
        file.write(b"y" * 4 * KIB)
    assert (await get(agent, "/file", max_chunk_bytes=MIN_CHUNK_BYTES)).holes == holes


async def test_a_file_of_nothing_but_a_hole(agent: FileAgent, sandbox: Sandbox) -> None:
    """DWN-7: 2**32 + 1 bytes in a few messages."""
    with (sandbox.root / "file").open("wb") as file:
        file.truncate(2**32 + 1)
    request = files_pb2.DownloadFileRequest(remote_path="/file", checked=True, offset=2**32 - 5 * MIB)
    async with peer_of(agent) as peer:
        await peer.send(opened(download=request))
        got = await receive_download(peer)
    assert sum(size for _, size in got.holes) == 5 * MIB + 1
    assert got.trailer is not None
    assert got.trailer.end_offset == 2**32 + 1
    assert not got.trailer.whole_file


async def test_a_long_hole_comes_in_parts(agent: FileAgent, sandbox: Sandbox) -> None:
    """DWN-17: its parts do not wait for one another, and a peer that is gone is noticed between them."""
    with (sandbox.root / "file").open("wb") as file:
        file.truncate(1 << 40)
    request = files_pb2.DownloadFileRequest(remote_path="/file", checked=True)
    async with peer_of(agent) as peer:
        await peer.send(opened(download=request))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await peer.accepted()
                frames = [await peer.next() for _ in range(3)]
        except TimeoutError:
            # An agent that sends nothing does not notice that its peer is gone.
            peer.task.cancel()
            raise
        for kind, frame in zip(("header", "data", "data"), frames, strict=True):
            assert frame is not None
            assert frame.download.WhichOneof("payload") == kind
            assert frame.download.data.hole_bytes == (256 * MIB if kind == "data" else 0)
        await peer.vanish()
    assert agent.statistics().active_downloads == 0


async def test_a_disk_that_takes_long_is_work(agent: FileAgent, sandbox: Sandbox) -> None:
    """FRM-7: also behind the first batch."""
    (sandbox.root / "file").write_bytes(bytes(8 * MIB))
    reading, go_on = threading.Event(), threading.Event()
    chunks = 0

    def hold() -> None:
        nonlocal chunks
        chunks += 1
        if chunks > 2:
            reading.set()
            go_on.wait()

    sandbox.on_trace["download.chunk"] = hold
    request = files_pb2.DownloadFileRequest(remote_path="/file", checked=True)
    limits = file_relay_pb2.FileRelayLimits()
    limits.idle_timeout.FromMilliseconds(200)
    async with peer_of(agent) as peer:
        await peer.send(opened(download=request, limits=limits))
        try:
            await until(reading.is_set)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (frame := await peer.next()) is not None and frame.WhichOneof("frame") != "working":
                    pass
            assert frame is not None
        finally:
            go_on.set()
        assert (await peer.last_frame()).download_end.bytes_sent == 8 * MIB
