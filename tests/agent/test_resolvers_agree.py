"""Both resolvers of paths, the kernel and the walk, give the same answers (PTH-12)."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import TransferError
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot

NAMES = ["a", "b", "c"]


TARGETS = st.lists(st.sampled_from([*NAMES, "..", "."]), min_size=1, max_size=4).map("/".join)


@st.composite
def trees(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Entries as pairs of path and content: a directory, a file, or the target of a link."""
    paths = draw(
        st.lists(
            st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join), max_size=8, unique=True
        )
    )
    kinds = st.sampled_from(["dir", "dir", "file"]) | st.tuples(st.sampled_from(["", "/", "x"]), TARGETS).map(
        lambda link: "link:" + link[0].replace("x", "../../") + link[1]
    )
    return [(path, draw(kinds)) for path in sorted(paths)]


def plant(root: Path, tree: list[tuple[str, str]]) -> None:
    for path, kind in tree:
        entry = root / path
        parents = [parent for parent in entry.parents if parent.is_relative_to(root)]
        if any(parent.is_symlink() or parent.is_file() for parent in parents):
            continue
        entry.parent.mkdir(parents=True, exist_ok=True)
        if kind == "dir":
            entry.mkdir(exist_ok=True)
        elif kind == "file" and not entry.exists():
            entry.write_bytes(b"")
        elif kind.startswith("link:") and not entry.exists():
            entry.symlink_to(kind.removeprefix("link:"))


def resolution(root: SandboxRoot, path: str, *, follow: bool, create: bool) -> tuple[object, ...]:
    """What a path is: where it leads, or why nowhere."""
    try:
        with root.locate(path, "path", follow=follow, create_parents=create) as location:
            status = os.fstat(location.parent_fd)
            return location.path, location.name, status.st_ino, status.st_dev
    except TransferError as error:
        return (error.reason,)


def _resolvers_agree(tree: list[tuple[str, str]], path: str, *, follow: bool, create: bool) -> None:
    directory = Path(tempfile.mkdtemp(prefix="sandbox-"))
    seen: list[tuple[object, ...]] = []
    try:
        for openat2 in (True, False):
            base = directory / "root"
            base.mkdir()
            plant(base, tree)
            root = SandboxRoot(base, "/a", use_openat2=openat2, fs=FileSystem())
            try:
                outcome = resolution(root, path, follow=follow, create=create)
                # Whatever was created lies inside, and the same was created.
                found = sorted(str(entry.relative_to(base)) for entry in base.rglob("*"))
                seen.append((outcome[:2], found))
                assert [entry.name for entry in directory.iterdir()] == ["root"]
                if len(outcome) > 1:
                    assert resolution(root, path, follow=follow, create=create) == outcome
            finally:
                root.close()
            shutil.rmtree(base)
    finally:
        shutil.rmtree(directory)
    assert seen[0] == seen[1]


PATHS = st.tuples(
    st.sampled_from(["", "/"]), st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join)
).map("".join)


@settings(max_examples=100, deadline=None)
@given(tree=trees(), path=PATHS, follow=st.booleans(), create=st.booleans())
def test_resolvers_agree(tree: list[tuple[str, str]], path: str, *, follow: bool, create: bool) -> None:
    """PTH-12: with openat2 and without, the result is the same."""
    _resolvers_agree(tree, path, follow=follow, create=create)


@pytest.mark.long
@settings(max_examples=4000, deadline=None)
@given(tree=trees(), path=PATHS, follow=st.booleans(), create=st.booleans())
def test_resolvers_agree_at_length(
    tree: list[tuple[str, str]], path: str, *, follow: bool, create: bool
) -> None:
    """PTH-12"""
    _resolvers_agree(tree, path, follow=follow, create=create)


def test_the_kernel_has_openat2(tmp_path: Path) -> None:
    """PTH-12: where it has not, the two tests above compare the walk with itself; this one says so."""
    root = SandboxRoot(tmp_path, "/", use_openat2=True, fs=FileSystem())
    try:
        if not root.uses_openat2:
            pytest.skip("this kernel, or its filter, does not have openat2: PTH-12 was tried without it only")
    finally:
        root.close()
