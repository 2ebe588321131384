"""Members of an archive in an order that no tree has: directories that are come back to, files that become directories (ARC-7)."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from openshell_files_disk.archives.limits import ArchiveLimits
from openshell_files_disk.archives.outcome import ArchiveOutcome
from openshell_files_disk.archives.unpacking import DIGESTS, Unpacking
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.receiver import ReceiveOptions, TreePlace, TreeReceiver


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def unpacked(place: Path, *members: tarfile.TarInfo) -> ArchiveOutcome:
    """Unpack members, whose files hold their names, into `top`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(member.name.encode()[: member.size]))
    parent_fd = os.open(place, os.O_PATH | os.O_DIRECTORY)
    receiver = TreeReceiver(
        FileSystem(),
        TreePlace(parent_fd=parent_fd, parent_path=os.fsencode(place), name=b"top"),
        ReceiveOptions(algorithm=DIGESTS, ordered=False),
    )
    unpacking = Unpacking(receiver, ArchiveLimits(max_entries=100, max_bytes=1 << 20, max_ratio=10))
    try:
        unpacking.feed(packed.getvalue())
        for _ in unpacking.finish():
            pass
    finally:
        receiver.close()
        os.close(parent_fd)
    return unpacking.outcome


def file(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = len(name)
    return member


def directory(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, 1_000_000_000
    return member


@pytest.mark.parametrize(
    "between", [[], ["e/x"], ["d2"], ["d/sub/x", "e/x"]], ids=["none", "another", "a like name", "below"]
)
def test_a_directory_that_is_come_back_to_keeps_its_time(place: Path, between: list[str]) -> None:
    """ARC-7: the entry that came later changes the time again."""
    outcome = unpacked(
        place, directory("d"), file("d/a"), *(file(name) for name in between), file("d/b"), file("z")
    )
    assert outcome.problems == 0
    assert (place / "top/d").stat().st_mtime == 1_000_000_000
    assert (place / "top/d/b").read_text() == "d/b"


def test_a_name_below_a_file(place: Path) -> None:
    """ARC-7: the file was there first, as tar has it, however many members share a batch."""
    outcome = unpacked(place, file("a"), file("a/b"), file("c"))
    assert [(one.path, one.reason) for one in outcome.listed] == [(b"a/b", "PARENT_NOT_FOUND")]
    assert (place / "top/a").read_text() == "a"
    assert (place / "top/c").read_text() == "c"


def test_a_name_below_a_file_that_could_not_be_placed(place: Path) -> None:
    """ARC-7: a directory is there, which the file does not replace; what follows is put into it."""
    (place / "top/a/old").mkdir(parents=True)
    outcome = unpacked(place, file("a"), file("a/b"), file("c"))
    assert [(one.path, one.reason) for one in outcome.listed] == [(b"a", "IS_A_DIRECTORY")]
    assert (place / "top/a/b").read_text() == "a/b"
