"""The last look at a staging file before it is published."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bit_flipper import flip_in_file
from kill_client import content_of
from openshell_files_protocol.limits import MIB
from openshell_supervisor_sim.agent.file_info import Interrupt
from openshell_supervisor_sim.agent.filesystem import FileSystem
from openshell_supervisor_sim.agent.staged_digest import StagedDigest, checksum_of_file


@pytest.mark.parametrize("position", [0, MIB + 5, 5 * MIB, 6 * MIB - 1])
def test_the_checksum_of_a_file_with_holes(tmp_path: Path, position: int) -> None:
    """UPL-3, UPL-5: holes are zeros that need not be read, and content in them is found."""
    path = tmp_path / "sparse"
    data = content_of("sparse", 16_384)
    with path.open("wb") as file:
        for offset in (MIB, 3 * MIB + 100):
            file.seek(offset)
            file.write(data)
        file.truncate(6 * MIB)
    digest = StagedDigest()
    digest.update(path.read_bytes())

    def checksum() -> int | None:
        with path.open("rb") as file:
            return checksum_of_file(FileSystem(), file.fileno(), 6 * MIB, Interrupt())

    assert checksum() == digest.crc32c == digest.copy().crc32c
    flip_in_file(path, position)
    assert checksum() != digest.crc32c
    flip_in_file(path, position)
    assert checksum() == digest.crc32c
    os.truncate(path, 3 * MIB + 200)
    assert checksum() != digest.crc32c
