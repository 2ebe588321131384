"""The archives of `tests/vectors/archives` are unpacked as they say, and nothing outside of their directory is touched."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest
from archive_cases import ARCHIVES, ArchiveCase, Outcome, read_archives, schema
from archive_vectors import FILES, text
from openshell_files_disk.archives.limits import ArchiveLimits
from openshell_files_disk.archives.outcome import ArchiveOutcome
from openshell_files_disk.archives.unpacking import DIGESTS, Unpacking
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.receiver import ReceiveOptions, TreePlace, TreeReceiver
from openshell_files_protocol.errors import TransferError
from tree_cases import path_of
from tree_places import assert_there, make, outside, remove, with_secret
from vector_cases import content_of

CASES = read_archives()

#: Names of the cases whose bytes are too many to be given one at a time.
LARGE = {case.name for case in CASES if len(content_of(case.archive)) > 20_000}


def test_the_schema_is_up_to_date() -> None:
    written = json.loads((ARCHIVES / "schema.json").read_text("utf-8"))
    assert written == schema(), "python tests/archive_cases.py > tests/vectors/archives/schema.json"


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_up_to_date(name: str) -> None:
    about, make_cases = FILES[name]
    written = (ARCHIVES / f"{name}.json").read_text("utf-8")
    assert written == text(about, make_cases()), "python tests/archive_vectors.py"


def test_names_are_given_once() -> None:
    assert max(Counter(case.name for case in CASES).values()) == 1


@pytest.fixture
def place(tmp_path: Path) -> Generator[Path]:
    """Return the directory of a case, with what must not be touched."""
    with_secret(tmp_path)
    yield tmp_path
    remove(tmp_path / "top")


def unpack(
    case: ArchiveCase, place: Path, step: int, *, folds: bool = False
) -> tuple[str | None, ArchiveOutcome]:
    """Unpack the archive of a case, some bytes at a time; return the reason that ended it."""
    parent_fd = os.open(place, os.O_PATH | os.O_DIRECTORY)
    limits = ArchiveLimits(
        max_entries=int(case.limits.max_entries),
        max_bytes=int(case.limits.max_bytes),
        max_ratio=int(case.limits.max_ratio),
    )
    receiver = TreeReceiver(
        FileSystem(),
        TreePlace(parent_fd=parent_fd, parent_path=os.fsencode(place), name=b"top"),
        ReceiveOptions(algorithm=DIGESTS, ordered=False, folds=folds),
    )
    unpacking = Unpacking(receiver, limits)
    archive = content_of(case.archive)
    try:
        for at in range(0, len(archive), step):
            unpacking.feed(archive[at : at + step])
        for _ in unpacking.finish():
            pass
    except TransferError as error:
        return error.reason.name, unpacking.outcome
    finally:
        receiver.close()
        os.close(parent_fd)
    return None, unpacking.outcome


def assert_outcome(expected: Outcome, reason: str | None, outcome: ArchiveOutcome, place: Path) -> None:
    assert reason == expected.reason
    if expected.files is not None:
        assert_there(place, expected.files)
    if reason is None:
        assert [(one.path, one.reason) for one in outcome.listed] == [
            (path_of(one.path), one.reason) for one in expected.problems
        ]
        assert str(outcome.entries) == expected.entries
        assert outcome.problems == len(outcome.listed)


@pytest.mark.parametrize("step", [1 << 20, 512, 1], ids=["whole", "blocks", "bytes"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_archive(case: ArchiveCase, step: int, place: Path) -> None:
    """ARC-2 to ARC-7, ARC-15 to ARC-20, TRE-44, TRE-54: and nothing of a staging directory is left, nor anything outside changed."""
    if step < 512 and case.name in LARGE:
        pytest.skip("too many bytes")
    make(place / "top", case.before)
    before = outside(place)
    reason, outcome = unpack(case, place, step)
    assert outside(place) == before
    assert_outcome(case.outcome, reason, outcome, place)


@pytest.mark.parametrize("case", [case for case in CASES if case.folding], ids=lambda case: case.name)
def test_an_archive_where_names_fold(case: ArchiveCase, place: Path) -> None:
    """ARC-20: on a file system that ignores case the second name is told, and does not replace the first file."""
    make(place / "top", case.before)
    reason, outcome = unpack(case, place, 1 << 20, folds=True)
    assert case.folding is not None
    assert_outcome(case.folding, reason, outcome, place)
