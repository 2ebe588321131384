"""The local side of trees: the place that receives one, the sent directory, and what git takes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from openshell_files import errors
from openshell_files._local.trees import directories, git_files
from openshell_files._local.trees.directories import LocalPlace, find_place, open_parent, open_source


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Return a directory with one of everything."""
    top = tmp_path / "top"
    (top / "dir").mkdir(parents=True)
    (top / "file").touch()
    (top / "to-dir").symlink_to("dir")
    (top / "to-file").symlink_to("file")
    (top / "to-nothing").symlink_to("nothing")
    return top


#: Path below the directory → place: the directory above, name, missing names.
PLACES = {
    "dir": ("", "dir", ()),
    "dir/": ("", "dir", ()),
    "dir/.": ("", "dir", ()),
    "to-dir": ("", "dir", ()),
    "new": ("", "new", ()),
    "new/": ("", "new", ()),
    "to-dir/new": ("dir", "new", ()),
    "a/b/new": ("", "new", ("a", "b")),
    "to-dir/a/new": ("dir", "new", ("a",)),
}


@pytest.mark.parametrize(("path", "place"), PLACES.items(), ids=PLACES)
def test_places(top: Path, path: str, place: tuple[str, str, tuple[str, ...]]) -> None:
    above, name, missing = place
    found = find_place(f"{top}/{path}", parents=True, absent=False)
    assert found == LocalPlace(os.path.join(top, above).rstrip("/"), name, missing)
    assert not (top / "a").exists()
    os.close(open_parent(found))
    assert (top / above).joinpath(*missing).is_dir()
    assert not (top / "new").exists()


def test_the_current_directory(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(top)
    assert find_place(".", parents=False, absent=False) == LocalPlace(str(top.parent), "top")
    assert find_place("new", parents=False, absent=True) == LocalPlace(str(top), "new")


#: Name → path below the directory, arguments, and the error number.
REFUSED = {
    "a file": ("file", False, errno.ENOTDIR),
    "a link to a file": ("to-file", False, errno.ENOTDIR),
    "a link to nothing": ("to-nothing", False, errno.EEXIST),
    "it exists": ("dir", True, errno.EEXIST),
    "a link exists": ("to-dir", True, errno.EEXIST),
    "no directory above": ("a/new", False, errno.ENOENT),
    "a file above": ("file/new", False, errno.ENOTDIR),
    "the root": ("../../../../../../../../../../../..", False, errno.EBUSY),
}


@pytest.mark.parametrize(("path", "absent", "number"), REFUSED.values(), ids=REFUSED)
def test_places_that_are_refused(top: Path, path: str, absent: bool, number: int) -> None:  # noqa: FBT001 - a case
    with pytest.raises(errors.LocalFileError) as caught:
        find_place(f"{top}/{path}", parents=False, absent=absent)
    assert caught.value.errno == number


def test_a_file_above_is_refused_with_parents(top: Path) -> None:
    with pytest.raises(errors.LocalFileError) as caught:
        find_place(f"{top}/file/a/new", parents=True, absent=False)
    assert caught.value.errno == errno.ENOTDIR


def test_the_source(top: Path) -> None:
    os.close(open_source(str(top / "to-dir")))
    for name, number in (("file", errno.ENOTDIR), ("nothing", errno.ENOENT), ("to-nothing", errno.ENOENT)):
        with pytest.raises(errors.LocalFileError) as caught:
            open_source(str(top / name))
        assert (caught.value.errno, caught.value.path) == (number, str(top / name))


def test_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    directories.check_system()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(errors.Unsupported, match="Linux"):
        directories.check_system()


# git


def git(where: Path, *command: str) -> None:
    subprocess.run(["git", "-C", str(where), *command], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with files of every kind of attention."""
    where = tmp_path / "repository"
    where.mkdir()
    git(where, "init", "-q")
    for name in ("tracked", "untracked", "ignored.o", "tracked.o", "sub/tracked", "sub/ignored.o"):
        (where / name).parent.mkdir(exist_ok=True)
        (where / name).write_text(name)
    (where / os.fsdecode(b"caf\xe9")).write_text("x")
    (where / ".gitignore").write_text("*.o\n")
    git(where, "add", "-f", "tracked", "tracked.o", "sub/tracked", ".gitignore")
    for inner in (where / "inner", where / "submodule"):
        inner.mkdir()
        git(inner, "init", "-q")
        (inner / "file").write_text("x")
    git(where, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},submodule")
    return where


def test_what_git_takes(repository: Path) -> None:
    """Tracked files even if a pattern ignores them, untracked ones unless one does; no `.git`, no other repository."""
    taken = {b".gitignore", b"caf\xe9", b"sub/tracked", b"tracked", b"tracked.o", b"untracked"}
    assert git_files.git_files(str(repository), None) == taken
    assert git_files.git_files(str(repository / "sub"), None) == {b"tracked"}


def test_the_callers_repository_is_not_taken(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a hook, which git starts with the repository in variables."""
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert b"tracked" in git_files.git_files(str(repository), None)


@pytest.mark.parametrize("setting", ["core.fsmonitor", "core.hooksPath"])
def test_a_repository_from_a_sandbox_runs_nothing(repository: Path, tmp_path: Path, setting: str) -> None:
    """A repository that a sandbox wrote may name programs in its settings; git would run them on this machine."""
    ran = tmp_path / "ran"
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("program", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {ran}\n")
        (hooks / name).chmod(0o755)
    git(repository, "config", setting, str(hooks / "program" if setting == "core.fsmonitor" else hooks))
    subprocess.run(["git", "-C", str(repository), "status"], check=True, capture_output=True)
    if setting == "core.fsmonitor":
        assert ran.exists()
        ran.unlink()
    ran.unlink(missing_ok=True)
    git_files.git_files(str(repository), None)
    assert not ran.exists()


def no_git(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(path))


def no_repository(_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", "/")


@pytest.mark.parametrize(
    ("prepare", "said"), [(no_git, "cannot run git"), (no_repository, "not a git repository")]
)
def test_without_git(
    top: Path, monkeypatch: pytest.MonkeyPatch, prepare: Callable[[Path, pytest.MonkeyPatch], None], said: str
) -> None:
    prepare(top, monkeypatch)
    with pytest.raises(errors.LocalFileError, match=said) as caught:
        git_files.git_files(str(top), None)
    assert caught.value.fix.startswith("gitignore needs git and a repository.")
    assert caught.value.path == str(top)
