"""The last look at a staging file before it is published."""

from __future__ import annotations

import os
from itertools import cycle
from pathlib import Path

import pytest
from bit_flipper import flip_in_file
from kill_client import content_of
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.limits import MIB
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt
from openshell_supervisor_sim.agent.upload import staged_digest
from openshell_supervisor_sim.agent.upload.staged_digest import SEGMENT_BYTES, StagedDigest, checksums_of_file


@pytest.mark.parametrize("position", [0, MIB + 5, 5 * MIB, 6 * MIB - 1])
def test_the_checksum_of_a_file_with_holes(tmp_path: Path, position: int) -> None:
    """UPL-37, UPL-18: holes are zeros that need not be read, and content in them is found."""
    path = tmp_path / "sparse"
    data = content_of("sparse", 16_384)
    with path.open("wb") as file:
        for offset in (MIB, 3 * MIB + 100):
            file.seek(offset)
            file.write(data)
        file.truncate(6 * MIB)
    digest = StagedDigest(None)
    digest.update(path.read_bytes())

    def checksums() -> list[bytes] | None:
        with path.open("rb") as file:
            return checksums_of_file(FileSystem(), file.fileno(), 6 * MIB, Interrupt())

    assert checksums() == digest.checksums == digest.copy().checksums
    flip_in_file(path, position)
    assert checksums() != digest.checksums
    flip_in_file(path, position)
    assert checksums() == digest.checksums
    os.truncate(path, 3 * MIB + 200)
    assert checksums() != digest.checksums


@pytest.mark.parametrize("size", [0, 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES - 5])
@pytest.mark.parametrize("algorithm", [*DigestAlgorithm, None])
def test_a_file_of_several_segments(tmp_path: Path, size: int, algorithm: DigestAlgorithm | None) -> None:
    """UPL-37: however it came in pieces, what is read by several threads is compared with the right part."""
    path = tmp_path / "large"
    data = bytearray(size)
    for offset in range(0, size, SEGMENT_BYTES // 2):
        data[offset : offset + 1000] = content_of(f"at {offset}", len(data[offset : offset + 1000]))
    path.write_bytes(data)
    digest = StagedDigest(algorithm)
    view, position, steps = memoryview(data), 0, cycle([1, MIB, 5 * MIB + 3, SEGMENT_BYTES + 7])
    while position < size:
        step = next(steps)
        digest.update(view[position : position + step])
        position += step

    def checksums(length: int = size) -> list[bytes] | None:
        with path.open("rb") as file:
            return checksums_of_file(FileSystem(), file.fileno(), length, Interrupt())

    assert checksums() == digest.checksums == digest.copy().checksums
    assert checksums(size + 1) is None
    if size:
        flip_in_file(path, size - 1)
        assert checksums() != digest.checksums


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("size", range(20))
def test_where_a_segment_ends(monkeypatch: pytest.MonkeyPatch, size: int, *, zeros: bool) -> None:
    """UPL-37: the checksums are those of the segments, wherever content is cut."""
    monkeypatch.setattr(staged_digest, "SEGMENT_BYTES", 8)
    data = bytes(size) if zeros else bytes(range(1, size + 1))
    segments = [data[start : start + 8] for start in range(0, max(size, 1), 8)]
    for cut in range(size + 1):
        digest = StagedDigest(None)
        if zeros:
            digest.zeros(cut)
            digest.zeros(size - cut)
        else:
            digest.update(data[:cut])
            digest.update(data[cut:])
        assert digest.checksums == [crc32c(segment).to_bytes(4, "big") for segment in segments]


def test_zeros_that_go_on_over_segments(tmp_path: Path) -> None:
    """UPL-37: a hole counts as its zeros do."""
    path = tmp_path / "hole"
    with path.open("wb") as file:
        file.write(b"x" * 10)
        file.truncate(2 * SEGMENT_BYTES + 10)
    digest = StagedDigest(None)
    digest.update(b"x" * 10)
    digest.zeros(2 * SEGMENT_BYTES)
    with path.open("rb") as file:
        read = checksums_of_file(FileSystem(), file.fileno(), 2 * SEGMENT_BYTES + 10, Interrupt())
    assert read == digest.checksums
    assert len(digest.checksums) == 3
