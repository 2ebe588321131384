"""TreeReceiver while other programs move what is in its place (TRE-44, TRE-48)."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason
from tree_receiving import Receiving, Said, directory, file, hard_link, link, part, receiving


@pytest.fixture
def outside(tmp_path: Path) -> Generator[Path]:
    """Return a directory beside the top directory, which must not change."""
    place = tmp_path / "outside"
    (place / "sub").mkdir(parents=True)
    (place / "f").write_bytes(b"secret")
    (place / "sub/f").write_bytes(b"secret")
    for path in (place / "f", place / "sub", place / "sub/f", place):
        os.utime(path, ns=(0, 0))
        os.chmod(path, 0o750)
    before = seen(place)
    yield place
    assert seen(place) == before


def seen(place: Path) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for path in (place, *sorted(place.rglob("*"))):
        status = path.stat()
        found.append((path.name, status.st_mode, status.st_mtime_ns, status.st_size, status.st_nlink))
    return found


@contextmanager
def swapping(directory_path: Path, outside_path: Path) -> Generator[None]:
    """Replace a directory by a link to another one, and back, in a tight loop."""
    stop = threading.Event()
    aside = directory_path.with_name("aside")

    def swap() -> None:
        while not stop.is_set():
            with suppress(OSError):
                directory_path.rename(aside)
            with suppress(OSError):
                directory_path.symlink_to(outside_path)
            with suppress(OSError):
                directory_path.unlink()
            with suppress(OSError):
                aside.rename(directory_path)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("delete_others", [False, True])
def test_a_directory_that_turns_into_a_link_all_the_time(
    tmp_path: Path, outside: Path, *, delete_others: bool
) -> None:
    """Files, links, hard links, directories, modes, times and removals: none of them reaches the other directory."""
    top = tmp_path / "top"
    problems = set[str]()
    rounds = 0
    # At least until an entry has met the link once; the test's timeout ends a receiver that never does.
    while rounds < 40 or not problems & {"FILE_CHANGED", "LEAF_IS_LINK", "PARENT_NOT_FOUND"}:
        rounds += 1
        (top / "d/sub").mkdir(parents=True, exist_ok=True)
        for number in range(5):
            (top / f"d/x{number}").write_bytes(b"x")
        with (
            swapping(top / "d", outside),
            receiving(tmp_path, delete_others=delete_others) as receiver,
            suppress(TransferError),
        ):
            problems |= set(transfer(receiver).problems.values())
        if (top / "d").is_symlink():
            (top / "d").unlink()
        # The receiver makes d anew while it is aside: two directories with content, which nothing swaps any more.
        shutil.rmtree(top / "aside", ignore_errors=True)


def transfer(receiver: Receiving) -> Said:
    said = receiver.entries(
        directory(),
        file(b"first", b"abc"),
        directory(b"d", mode=0o777),
        *(file(b"d/f%d" % number, b"abc", mode=0o666) for number in range(20)),
        file(b"d/f", b"abc", mode=0o666),
        link(b"d/l", b"x"),
        hard_link(b"d/h", b"first"),
        directory(b"d/sub", mode=0o777),
        file(b"d/sub/f", b"abc"),
    )
    for number in list(said.needed):
        receiver.content(part(number, b"abc"))
    return receiver.finish()


class Meddling(FileSystem):
    """Calls something before one kind of system call, once."""

    def __init__(self, call: str, meddle: Callable[[], None]) -> None:
        self.call = call
        self.meddle = meddle
        self.met = False

    def meet(self, call: str) -> None:
        if call == self.call and not self.met:
            self.met = True
            self.meddle()

    def mkdir(self, name: bytes, dir_fd: int, mode: int = 0o777) -> None:
        if name in {b"top", b"d"}:
            self.meet("mkdir")
        super().mkdir(name, dir_fd, mode)

    def move(self, source_dir: int, source: bytes, destination_dir: int, destination: bytes) -> None:
        self.meet("move")
        super().move(source_dir, source, destination_dir, destination)

    def openat2(self, dir_fd: int, path: bytes, flags: int, resolve: int) -> int:
        if path == b"d":
            self.meet("openat2")
        return super().openat2(dir_fd, path, flags, resolve)

    def chmod_entry(self, fd: int, mode: int) -> None:
        self.meet("chmod_entry")
        super().chmod_entry(fd, mode)

    def link_between(self, source_dir: int, source: bytes, destination_dir: int, destination: bytes) -> None:
        self.meet("link_between")
        super().link_between(source_dir, source, destination_dir, destination)


def test_a_directory_that_is_replaced_before_content_comes(tmp_path: Path, outside: Path) -> None:
    """TRE-44: the file is a problem, and so are mode and time of its directory."""
    top = tmp_path / "top"
    (top / "d").mkdir(parents=True)
    with receiving(tmp_path) as receiver:
        receiver.entries(directory(), directory(b"d"), file(b"d/f", b"abc"))
        (top / "d").rename(top / "e")
        (top / "d").symlink_to(outside)
        receiver.content(part(2, b"abc"))
        said = receiver.finish()
    assert said.problems == {1: "FILE_CHANGED", 2: "FILE_CHANGED"}


def test_a_directory_that_is_replaced_after_it_was_looked_at(tmp_path: Path, outside: Path) -> None:
    top = tmp_path / "top"
    (top / "d").mkdir(parents=True)

    def swap() -> None:
        (top / "d").rename(top / "e")
        (top / "d").symlink_to(outside)

    with receiving(tmp_path, fs=Meddling("openat2", swap)) as receiver:
        receiver.entries(directory(), directory(b"d"), file(b"d/f", b"abc"))
        said = receiver.finish()
    assert said.problems == {1: "FILE_CHANGED", 2: "PARENT_NOT_FOUND"}


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("exists", [[], ["top"]])
def test_a_directory_that_another_transfer_has_just_made(
    tmp_path: Path, exists: list[str], *, ordered: bool
) -> None:
    """TRE-47: two transfers to one place make the same directories at the same time; each enters those of the other."""
    for name in exists:
        (tmp_path / name).mkdir()

    def make() -> None:
        (tmp_path / "top/d").mkdir(parents=True)
        (tmp_path / "top/d/other").touch()

    with receiving(tmp_path, fs=Meddling("mkdir", make), ordered=ordered) as receiver:
        receiver.entries(directory(), directory(b"d", mode=0o750), file(b"d/f", b"abc"))
        receiver.content(part(2, b"abc"))
        said = receiver.finish()
        assert not receiver.receiver.created
    assert said.problems == {}
    assert sorted(os.listdir(tmp_path / "top/d")) == ["f", "other"]
    assert stat.S_IMODE((tmp_path / "top/d").stat().st_mode) == 0o750


@pytest.mark.parametrize("name", ["top", "d"])
def test_a_link_that_another_program_has_just_made(tmp_path: Path, outside: Path, name: str) -> None:
    """TRE-44: in the place of a directory that was missing a moment before."""
    place = tmp_path / "top" if name == "top" else tmp_path / "top/d"
    place.parent.mkdir(exist_ok=True)
    with receiving(tmp_path, fs=Meddling("mkdir", lambda: place.symlink_to(outside))) as receiver:
        if name == "top":
            with pytest.raises(TransferError) as raised:
                receiver.entries(directory())
            assert raised.value.reason is Reason.LEAF_IS_LINK
        else:
            said = receiver.entries(directory(), directory(b"d"), file(b"d/f", b"abc"))
            assert said.problems == {1: "FILE_EXISTS", 2: "PARENT_NOT_FOUND"}


def test_a_directory_in_the_place_of_a_file_whose_content_has_come(tmp_path: Path) -> None:
    """TRE-46: another program made it after the entry was decided."""
    top = tmp_path / "top"
    top.mkdir()
    with receiving(tmp_path, fs=Meddling("move", (top / "f").mkdir)) as receiver:
        receiver.entries(directory(), file(b"f", b"abc"))
        receiver.content(part(1, b"abc"))
        said = receiver.finish()
    assert said.problems == {1: "IS_A_DIRECTORY"}
    assert os.listdir(top) == ["f"]


def test_the_mode_of_an_unchanged_file_that_becomes_a_link(tmp_path: Path, outside: Path) -> None:
    """TRE-48: what is outside keeps mode and time (see the fixture)."""
    top = tmp_path / "top"
    top.mkdir()
    (top / "f").write_bytes(b"abc")
    os.utime(top / "f", ns=(0, 10**18))

    def swap() -> None:
        (top / "f").unlink()
        (top / "f").symlink_to(outside / "f")

    with receiving(tmp_path, fs=Meddling("chmod_entry", swap)) as receiver:
        receiver.entries(directory(), file(b"f", b"abc", mode=0o777))
        receiver.finish()


def test_a_hard_link_to_a_file_that_is_replaced(tmp_path: Path, outside: Path) -> None:
    """TRE-27: a link that takes the name of the file is not given a second name."""
    top = tmp_path / "top"
    top.mkdir()
    (top / "f").write_bytes(b"abc")
    os.utime(top / "f", ns=(0, 10**18))

    def swap() -> None:
        (top / "f").unlink()
        (top / "f").symlink_to(outside / "f")

    with receiving(tmp_path, fs=Meddling("link_between", swap)) as receiver:
        receiver.entries(directory(), file(b"f", b"abc"), hard_link(b"h", b"f"))
        said = receiver.finish()
    assert said.problems == {2: "FILE_CHANGED"}
    assert os.listdir(top) == ["f"]


def test_a_removed_staging_directory(tmp_path: Path) -> None:
    """TRE-34: what comes then is a problem; nothing is written elsewhere."""
    top = tmp_path / "top"
    top.mkdir()
    with receiving(tmp_path) as receiver:
        receiver.entries(directory(), file(b"f", b"abc"), link(b"l", b"x"))
        (staging,) = (path for path in top.iterdir() if path.name.startswith("."))
        staging.rmdir()
        receiver.content(part(1, b"abc"))
        said = receiver.finish()
    assert said.problems == {1: "FILE_NOT_FOUND"}
    assert os.listdir(top) == ["l"]


def test_a_top_directory_that_is_moved_away(tmp_path: Path, outside: Path) -> None:
    """TRE-44: entries follow the directory that was opened, and never what took its name."""
    top = tmp_path / "top"
    top.mkdir()
    with receiving(tmp_path) as receiver:
        receiver.entries(directory(), file(b"f", b"abc"))
        top.rename(tmp_path / "moved")
        top.symlink_to(outside)
        receiver.content(part(1, b"abc"))
        receiver.finish()
    assert (tmp_path / "moved/f").read_bytes() == b"abc"


def test_a_directory_that_moves_while_it_is_deleted(tmp_path: Path, outside: Path) -> None:
    """TRE-14: the way back must lead where the walk came from."""
    top = tmp_path / "top"
    (top / "d/e").mkdir(parents=True)
    (top / "d/e/f").write_bytes(b"x")

    class Moving(FileSystem):
        def remove_file(self, name: bytes, dir_fd: int) -> None:
            super().remove_file(name, dir_fd)
            if (top / "d/e").exists():
                (top / "d/e").rename(outside / "e")

    with receiving(tmp_path, fs=Moving(), delete_others=True) as receiver:
        receiver.entries(directory())
        said = receiver.finish()
    assert said.problems == {0: Reason.FILE_CHANGED.name}
    (outside / "e").rmdir()
    os.utime(outside, ns=(0, 0))
