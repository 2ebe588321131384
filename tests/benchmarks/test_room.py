"""Files that do not fit are refused before they are made."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.room import is_memory, why_too_little


def test_a_small_file_fits(tmp_path: Path) -> None:
    assert why_too_little(tmp_path, 1) is None


def test_a_file_larger_than_the_disk_does_not_fit_and_the_text_says_what_to_do(tmp_path: Path) -> None:
    said = why_too_little(tmp_path, 1 << 60)
    assert said is not None
    assert f"free in {tmp_path}" in said or "of memory available" in said
    assert "--large-mib" in said


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no tmpfs here")
def test_a_tmpfs_is_memory() -> None:
    assert is_memory(Path("/dev/shm"))
    assert not is_memory(Path("/proc"))
