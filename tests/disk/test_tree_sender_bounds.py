"""TreeSender at its bounds: messages, memory and time, and entries that a disk refuses (TRE-5, TRE-25, TRE-41, TRE-58)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.opening import Beneath
from openshell_files_disk.trees.selection import Selection
from openshell_files_disk.trees.sending import content as sending_content
from openshell_files_disk.trees.sending import walk as sending_walk
from openshell_files_protocol.digests import HASHERS, DigestAlgorithm
from openshell_files_protocol.limits import MAX_MESSAGE_BYTES, MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2
from tree_taking import Taker, has_content, sender_of, taken


@pytest.fixture
def top(tmp_path: Path) -> Path:
    directory = tmp_path / "top"
    directory.mkdir()
    return directory


def test_messages_stay_below_the_limit(top: Path) -> None:
    """TRE-5: also where every entry, or every part, has a reason with a long path."""
    # Each byte takes three in a message for a person.
    name = b"\xff" * 250
    path = os.fsencode(top)
    for _ in range(13):
        path += b"/" + name
        os.mkdir(path)
    for number in range(250):
        os.mkdir(path + b"/d%03d" % number)
    for number in range(400):
        with open(path + b"/f%03d" % number, "wb") as file:
            file.write(b"x")

    class Refusing(FileSystem):
        def openat2(self, dir_fd: int, path: bytes, flags: int, resolve: int) -> int:
            if path.rpartition(b"/")[2].startswith(b"d"):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return super().openat2(dir_fd, path, flags, resolve)

        def open(self, name: bytes, flags: int, *, dir_fd: int | None = None, mode: int = 0o600) -> int:
            if name.startswith(b"f"):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return super().open(name, flags, dir_fd=dir_fd, mode=mode)

    seen = Taker(sender_of(top, fs=Refusing()))
    # All is needed at once, so that parts fill their messages.
    manifests = list[trees_pb2.TreeManifest]()
    while (message := seen.sender.next()) is not None:
        assert isinstance(message, trees_pb2.TreeManifest)
        manifests.append(message)
        seen.entries += message.entries
    needed = [number for number, entry in enumerate(seen.entries) if has_content(entry)]
    seen.sender.reply(trees_pb2.TreeReply(decided_entries=len(seen.entries), needed=needed))
    seen.run()
    assert max(manifest.ByteSize() for manifest in manifests) <= MAX_MESSAGE_BYTES - 4096
    assert len(seen.failed) == 400
    assert sum(entry.reason == "ACCESS_DENIED" for entry in seen.entries) == 250
    assert seen.largest <= MAX_MESSAGE_BYTES - 4096


def test_entries_without_status(top: Path) -> None:
    """TRE-25: a directory that may be listed and not searched is announced with all its names; rules still hold."""
    for name in ("x", "y", "z.pyc", "gone"):
        (top / name).write_bytes(b"x")
    (top / "link").symlink_to("x")

    class Listed(FileSystem):
        def entry_status(self, entry: os.DirEntry[str]) -> os.stat_result:
            code = {"y": errno.EACCES, "link": errno.EIO, "z.pyc": errno.EACCES, "gone": errno.ENOENT}
            if entry.name in code:
                raise OSError(code[entry.name], os.strerror(code[entry.name]))
            return super().entry_status(entry)

    seen = taken(top, Selection(exclude=["*.pyc"]), fs=Listed())
    entries = {entry.path: (entry.type, entry.reason, entry.excluded) for entry in seen.entries[1:]}
    assert entries == {
        b"x": (files_pb2.FILE_TYPE_REGULAR, "", False),
        b"y": (files_pb2.FILE_TYPE_REGULAR, "ACCESS_DENIED", False),
        b"link": (files_pb2.FILE_TYPE_SYMLINK, "IO_ERROR", False),
        b"z.pyc": (files_pb2.FILE_TYPE_REGULAR, "", True),
    }


@pytest.mark.parametrize(
    ("code", "reason"),
    [(errno.EINVAL, "FILE_CHANGED"), (errno.EACCES, "ACCESS_DENIED"), (errno.ENOENT, None)],
)
def test_links_that_cannot_be_read(top: Path, code: int, reason: str | None) -> None:
    """TRE-25: one that became another type, one that is refused, and one that vanished."""
    (top / "link").symlink_to("x")

    class Failing(FileSystem):
        def readlink(self, name: bytes, dir_fd: int) -> bytes:  # noqa: ARG002 - the interface of FileSystem
            raise OSError(code, os.strerror(code))

    entries = taken(top, fs=Failing()).by_path
    assert (entries[b"link"].reason if b"link" in entries else None) == reason


def test_many_holes_share_messages(top: Path) -> None:
    """TRE-43: a file of many small holes takes few messages."""
    with open(top / "x", "wb") as file:
        for number in range(64):
            file.seek(number * 65536)
            file.write(b"x")
    sender = sender_of(top)
    taker = Taker(sender)
    taker.take(sender.next())
    messages = 0
    while not isinstance(message := sender.next(), trees_pb2.TreeEnd):
        messages += 1
        taker.take(message)
    sender.close()
    assert taker.holes > 0
    assert taker.content == {b"x": (top / "x").read_bytes()}
    assert messages == 1


def test_a_hole_without_end(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRE-43: no message takes long, whatever the hole's size."""
    monkeypatch.setattr(sending_content, "HOLE_BYTES", 4 * MIB)
    size = 8 * MIB + 5
    with open(top / "x", "wb") as file:
        file.truncate(size)
    sender = sender_of(top)
    manifest = sender.next()
    assert isinstance(manifest, trees_pb2.TreeManifest)
    sender.reply(trees_pb2.TreeReply(decided_entries=2, needed=[1]))
    sent = list[list[int]]()
    while isinstance(message := sender.next(), trees_pb2.TreeContent):
        sent.append([part.hole_bytes for part in message.parts])
    sender.close()
    assert sent == [[4 * MIB], [4 * MIB], [5]]


@pytest.mark.parametrize("change", ["grown", "replaced", "fifo", "removed"])
def test_a_file_that_changes_before_its_digest(top: Path, change: str) -> None:
    """TRE-8, TRE-41: the entry says so, and nothing is read from what has its name."""
    file = top / "x"
    file.write_bytes(b"content")

    class Changing(FileSystem):
        def entry_status(self, entry: os.DirEntry[str]) -> os.stat_result:
            status = super().entry_status(entry)
            if change == "grown":
                file.write_bytes(b"more content")
            else:
                file.rename(top.parent / "away")
                if change == "fifo":
                    os.mkfifo(file)
                elif change == "replaced":
                    file.write_bytes(b"CONTENT")
            return status

    entry = taken(top, fs=Changing(), compare_content=True).by_path[b"x"]
    assert (entry.reason, entry.digest) == ("FILE_CHANGED", b"")


def test_digests_pause(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRE-56: a large file does not hold up the manifest of what is known, and its digest is the same."""
    monkeypatch.setattr(sending_content, "DIGESTED_BYTES", MIB)
    (top / "x").write_bytes(bytes(4 * MIB))
    sender = sender_of(top, compare_content=True)
    manifests = list[trees_pb2.TreeManifest]()
    announced = 0
    while not isinstance(message := sender.next(), trees_pb2.TreeEnd):
        assert isinstance(message, trees_pb2.TreeManifest)
        manifests.append(message)
        announced += len(message.entries)
        sender.reply(trees_pb2.TreeReply(decided_entries=announced))
    sender.close()
    assert [len(manifest.entries) for manifest in manifests] == [1, 0, 0, 1]
    hasher = HASHERS[DigestAlgorithm.BLAKE3]()
    hasher.update(bytes(4 * MIB))
    assert manifests[-1].entries[0].digest == hasher.digest()


def test_names_that_are_left_out_wait_in_bounded_memory(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRE-9, TRE-58: directories are announced, also without anything that is sent, before too many names wait."""
    monkeypatch.setattr(sending_walk, "MOST_LEFT_OUT", 10)
    for directory, count in (("few", 4), ("few/one", 4), ("few/other", 4), ("many", 11)):
        (top / directory).mkdir()
        for number in range(count):
            (top / directory / f"f{number}").touch()
    entries = taken(top, Selection(include=["nothing"])).by_path
    assert not entries[b"many"].excluded
    assert all(entries[b"many/f%d" % number].excluded for number in range(11))
    assert entries[b"few"].excluded
    assert b"few/f0" not in entries


def test_a_walk_that_finds_nothing_pauses(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRE-56: a caller that leaves is noticed, whatever the rules leave out."""
    monkeypatch.setattr(sending_walk, "NAMES", 10)
    (top / "d").mkdir()
    for number in range(35):
        (top / "d" / f"f{number}").touch()
    manifests = Taker(sender_of(top, Selection(include=["nothing"])))
    counts = list[int]()
    while manifests.end is None:
        message = manifests.sender.next()
        counts.append(len(message.entries) if isinstance(message, trees_pb2.TreeManifest) else -1)
        manifests.take(message)
    manifests.sender.close()
    assert counts == [1, 0, 0, 1, -1]


def test_one_mount_may_have_several_devices(top: Path) -> None:
    """TRE-28: without openat2 the mount tells; a subvolume of btrfs has another device and is no mount point."""
    (top / "d/e").mkdir(parents=True)
    (top / "mounted").mkdir()
    top_fd = os.open(top, os.O_RDONLY)

    class Older(FileSystem):
        def __init__(self, *, proc: bool) -> None:
            self.proc = proc

        def openat2(self, dir_fd: int, path: bytes, flags: int, resolve: int) -> int:  # noqa: ARG002 - as above
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

        def mount_of(self, fd: int) -> int | None:
            if not self.proc:
                return None
            return 2 if os.readlink(f"/proc/self/fd/{fd}").endswith("mounted") else 1

        def fstat(self, fd: int) -> os.stat_result:
            status = super().fstat(fd)
            if os.readlink(f"/proc/self/fd/{fd}").endswith("/e"):
                return os.stat_result([*status[:2], status.st_dev + 1, *status[3:]])
            return status

    try:
        with_mounts = Beneath(Older(proc=True), top_fd)
        os.close(with_mounts.open_directory(b"d/e"))
        with pytest.raises(OSError, match="cross-device"):
            with_mounts.open_directory(b"mounted")
        without = Beneath(Older(proc=False), top_fd)
        with pytest.raises(OSError, match="cross-device"):
            without.open_directory(b"d/e")
        os.close(without.open_directory(b"mounted"))
    finally:
        os.close(top_fd)


@pytest.mark.parametrize("openat2", [True, False])
@pytest.mark.parametrize("when", ["listed", "read"])
def test_a_directory_above_that_becomes_a_link(
    top: Path,
    tmp_path: Path,
    openat2: bool,  # noqa: FBT001 - a parameter of the test
    when: str,
) -> None:
    """TRE-28: a link in the middle of a path is not followed, when a directory is listed and when a file is read."""
    (top / "d/e").mkdir(parents=True)
    (top / "d/e/x").write_bytes(b"inside")
    (tmp_path / "outside/e").mkdir(parents=True)
    (tmp_path / "outside/e/x").write_bytes(b"secret")

    def swap() -> None:
        if not (top / "d").is_symlink():
            (top / "d").rename(tmp_path / "away")
            (top / "d").symlink_to(tmp_path / "outside")

    class Swapping(FileSystem):
        def openat2(self, dir_fd: int, path: bytes, flags: int, resolve: int) -> int:
            if not openat2:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            if when == "listed" and path == b"d/e":
                swap()
            return super().openat2(dir_fd, path, flags, resolve)

        def open(self, name: bytes, flags: int, *, dir_fd: int | None = None, mode: int = 0o600) -> int:
            if name == b"d":
                self.opened += 1
                # The first time it is listed itself.
                if when == "listed" and self.opened > 1:
                    swap()
            return super().open(name, flags, dir_fd=dir_fd, mode=mode)

        opened = 0

    seen = Taker(sender_of(top, fs=Swapping()))
    seen.take(seen.sender.next())
    if when == "read":
        swap()
    seen.run()
    assert not seen.content
    if when == "read":
        assert seen.failed == {b"d/e/x": "FILE_CHANGED"}
    else:
        assert {entry.path: entry.reason for entry in seen.entries[2:]} == {b"d/e": "FILE_CHANGED"}
