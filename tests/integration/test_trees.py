"""Trees end to end by the SDK of both flavours, through gateway and supervisor, to the disk and back."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from dev_command import DevStack
from openshell_files import (
    AsyncFilesClient,
    Durability,
    FilesClient,
    Links,
    OidcAuth,
    SandboxFiles,
    TreeProgress,
    TreeResult,
    errors,
    tree_so_far,
)
from sdk_flavours import BlockingView
from tree_manifest import SECOND, differences, manifest

#: Sends from a place to another one; both are seen by this machine.
Transfer = Callable[..., TreeResult]


@pytest.fixture(params=["sync", "async"])
def files(request: pytest.FixtureRequest, stack: DevStack) -> Generator[SandboxFiles]:
    """The first sandbox, by a client of each flavour."""
    name = stack.sandboxes[0].name
    if request.param == "sync":
        with FilesClient(stack.endpoint, auth=OidcAuth(stack.token)) as client:
            yield client.sandbox(name)
        return
    with asyncio.Runner() as runner:
        other = AsyncFilesClient(stack.endpoint, auth=OidcAuth(stack.token))
        yield cast("SandboxFiles", BlockingView(runner, other.sandbox(name)))
        runner.run(other.aclose())


@pytest.fixture
def remote(stack: DevStack, tmp_path: Path) -> Generator[Path]:
    """A place in the sandbox of the test's own, as this machine sees it."""
    place = stack.sandboxes[0].directory / tmp_path.name
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_umask() -> Iterator[None]:
    """Files that are received get the permission bits of the sandbox."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture(params=["up", "down"])
def direction(
    request: pytest.FixtureRequest, files: SandboxFiles, remote: Path, tmp_path: Path
) -> tuple[Path, Path, Transfer]:
    """Return source, destination, and the call that transfers a tree in one direction."""
    local = tmp_path / "local"

    def up(**options: Any) -> TreeResult:
        return files.upload_tree(local, remote.name, **options)

    def down(**options: Any) -> TreeResult:
        return files.download_tree(remote.name, local, **options)

    return (local, remote, up) if request.param == "up" else (remote, local, down)


def make(top: Path) -> None:
    """Make a tree of every kind that is carried, with times of long ago."""
    (top / "sub/deep").mkdir(parents=True)
    (top / "empty").mkdir(mode=0o700)
    (top / "file").write_text("content")
    (top / "sub/run").write_text("#!/bin/sh\n")
    (top / "sub/run").chmod(0o755)
    (top / "sub/nothing").touch(0o600)
    (top / "sub/deep" / os.fsdecode(b"caf\xe9")).write_text("bytes")
    (top / "sub/link").symlink_to("../file")
    (top / "dangling").symlink_to("/no/where")
    os.link(top / "file", top / "sub/second-name")
    with (top / "sparse").open("wb") as sparse:
        sparse.seek(1 << 22)
        sparse.write(b"end")
    for number, (where, directories, names) in enumerate(os.walk(top, topdown=False)):
        for name in [*names, *directories, "."]:
            time = 1_500_000_000 * SECOND + 123_456_789 + number
            os.utime(os.path.join(where, name), ns=(time, time), follow_symlinks=False)


def test_there_and_again(direction: tuple[Path, Path, Transfer]) -> None:
    """TRE-7, TRE-33, TRE-47: everything arrives as it is, and then nothing more is sent."""
    source, destination, transfer = direction
    make(source)
    entries = len(manifest(source))
    seen: list[TreeProgress] = []
    result = transfer(progress=seen.append)
    assert differences(manifest(source), manifest(destination)) == []
    assert (result.entries, result.sent + result.made, result.complete) == (entries, entries, True)
    assert (result.sent, result.created, result.durability) == (5, True, Durability.FSYNC)
    assert result.total_bytes == (1 << 22) + 3 + 7 + 10 + 5
    assert result.content_bytes < 1 << 20
    assert (destination / "sparse").stat().st_blocks * 512 < 1 << 20
    assert (seen[-1].entries_done, seen[-1].entries_total) == (entries, entries)
    assert seen[-1].bytes_done == seen[-1].bytes_total == result.total_bytes
    again = transfer()
    assert (again.unchanged, again.content_bytes, again.created) == (entries, 0, False)
    (source / "file").write_text("changed")
    changed = transfer()
    assert (changed.sent, changed.content_bytes) == (1, 7)
    assert (destination / "sub/second-name").read_text() == "changed"
    assert differences(manifest(source), manifest(destination)) == []


def test_checksum(direction: tuple[Path, Path, Transfer]) -> None:
    """TRE-8: content that changed behind the same size and time is found only by comparing it."""
    source, destination, transfer = direction
    make(source)
    transfer()
    status = (destination / "file").stat()
    (destination / "file").write_text("CONTENT")
    os.utime(destination / "file", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert transfer().sent == 0
    assert transfer(checksum=True).sent == 1
    assert differences(manifest(source), manifest(destination)) == []


def test_delete(direction: tuple[Path, Path, Transfer]) -> None:
    """TRE-14, TRE-50: what the tree does not have goes, but what a pattern leaves out stays."""
    source, destination, transfer = direction
    make(source)
    transfer()
    (destination / "old/deep").mkdir(parents=True)
    (destination / "kept.o").touch()
    (source / "kept.o").touch()
    assert transfer().deleted == 0
    planned = transfer(delete=True, exclude=["*.o"], dry_run=True)
    assert (planned.deleted_paths, (destination / "old/deep").exists()) == (("old",), True)
    assert planned.excluded_paths == ("kept.o",)
    result = transfer(delete=True, exclude=["*.o"])
    assert (result.deleted, result.excluded) == (2, 1)
    assert not (destination / "old").exists()
    assert (destination / "kept.o").exists()


#: Options → what arrives of the tree.
SELECTIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "include": ({"include": ["run"]}, {"sub", "sub/run"}),
    "exclude": ({"exclude": ["sub/", "sparse", "dangling"]}, {"empty", "file"}),
    "both": (
        {"include": ["sub/*"], "exclude": ["link", "nothing", "second-name", "deep"]},
        {"sub", "sub/run"},
    ),
    "no links": ({"links": Links.SKIP, "exclude": ["/sub/", "sparse", "empty"]}, {"file"}),
}


@pytest.mark.parametrize(("options", "expected"), SELECTIONS.values(), ids=SELECTIONS)
def test_selection(
    direction: tuple[Path, Path, Transfer], options: dict[str, Any], expected: set[str]
) -> None:
    """TRE-9, TRE-10"""
    source, destination, transfer = direction
    make(source)
    result = transfer(**options)
    assert {os.fsdecode(path) for path in manifest(destination) if path} == expected
    assert result.excluded
    assert (result.complete, result.entries) == (True, result.excluded + 1 + len(expected))


def test_nothing_matched(direction: tuple[Path, Path, Transfer]) -> None:
    """Patterns that leave nothing are an error, and nothing is made."""
    source, destination, transfer = direction
    make(source)
    with pytest.raises(errors.NothingMatched):
        transfer(include=["*.none"])
    assert not destination.exists()


def test_dry_run(direction: tuple[Path, Path, Transfer]) -> None:
    """TRE-11"""
    source, destination, transfer = direction
    make(source)
    result = transfer(dry_run=True)
    assert not destination.exists()
    assert (result.dry_run, result.content_bytes, result.complete) == (True, 0, True)
    assert set(map(os.fsencode, result.changed_paths)) == set(manifest(source))
    transfer()
    assert transfer(dry_run=True).changed_paths == ()


def test_atomic(direction: tuple[Path, Path, Transfer]) -> None:
    """TRE-12, TRE-13: all of it, or nothing."""
    source, destination, transfer = direction
    make(source)
    os.mkfifo(source / "fifo")
    with pytest.raises(errors.TreeIncomplete) as caught:
        transfer(atomic=True)
    assert not destination.exists()
    assert (found := tree_so_far(caught.value)) is not None
    assert [(one.path, one.reason) for one in found.problems] == [("fifo", "NOT_A_REGULAR_FILE")]
    os.unlink(source / "fifo")
    result = transfer(atomic=True)
    assert (result.complete, result.created) == (True, True)
    assert differences(manifest(source), manifest(destination)) == []
    with pytest.raises((errors.FileExists, errors.LocalFileError)):
        transfer(atomic=True)
    assert [name for name in os.listdir(destination.parent) if name.startswith(".openshell-upload-")] == []


def test_problems(direction: tuple[Path, Path, Transfer]) -> None:
    """TRE-25, TRE-46: each entry that does not arrive is told, and the rest arrives."""
    source, destination, transfer = direction
    make(source)
    os.mkfifo(source / "fifo")
    (destination / "file").mkdir(parents=True)
    result = transfer()
    assert {(one.path, one.reason) for one in result.problems} == {
        ("fifo", "NOT_A_REGULAR_FILE"),
        ("file", "IS_A_DIRECTORY"),
        # A second name of a file that did not arrive.
        ("sub/second-name", "FILE_NOT_FOUND"),
    }
    assert (result.failed, result.complete) == (3, False)
    assert (destination / "sub/run").exists()
    # What is in the way goes with `delete`.
    assert transfer(delete=True).failed == 1
    assert (destination / "file").read_text() == "content"


def test_the_way_to_the_destination(files: SandboxFiles, remote: Path, tmp_path: Path) -> None:
    """PTH-16, PTH-18: directories above the destination are made only if they may be."""
    make(tmp_path / "local")
    with pytest.raises(errors.ParentNotFound):
        files.upload_tree(tmp_path / "local", f"{remote.name}/a/b")
    assert files.upload_tree(tmp_path / "local", f"{remote.name}/a/b", parents=True).complete
    with pytest.raises(errors.LocalFileError):
        files.download_tree(f"{remote.name}/a/b", tmp_path / "x/y")
    assert files.download_tree(f"{remote.name}/a/b", tmp_path / "x/y", parents=True).complete
    assert differences(manifest(tmp_path / "local"), manifest(tmp_path / "x/y")) == []


def test_sources_that_are_no_directory(files: SandboxFiles, remote: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    remote.mkdir()
    (remote / "file").touch()
    for name in ("missing", "file"):
        with pytest.raises(errors.LocalFileError):
            files.upload_tree(tmp_path / name, remote.name)
    with pytest.raises(errors.FileNotFound):
        files.download_tree(f"{remote.name}/missing", tmp_path / "t")
    with pytest.raises(errors.NotADirectory):
        files.download_tree(f"{remote.name}/file", tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_gitignore(files: SandboxFiles, remote: Path, tmp_path: Path) -> None:
    """What git would take: tracked files, and others that it does not ignore; not `.git`."""
    local = tmp_path / "local"
    (local / "src").mkdir(parents=True)
    for name, content in ((".gitignore", "*.o\nbuild/\n"), ("src/a.c", "a"), ("src/a.o", "o"), ("new", "n")):
        (local / name).write_text(content)
    (local / "build").mkdir()
    (local / "build/out").touch()
    subprocess.run(["git", "init", "-q", str(local)], check=True)
    result = files.upload_tree(local, remote.name, gitignore=True)
    assert set(manifest(remote)) == {b"", b".gitignore", b"src", b"src/a.c", b"new"}
    assert result.complete
    assert result.excluded


def test_links_are_followed_inside_of_the_tree(files: SandboxFiles, remote: Path, tmp_path: Path) -> None:
    """FOLLOW sends what a link names as far as that is in the tree; the rest is a problem."""
    make(tmp_path / "local")
    result = files.upload_tree(tmp_path / "local", remote.name, links=Links.FOLLOW)
    assert (remote / "sub/link").read_text() == "content"
    assert not (remote / "sub/link").is_symlink()
    assert [one.path for one in result.problems] == ["dangling"]


def test_an_interruption(direction: tuple[Path, Path, Transfer]) -> None:
    """As Ctrl-C: what has arrived is whole and told, nothing staged is left, and the same call goes on."""
    source, destination, transfer = direction
    source.mkdir()
    for number in range(200):
        (source / f"{number:03}").write_bytes(b"x" * 50_000)

    def interrupt(progress: TreeProgress) -> None:
        if progress.sent >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        transfer(progress=interrupt)
    assert (found := tree_so_far(caught.value)) is not None
    assert 20 <= found.sent < 200
    assert not found.complete
    result = transfer()
    assert result.complete
    assert result.sent <= 200 - found.sent
    assert differences(manifest(source), manifest(destination)) == []
    assert [name for name in os.listdir(destination) if name.startswith(".openshell-upload-")] == []
