"""TreeSender: what it announces, in which order, and the content that it sends (TRE-4 to TRE-6, TRE-9, TRE-25 to TRE-28, TRE-37 to TRE-43)."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.links import Links
from openshell_files_disk.trees.selection import Selection
from openshell_files_disk.trees.sending import content as sending_content
from openshell_files_protocol.digests import HASHERS, DigestAlgorithm
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import (
    MAX_MESSAGE_BYTES,
    MAX_OPEN_ENTRIES,
    MAX_PATH_BYTES,
    MIB,
    STAGING_PREFIX,
)
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_protocol.reasons import Reason
from tree_taking import Taker, sender_of, taken


@pytest.fixture
def top(tmp_path: Path) -> Path:
    directory = tmp_path / "top"
    directory.mkdir()
    return directory


def test_what_is_announced(top: Path) -> None:
    """TRE-4, TRE-24, TRE-26: the top directory first; a directory before its content; everything as it is."""
    (top / "d/sub").mkdir(parents=True)
    (top / "d/empty").mkdir(mode=0o700)
    (top / "d/file").write_bytes(b"content")
    (top / "d/sub/deep").write_bytes(b"x")
    os.chmod(top / "d/file", 0o4751)
    os.utime(top / "d/file", ns=(0, -1))
    (top / "link").symlink_to("/nowhere")
    odd = os.fsencode(top) + b"/\xff\n"
    Path(os.fsdecode(odd)).touch()
    seen = taken(top)
    assert seen.end == trees_pb2.TreeEnd(entries=8)
    assert seen.entries[0].path == b""
    announced = set[bytes]()
    for entry in seen.entries:
        parent = entry.path.rpartition(b"/")[0]
        assert not entry.path or parent in announced
        announced.add(entry.path)
    entries = seen.by_path
    file = entries[b"d/file"]
    assert (file.size_bytes, file.mode, file.modified_seconds, file.modified_nanos) == (
        7,
        0o751,
        -1,
        999_999_999,
    )
    assert list(file.losses) == [trees_pb2.TREE_LOSS_SPECIAL_BITS]
    assert entries[b"d/empty"].mode == 0o700
    assert entries[b"link"].link_target == b"/nowhere"
    assert entries[b"\xff\n"].type == files_pb2.FILE_TYPE_REGULAR
    assert seen.content == {b"d/file": b"content", b"d/sub/deep": b"x", b"\xff\n": b""}
    for path, content in seen.content.items():
        hasher = HASHERS[DigestAlgorithm.BLAKE3]()
        hasher.update(content)
        assert seen.digests[path] == hasher.digest()


def test_content_that_was_announced_ends_before_anything_outside(top: Path) -> None:
    """TRE-4: a directory that was left does not come again."""
    for name in ("a/b/c", "a/d", "e/f"):
        (top / name).mkdir(parents=True)
        (top / name / "x").touch()
    path = list[bytes]()
    for entry in taken(top).entries[1:]:
        parent = entry.path.split(b"/")[:-1]
        assert path[: len(parent)] == parent
        path = entry.path.split(b"/") if entry.type == files_pb2.FILE_TYPE_DIRECTORY else parent


def test_what_cannot_be_sent_is_told(top: Path) -> None:
    """TRE-25: special files with a reason; staging files not at all (TRE-23)."""
    os.mkfifo(top / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        directory = os.open(top, os.O_PATH)
        listener.bind(f"/proc/self/fd/{directory}/socket")
        os.close(directory)
    (top / os.fsdecode(STAGING_PREFIX + b"x")).mkdir()
    seen = taken(top)
    reasons = {entry.path: entry.reason for entry in seen.entries[1:]}
    assert reasons == {b"fifo": "NOT_A_REGULAR_FILE", b"socket": "NOT_A_REGULAR_FILE"}


def test_hard_links(top: Path) -> None:
    """TRE-27: a further name has no content; a name outside of the tree does not matter."""
    (top / "d").mkdir()
    (top / "one").write_bytes(b"x")
    os.link(top / "one", top / "d/two")
    os.link(top / "one", top.parent / "outside")
    seen = taken(top)
    assert seen.by_path[b"d/two"].hard_link == b"one"
    assert not seen.by_path[b"one"].hard_link
    assert seen.content == {b"one": b"x"}


@pytest.mark.parametrize(
    ("exclude", "include", "only", "sent", "left_out"),
    [
        (["*.pyc"], [], None, "a.py d d/b.py d/e d/e/c.py", "a.pyc"),
        (["d/"], [], None, "a.py a.pyc", "d"),
        (["/e"], [], None, "a.py a.pyc d d/b.py d/e d/e/c.py", ""),
        (["e", "!e/c.py"], [], None, "a.py a.pyc d d/b.py", "d/e"),
        (["*", "!d/", "!b.py"], [], None, "d d/b.py", "a.py a.pyc d/e"),
        ([], ["c.py"], None, "d d/e d/e/c.py", "a.py a.pyc d/b.py"),
        ([], ["d/"], None, "d d/b.py d/e d/e/c.py", "a.py a.pyc"),
        ([], ["a.*"], None, "a.py a.pyc", "d"),
        (["*.pyc"], ["a.*"], None, "a.py", "a.pyc d"),
        ([], ["nothing"], None, "", "a.py a.pyc d"),
        ([], [], {b"d/e/c.py"}, "d d/e d/e/c.py", "a.py a.pyc d/b.py"),
        ([], [], {b"d/", b"a.py"}, "a.py d d/b.py d/e d/e/c.py", "a.pyc"),
        (["b.py"], [], {b"d/b.py"}, "", "a.py a.pyc d"),
    ],
)
def test_selection(
    top: Path, exclude: list[str], include: list[str], only: set[bytes] | None, sent: str, left_out: str
) -> None:
    """TRE-9, TRE-10: what is left out is named once; nothing below it is."""
    (top / "d/e").mkdir(parents=True)
    for name in ("a.py", "a.pyc", "d/b.py", "d/e/c.py"):
        (top / name).touch()
    entries = taken(top, Selection(exclude=exclude, include=include, only=only)).by_path
    assert (
        sorted(path.decode() for path, entry in entries.items() if path and not entry.excluded)
        == sent.split()
    )
    assert sorted(path.decode() for path, entry in entries.items() if entry.excluded) == left_out.split()


@pytest.mark.parametrize("pattern", ["", " ", "!", "a\nb", "a\0"])
@pytest.mark.parametrize("field", ["exclude", "include"])
def test_patterns_that_cannot_be_read(field: str, pattern: str) -> None:
    """TRE-29."""
    with pytest.raises(TransferError) as raised:
        Selection(**{field: ["*.py", pattern]})  # type: ignore[arg-type]
    assert raised.value.reason is Reason.INVALID_REQUEST
    assert raised.value.field_violations[0].field == f"{field}[1]"


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("file", files_pb2.FILE_TYPE_REGULAR),
        ("d", files_pb2.FILE_TYPE_DIRECTORY),
        ("../top/file", None),
        ("/etc/passwd", None),
        ("..", None),
        ("nowhere", None),
        ("link", None),
        (".", None),
    ],
)
def test_followed_links(top: Path, target: str, kind: int | None) -> None:
    """A link inside the tree is its target; one that leads out, nowhere or in a circle has a reason."""
    (top / "d").mkdir()
    (top / "d/x").write_bytes(b"x")
    (top / "file").write_bytes(b"content")
    (top / "link").symlink_to(target)
    seen = taken(top, links=Links.FOLLOW)
    entry = seen.by_path[b"link"]
    if kind is None:
        assert entry.reason == "INVALID_PATH"
    else:
        assert (entry.type, entry.reason) == (kind, "")
        assert seen.content.get(b"link", b"content") == b"content"
        assert (b"link/x" in seen.content) == (target == "d")


def test_skipped_links(top: Path) -> None:
    """They are excluded, so that nothing in their place is deleted."""
    (top / "link").symlink_to("x")
    assert taken(top, links=Links.SKIP).by_path[b"link"].excluded


@pytest.mark.parametrize("size", [0, 1, 4096, sending_content.MESSAGE_BYTES, 3 * MIB + 5])
@pytest.mark.parametrize("algorithm", DigestAlgorithm)
def test_sizes(top: Path, size: int, algorithm: DigestAlgorithm) -> None:
    """TRE-37, TRE-38: content of any size, in messages below the limit (TRE-5)."""
    content = os.urandom(size)
    (top / "x").write_bytes(content)
    (top / "y").write_bytes(b"y")
    sender = sender_of(top)
    sender.algorithm = algorithm
    seen = Taker(sender).run()
    assert seen.content == {b"x": content, b"y": b"y"}
    hasher = HASHERS[algorithm]()
    hasher.update(content)
    assert seen.digests[b"x"] == hasher.digest()
    assert seen.largest <= MAX_MESSAGE_BYTES - 4096


def test_holes(top: Path) -> None:
    """TRE-43: they are not read, and count as zeros in the digest."""
    with open(top / "x", "wb") as file:
        file.seek(5 * MIB)
        file.write(b"data")
        file.truncate(9 * MIB)
    seen = taken(top)
    content = (top / "x").read_bytes()
    assert seen.content == {b"x": content}
    assert seen.holes > 8 * MIB
    hasher = HASHERS[DigestAlgorithm.BLAKE3]()
    hasher.update(content)
    assert seen.digests[b"x"] == hasher.digest()


@pytest.mark.parametrize(
    ("when", "change"),
    [(when, change) for when in ("announced", "opened") for change in ("grown", "shrunk", "touched")]
    # The open file stays the announced one, whatever has its name.
    + [("announced", change) for change in ("replaced", "removed", "link", "fifo", "directory")],
)
@pytest.mark.parametrize("size", [10, 3 * MIB])
def test_a_file_that_changes(top: Path, when: str, change: str, size: int) -> None:
    """TRE-41: the entry says so, and the others arrive."""
    file = top / "x"
    file.write_bytes(bytes(size))
    (top / "y").write_bytes(b"y")
    os.utime(file, ns=(0, 0))

    def replaced() -> None:
        file.rename(top / "away")
        file.write_bytes(bytes(size))
        os.utime(file, ns=(0, 0))

    def instead(make: Callable[[], object]) -> None:
        file.unlink()
        make()

    changes: dict[str, Callable[[], object]] = {
        "grown": lambda: file.write_bytes(bytes(size + 1)),
        "shrunk": lambda: file.write_bytes(bytes(size - 1)),
        "touched": lambda: os.utime(file),
        "replaced": replaced,
        "removed": file.unlink,
        "link": lambda: instead(lambda: file.symlink_to("/etc/passwd")),
        "fifo": lambda: instead(lambda: os.mkfifo(file)),
        "directory": lambda: instead(file.mkdir),
    }

    class Changing(FileSystem):
        def pread(self, fd: int, size: int, offset: int) -> bytes:
            if when == "opened" and os.fstat(fd).st_ino == inode:
                changes[change]()
            return super().pread(fd, size, offset)

    inode = file.stat().st_ino
    seen = Taker(sender_of(top, fs=Changing()))
    seen.take(seen.sender.next())
    if when == "announced":
        changes[change]()
    seen.run()
    assert seen.failed == {b"x": "FILE_CHANGED"}
    assert seen.content[b"y"] == b"y"


def test_errors_of_the_disk(top: Path) -> None:
    """TRE-25: a directory and a file that cannot be read are told, the rest is sent."""
    (top / "closed").mkdir()
    (top / "closed/x").touch()
    (top / "secret").write_bytes(b"x")
    (top / "open").write_bytes(b"y")

    class Refusing(FileSystem):
        def openat2(self, dir_fd: int, path: bytes, flags: int, resolve: int) -> int:
            if path == b"closed":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return super().openat2(dir_fd, path, flags, resolve)

        def open(self, name: bytes, flags: int, *, dir_fd: int | None = None, mode: int = 0o600) -> int:
            if name == b"secret":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return super().open(name, flags, dir_fd=dir_fd, mode=mode)

    seen = taken(top, fs=Refusing())
    assert seen.by_path[b"closed"].reason == "ACCESS_DENIED"
    assert b"closed/x" not in seen.by_path
    assert seen.failed == {b"secret": "ACCESS_DENIED"}
    assert seen.content == {b"open": b"y"}


def test_a_tree_that_is_too_deep(top: Path) -> None:
    """TRE-21: paths that nothing could open are not announced, and it is told where."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(5000):
        os.mkdir("deep", dir_fd=fd)
        below = os.open("deep", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    try:
        seen = taken(top)
    finally:
        # Deeper than the clean-up of temporary directories can go.
        subprocess.run(["rm", "-rf", top], check=True)
    assert max(len(entry.path) for entry in seen.entries) <= MAX_PATH_BYTES
    refused = [entry for entry in seen.entries if entry.reason]
    assert [entry.reason for entry in refused] == ["INVALID_PATH"]
    assert refused[0] == seen.entries[-1]


def test_a_directory_swapped_for_a_link_never_leads_out(top: Path, tmp_path: Path) -> None:
    """TRE-28: whatever a program swaps in a loop, nothing outside is announced or sent."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"secret")
    for number in range(50):
        (top / f"d{number}").mkdir()
        (top / f"d{number}/x").write_bytes(b"inside")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(top / "d7", top / "kept")
            os.symlink(outside, top / "d7")
            os.unlink(top / "d7")
            os.rename(top / "kept", top / "d7")

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(60):
            seen = taken(top)
            assert b"secret" not in seen.content.values()
    finally:
        stop.set()
        swapping.join()


def test_open_entries_are_bounded(top: Path) -> None:
    """TRE-5: the sender waits for replies, and goes on after them."""
    for number in range(MAX_OPEN_ENTRIES + 100):
        (top / f"f{number}").touch()
    sender = sender_of(top)
    try:
        announced = 0
        while (message := sender.next()) is not None:
            assert isinstance(message, trees_pb2.TreeManifest)
            announced += len(message.entries)
        assert announced == MAX_OPEN_ENTRIES
        sender.reply(trees_pb2.TreeReply(decided_entries=10, needed=[3, 5]))
        content = sender.next()
        assert isinstance(content, trees_pb2.TreeContent)
        assert [part.entry for part in content.parts] == [3, 5]
        manifest = sender.next()
        assert isinstance(manifest, trees_pb2.TreeManifest)
        assert len(manifest.entries) == 10
    finally:
        sender.close()


@pytest.mark.parametrize(
    ("reply", "field"),
    [
        (trees_pb2.TreeReply(decided_entries=4), "reply.decided_entries"),
        (trees_pb2.TreeReply(decided_entries=0, needed=[1]), "reply.needed"),
        (trees_pb2.TreeReply(decided_entries=3, needed=[0]), "reply.needed"),
        (trees_pb2.TreeReply(decided_entries=3, needed=[1, 1]), "reply.needed"),
        (trees_pb2.TreeReply(decided_entries=3, needed=[3]), "reply.needed"),
        (trees_pb2.TreeReply(decided_entries=3, changed=[3]), "reply.changed"),
        (trees_pb2.TreeReply(problems=[trees_pb2.TreeProblem(entry=9)]), "reply.problems"),
    ],
    ids=str,
)
def test_replies_that_lie(top: Path, reply: trees_pb2.TreeReply, field: str) -> None:
    """TRE-6, TRE-30, TRE-31."""
    (top / "a").touch()
    (top / "b").touch()
    sender = sender_of(top)
    try:
        assert isinstance(sender.next(), trees_pb2.TreeManifest)
        with pytest.raises(TransferError) as raised:
            sender.reply(reply)
        assert raised.value.field_violations[0].field == field
    finally:
        sender.close()


def test_decided_entries_never_fall(top: Path) -> None:
    """TRE-30."""
    sender = sender_of(top)
    try:
        sender.next()
        sender.reply(trees_pb2.TreeReply(decided_entries=1))
        with pytest.raises(TransferError):
            sender.reply(trees_pb2.TreeReply(decided_entries=0))
    finally:
        sender.close()


def test_digests_of_entries(top: Path) -> None:
    """TRE-8."""
    (top / "x").write_bytes(b"content")
    (top / "big").write_bytes(bytes(3 * MIB))
    seen = Taker(sender_of(top, compare_content=True), lambda _: False).run()
    for path in (b"x", b"big"):
        hasher = HASHERS[DigestAlgorithm.BLAKE3]()
        hasher.update((top / os.fsdecode(path)).read_bytes())
        assert seen.by_path[path].digest == hasher.digest()


class Guarding:
    """Refuses a directory, a name and a file."""

    def __init__(self, directory: int, file: int) -> None:
        self._directory, self._file = directory, file

    def directory(self, status: os.stat_result) -> str | None:
        return "guarded" if status.st_ino == self._directory else None

    def names_in(self, status: os.stat_result) -> object:
        return (b"token",) if status.st_ino else None

    def named(self, names: object, name: bytes) -> str | None:
        return "guarded" if isinstance(names, tuple) and name in names else None

    def file(self, status: os.stat_result) -> str | None:
        return "guarded" if status.st_ino == self._file else None


def test_guarded_places(top: Path) -> None:
    """TRE-25: they are announced with PATH_FORBIDDEN, without anything in them."""
    (top / "state").mkdir()
    (top / "state/x").touch()
    (top / "token").touch()
    (top / "journal").touch()
    guard = Guarding((top / "state").stat().st_ino, (top / "journal").stat().st_ino)
    seen = taken(top, guard=guard)
    assert {entry.path: entry.reason for entry in seen.entries[1:]} == dict.fromkeys(
        (b"state", b"token", b"journal"), "PATH_FORBIDDEN"
    )
    assert not seen.content


@pytest.mark.parametrize("openat2", [True, False])
def test_no_descriptor_is_left(top: Path, openat2: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Also where a sender is closed in the middle, and without openat2."""

    class Older(FileSystem):
        def openat2(self, dir_fd: int, path: bytes, flags: int, resolve: int) -> int:
            if not openat2:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            return super().openat2(dir_fd, path, flags, resolve)

    for number in range(3):
        (top / f"d{number}/e").mkdir(parents=True)
        (top / f"d{number}/e/x").write_bytes(bytes(2 * MIB))
    before = len(os.listdir("/proc/self/fd"))
    assert len(taken(top, fs=Older()).content) == 3
    sender = sender_of(top, fs=Older())
    taker = Taker(sender)
    taker.take(sender.next())
    taker.take(sender.next())
    sender.close()
    sender.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_memory_does_not_grow_with_the_entries(top: Path) -> None:
    """TRE-58: a flat directory and a wide tree."""
    peaks = list[int]()
    for count in (500, 5000):
        directory = top / str(count)
        directory.mkdir()
        for number in range(count):
            (directory / f"f{number}").touch()
        sender = sender_of(directory)
        announced = 0
        tracemalloc.start()
        try:
            while not isinstance(message := sender.next(), trees_pb2.TreeEnd):
                assert isinstance(message, trees_pb2.TreeManifest)
                announced += len(message.entries)
                sender.reply(trees_pb2.TreeReply(decided_entries=announced))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
            sender.close()
    assert peaks[1] < peaks[0] + MIB
