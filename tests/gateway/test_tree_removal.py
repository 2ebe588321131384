"""The directory of a sandbox is removed, whatever is in it."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from openshell_files_gateway.simulation.processes import tree_removal
from openshell_files_gateway.simulation.processes.tree_removal import remove_tree

_NOBODY = 65534
_PR_SET_DUMPABLE = 4


def many(root: Path) -> None:
    for number in range(50):
        (root / f"{number}").write_bytes(b"x")
        (root / f"d{number}").mkdir()


def deep(root: Path) -> None:
    """Deeper than the stack, than descriptors and than the longest path."""
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(3 * sys.getrecursionlimit()):
        os.mkdir("d" * 100, dir_fd=here)
        inner = os.open("d" * 100, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


@contextmanager
def an_ordinary_user(place: Path) -> Generator[None, None, None]:
    """Permissions mean nothing to root, so root becomes somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    for path in (place, *place.rglob("*")):
        os.chown(path, _NOBODY, _NOBODY, follow_symlinks=False)
    os.seteuid(_NOBODY)
    try:
        # Or the kernel hides this process's descriptors from it.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        yield
    finally:
        os.seteuid(0)


def test_permissions_that_were_taken_away() -> None:
    """SBX-3: files and directories of mode 000, one in the other."""
    # Not in pytest's own directory, which only its user may enter.
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        home = Path(place) / "home"
        home.mkdir()
        inner = home / "a" / "b" / "c"
        inner.mkdir(parents=True)
        (inner / "file").write_bytes(b"x")
        with an_ordinary_user(Path(place)):
            for path in (inner / "file", inner, inner.parent, inner.parent.parent, home):
                path.chmod(0)
            remove_tree(home)
            assert os.listdir(place) == []


def odd_names(root: Path) -> None:
    for name in (b"\xff\xfe", b"a\nb", b"-rf", b"*", b" "):
        os.mkdir(os.path.join(os.fsencode(root), name))
        os.mkfifo(os.path.join(os.fsencode(root), name, b"fifo"))


@pytest.mark.parametrize("fill", [many, deep, odd_names])
def test_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fill: Callable[[Path], None]
) -> None:
    """SBX-3."""
    monkeypatch.setattr(tree_removal, "_BATCH", 7)
    home = tmp_path / "home"
    home.mkdir()
    fill(home)
    remove_tree(home)
    assert list(tmp_path.iterdir()) == []
    remove_tree(home)


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    """SBX-3: what a sandbox points at is not the sandbox's."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o555)
    (outside / "file").write_bytes(b"kept")
    home = tmp_path / "home"
    (home / "inner").mkdir(parents=True)
    for place in (home, home / "inner"):
        (place / "directory").symlink_to(outside)
        (place / "file").symlink_to(outside / "file")
        (place / "nowhere").symlink_to("/nowhere/at/all")
        (place / "hard").hardlink_to(outside / "file")
    before = outside.stat()
    remove_tree(home)
    assert (outside / "file").read_bytes() == b"kept"
    assert (outside.stat().st_mode, outside.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]


def test_a_home_that_is_a_link_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"kept")
    (tmp_path / "home").symlink_to(outside)
    with pytest.raises(OSError, match="home"):
        remove_tree(tmp_path / "home")
    assert (outside / "file").exists()


def test_a_home_whose_parent_is_gone(tmp_path: Path) -> None:
    remove_tree(tmp_path / "gone" / "home")


def test_few_descriptors_are_enough(tmp_path: Path) -> None:
    """However wide and deep, since a gateway's descriptors are its callers'."""
    home = tmp_path / "home"
    for number in range(20):
        (home / f"{number}" / "a" / "b" / "c").mkdir(parents=True)
    opened: list[int] = []

    def hook(event: str, _: object) -> None:
        if event == "open" and watching:
            opened.append(len(os.listdir("/proc/self/fd")))

    watching = True
    sys.addaudithook(hook)
    before = len(os.listdir("/proc/self/fd"))
    try:
        remove_tree(home)
    finally:
        watching = False
    assert opened
    assert max(opened) - before <= 6
