"""A tree of a million entries: sent, listed, received, and nothing grows with it in gateway and supervisor."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dev_command import dev_stack
from openshell_files import Durability, FilesClient, OidcAuth
from resident_memory import MIB, ResidentMemory

DIRECTORIES = 1_000
FILES = 999

#: Of a process above idle, for any number of entries, as for one file (test_memory.py).
LIMIT = 64 * MIB


@pytest.fixture
def million(tmp_path: Path) -> Path:
    """Make a tree of 10^6 entries; a file has four bytes."""
    top = tmp_path / "million"
    top.mkdir()
    for number in range(DIRECTORIES):
        directory = top / f"d{number:03}"
        directory.mkdir()
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        for name in range(FILES):
            fd = os.open(f"f{name}", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=handle)
            os.write(fd, b"data")
            os.close(fd)
        os.close(handle)
    return top


@pytest.mark.long
def test_a_million_entries(million: Path, tmp_path: Path) -> None:
    with (
        dev_stack("--sandboxes", "1") as stack,
        FilesClient(stack.endpoint, auth=OidcAuth(stack.token)) as client,
    ):
        files = client.sandbox(stack.sandboxes[0].name)
        # What is allocated once, at the first tree, is not of this one.
        files.upload_tree(million / "d000", "first")
        held = ResidentMemory(
            {"gateway": stack.gateway_pid, **{f"supervisor {pid}": pid for pid in stack.supervisor_pids}}
        )

        sent = files.upload_tree(million, "million", durability=Durability.RENAME)
        assert sent.complete
        assert sent.sent == DIRECTORIES * FILES
        held.assert_within(LIMIT)

        again = files.upload_tree(million, "million", durability=Durability.RENAME)
        assert again.unchanged == again.entries == DIRECTORIES * (FILES + 1) + 1
        held.assert_within(LIMIT)

        assert sum(1 for _ in files.list_directory("million", recursive=True)) == DIRECTORIES * (FILES + 1)
        held.assert_within(LIMIT)

        received = files.download_tree("million", tmp_path / "back")
        assert received.complete
        held.assert_within(LIMIT)
    assert sum(len(names) for _, _, names in os.walk(tmp_path / "back")) == DIRECTORIES * FILES
