"""TreeReceiver: what the vectors do not have: options, archives' order, guarded places, numbers, notes (TRE-4 to TRE-59)."""

from __future__ import annotations

import os
import stat
import tracemalloc
from pathlib import Path

import pytest
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.receiver import ReceiveOptions
from openshell_files_disk.trees.receiving import completion, links
from openshell_files_disk.trees.receiving.names import Names, folded
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import trees_pb2
from openshell_files_protocol.reasons import Reason
from tree_receiving import SECOND, TIME, Entry, Receiving, directory, file, hard_link, link, part, receiving


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Return an empty top directory."""
    (tmp_path / "top").mkdir()
    return tmp_path / "top"


def refused(receiver: Receiving, *entries: Entry) -> TransferError:
    with pytest.raises(TransferError) as caught:
        receiver.entries(*entries)
    return caught.value


# Names


def test_a_set_of_many_names() -> None:
    names = Names()
    many = [b"%d" % number for number in range(20_000)]
    assert all(names.add(name) for name in many)
    assert not any(names.add(name) for name in many)
    assert all(name in names for name in many)
    assert not any(b"x" + name in names for name in many)


def test_many_names_take_little_memory() -> None:
    """TRE-58: about 8 bytes each."""
    tracemalloc.start()
    try:
        names = Names()
        for number in range(200_000):
            names.add(b"a-name-of-some-length-%d" % number)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 3 * MIB


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b"README", b"readme", True),
        ("\u00c9".encode(), "e\u0301".encode(), True),
        ("stra\u00dfe".encode(), b"STRASSE", True),
        (b"\xff", b"\xfe", False),
        (b"a", b"b", False),
    ],
)
def test_names_that_fold_to_one(one: bytes, other: bytes, *, same: bool) -> None:
    assert (folded(one) == folded(other)) is same


def test_names_that_fold_to_one_in_a_directory_that_is_cleared(top: Path) -> None:
    """TRE-22, TRE-50: what is there under the other case is the announced entry."""
    (top / "readme").write_bytes(b"x")
    with receiving(top.parent, folds=True, delete_others=True) as receiver:
        receiver.entries(directory(), file(b"README", b"y"))
        assert receiver.content(part(1, b"y")).problems == {}
        assert receiver.finish().deleted == []


# Numbers


def test_a_directory_in_the_middle_of_a_manifest_that_has_one_entry_too_many(top: Path) -> None:
    """TRE-36: the error has the limit."""
    with receiving(top.parent, max_entries=2) as receiver:
        error = refused(receiver, directory(), link(b"a", b"x"), link(b"b", b"x"))
    assert (error.reason, error.metadata) == (Reason.TREE_TOO_LARGE, {"max_entries": "2"})


def test_directories_that_wait_for_content_are_counted(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRE-58: a sender cannot have any number of complete directories kept."""
    monkeypatch.setattr(completion, "_MOST_WAITING", 3)
    with receiving(top.parent) as receiver:
        receiver.entries(directory())
        for number in range(3):
            receiver.entries(directory(b"d%d" % number), file(b"d%d/f" % number, b"x"))
        # Content makes room.
        receiver.content(part(2, b"x"), part(4, b"x"))
        receiver.entries(directory(b"d3"), file(b"d3/f"), directory(b"d4"), file(b"d4/f"))
        error = refused(receiver, directory(b"d5"), file(b"d5/f"), directory(b"d6"))
    assert error.reason is Reason.TREE_TOO_LARGE


def test_hard_links_that_wait_are_counted(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRE-58."""
    monkeypatch.setattr(links, "_MOST_WAITING", 2)
    with receiving(top.parent) as receiver:
        receiver.entries(directory(), file(b"a", b"x"), hard_link(b"b", b"a"), hard_link(b"c", b"a"))
        assert refused(receiver, hard_link(b"d", b"a")).reason is Reason.TREE_TOO_LARGE


def test_memory_does_not_grow_with_the_entries(top: Path) -> None:
    """TRE-58: unchanged and new files in a flat directory, links, directories and problems."""
    block = 1000

    def batch(start: int) -> trees_pb2.TreeManifest:
        made = [
            [
                link(b"l%d" % n, b"x"),
                directory(b"d%d" % n),
                file(b"d%d/.openshell-upload-1" % n),
                file(b"e%d" % n, excluded=True),
            ]
            for n in range(start, start + block // 4)
        ]
        return trees_pb2.TreeManifest(entries=[entry for entries in made for entry in entries])

    with receiving(top.parent, dry_run=True) as receiver:
        receiver.entries(directory())
        receiver.receiver.take(batch(0))
        tracemalloc.start()
        try:
            for start in range(block, 10 * block, block // 4):
                receiver.receiver.take(batch(start))
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # 36 000 entries.
    assert kept < 2 * MIB


# Content


def test_content_in_small_parts_and_holes(top: Path) -> None:
    content = b"ab" + bytes(5 * MIB) + b"cd" + bytes(7)
    with receiving(top.parent) as receiver:
        receiver.entries(directory(), file(b"f", content))
        end = {"last": False, "digest": b""}
        receiver.content(part(1, b"a", **end), part(1, b"b", offset=1, hole_bytes=5 * MIB, **end))
        receiver.content(part(1, b"c", offset=2 + 5 * MIB, **end))
        said = receiver.content(
            part(1, b"d", offset=3 + 5 * MIB, hole_bytes=7, digest=part(1, content).digest)
        )
        assert 1 in said.changed
        receiver.finish()
    assert (top / "f").read_bytes() == content
    assert (top / "f").stat().st_blocks * 512 < MIB


def test_the_old_file_stays_until_the_new_one_is_whole(top: Path) -> None:
    """TRE-45: the staged content is below the staging directory, which nobody else may read."""
    (top / "f").write_bytes(b"old")
    with receiving(top.parent) as receiver:
        receiver.entries(directory(), file(b"f", b"newer", mode=0o666))
        receiver.content(part(1, b"new", last=False, digest=b""))
        assert (top / "f").read_bytes() == b"old"
        (staging,) = (path for path in top.iterdir() if path.name != "f")
        assert stat.S_IMODE(staging.stat().st_mode) == 0o700
        assert stat.S_IMODE((staging / "1").stat().st_mode) & 0o077 == 0
        receiver.content(part(1, b"er", offset=3, digest=part(1, b"newer").digest))
        assert (top / "f").read_bytes() == b"newer"
        receiver.finish()
    assert os.listdir(top) == ["f"]


def test_what_is_dropped_does_not_stay_staged(top: Path) -> None:
    """TRE-34, TRE-42."""
    with receiving(top.parent) as receiver:
        receiver.entries(directory(), file(b"f", b"abc"), file(b"g", b"abc"), file(b"h", b"abc"))
        receiver.content(
            part(1, b"abc", digest=bytes(32)),
            part(2, b"ab", last=False, digest=b""),
            trees_pb2.TreePart(entry=2, offset=2, reason="FILE_CHANGED", message="changed"),
            part(3, b"a", digest=part(3, b"a").digest),
        )
        (staging,) = top.iterdir()
        assert os.listdir(staging) == []
        said = receiver.finish()
    assert said.problems == {1: "DIGEST_MISMATCH", 2: "FILE_CHANGED", 3: "SIZE_MISMATCH"}
    assert said.messages[2] == "changed"
    assert os.listdir(top) == []


@pytest.mark.parametrize("algorithm", list(DigestAlgorithm))
def test_digests_of_both_algorithms(top: Path, algorithm: DigestAlgorithm) -> None:
    with receiving(top.parent, algorithm=algorithm) as receiver:
        receiver.entries(directory(), file(b"f", b"abc"))
        said = receiver.content(part(1, b"abc"))
    assert bool(said.problems) is (algorithm is not DigestAlgorithm.SHA256)


# Modes and times


def test_times_that_no_file_system_has_are_cut_off(top: Path) -> None:
    """Docs/adr/0032: the file arrives."""
    with receiving(top.parent) as receiver:
        receiver.entries(
            directory(modified_seconds=-(2**63)),
            file(b"f", modified_seconds=2**63 - 1, modified_nanos=999_999_999),
            link(b"l", b"x", modified_seconds=2**62),
            directory(b"d", modified_seconds=2**62),
        )
        receiver.content(part(1, b""))
        assert receiver.finish().problems == {}
    assert sorted(os.listdir(top)) == ["d", "f", "l"]


def test_special_bits_of_a_directory_that_exists_stay(top: Path) -> None:
    (top / "d").mkdir()
    os.chmod(top / "d", 0o2755)
    with receiving(top.parent) as receiver:
        receiver.entries(directory(), directory(b"d", mode=0o700))
        receiver.finish()
    assert stat.S_IMODE((top / "d").stat().st_mode) == 0o2700


def test_a_directory_has_its_time_after_late_content(top: Path) -> None:
    """TRE-47: content of a directory that was left, and the staging directory, do not change the time."""
    with receiving(top.parent) as receiver:
        receiver.entries(
            directory(), directory(b"d"), file(b"d/f", b"abc"), directory(b"e"), link(b"e/l", b"x")
        )
        receiver.content(part(2, b"abc"))
        receiver.finish()
    assert {path.stat().st_mtime_ns for path in (top, top / "d", top / "e")} == {TIME}


def test_a_directory_has_its_mode_after_late_content(top: Path) -> None:
    """TRE-47: a directory without permission to write has none until all of its content is in place."""
    with receiving(top.parent) as receiver:
        receiver.entries(
            directory(), directory(b"d", mode=0o500), file(b"d/f", b"abc"), directory(b"e", mode=0o500)
        )
        receiver.entries(link(b"l", b"x"))
        modes = {name: stat.S_IMODE((top / name).stat().st_mode) for name in ("d", "e")}
        assert modes == {"d": 0o700, "e": 0o500}
        receiver.content(part(2, b"abc"))
        assert stat.S_IMODE((top / "d").stat().st_mode) == 0o500


@pytest.mark.parametrize("below", [b"", b"d/"])
def test_a_hard_link_to_a_file_that_is_still_the_old_one(top: Path, below: bytes) -> None:
    """TRE-35: its content is not what the sender's file has, whether the link came before or after that was known."""
    (top / "d").mkdir()
    (top / os.fsdecode(below + b"f")).write_bytes(b"old")
    with receiving(top.parent) as receiver:
        receiver.entries(
            directory(),
            directory(b"d"),
            file(b"d/f", b"abc"),
            file(b"f", b"abc"),
            hard_link(b"h", below + b"f"),
        )
        receiver.content(part(2, b"abc", digest=bytes(32)), part(3, b"abc", digest=bytes(32)))
        receiver.entries(hard_link(b"i", below + b"f"))
        said = receiver.finish()
    assert said.problems == {
        2: "DIGEST_MISMATCH",
        3: "DIGEST_MISMATCH",
        4: "FILE_NOT_FOUND",
        5: "FILE_NOT_FOUND",
    }
    assert not (top / "h").exists()


# Guarded places


class Guard:
    """Refuses the directory `forbidden`, the inode of `secret`, and the name `token` in `private`."""

    def __init__(self, top: Path) -> None:
        self.forbidden = self.of(top / "forbidden")
        self.secret = self.of(top / "secret")
        self.private = self.of(top / "private")

    @staticmethod
    def of(path: Path) -> tuple[int, int]:
        status = path.stat()
        return status.st_dev, status.st_ino

    def directory(self, status: os.stat_result) -> str | None:
        return "forbidden" if (status.st_dev, status.st_ino) == self.forbidden else None

    def names_in(self, status: os.stat_result) -> object:
        return b"token" if (status.st_dev, status.st_ino) == self.private else None

    def named(self, names: object, name: bytes) -> str | None:
        return "private name" if name == names else None

    def file(self, status: os.stat_result) -> str | None:
        return "secret" if (status.st_dev, status.st_ino) == self.secret else None


@pytest.fixture
def guarded(top: Path) -> Guard:
    for name in ("forbidden", "private", "others"):
        (top / name).mkdir()
    (top / "forbidden/f").write_bytes(b"f")
    (top / "secret").write_bytes(b"secret")
    os.link(top / "secret", top / "others/second")
    (top / "others/x").write_bytes(b"x")
    return Guard(top)


def test_guarded_places_are_problems_and_stay(top: Path, guarded: Guard) -> None:
    """TRE-49."""
    with receiving(top.parent, guard=guarded) as receiver:
        receiver.entries(
            directory(),
            file(b"secret", b"new"),
            directory(b"forbidden"),
            file(b"forbidden/f", b"new"),
            directory(b"private"),
            file(b"private/token", b"new"),
            file(b"private/other", b"new"),
            directory(b"others"),
            link(b"others/second", b"x"),
        )
        receiver.content(part(6, b"new"))
        said = receiver.finish()
    assert said.problems == {
        1: "PATH_FORBIDDEN",
        2: "PATH_FORBIDDEN",
        3: "PARENT_NOT_FOUND",
        5: "PATH_FORBIDDEN",
        8: "PATH_FORBIDDEN",
    }
    assert (top / "secret").read_bytes() == b"secret"
    assert (top / "others/second").read_bytes() == b"secret"
    assert os.listdir(top / "private") == ["other"]
    assert (top / "forbidden/f").read_bytes() == b"f"


def test_guarded_places_are_not_deleted(top: Path, guarded: Guard) -> None:
    """TRE-50: also not those below a directory that the tree does not have."""
    (top / "deep/er").mkdir(parents=True)
    (top / "deep/er/x").write_bytes(b"x")
    (top / "forbidden").rename(top / "deep/er/forbidden")
    (top / "private/token").write_bytes(b"token")
    with receiving(top.parent, guard=guarded, delete_others=True) as receiver:
        receiver.entries(directory())
        said = receiver.finish()
    assert said.problems == {}
    assert sorted(path.relative_to(top).as_posix() for path in top.rglob("*")) == [
        "deep",
        "deep/er",
        "deep/er/forbidden",
        "deep/er/forbidden/f",
        "others",
        "others/second",
        "private",
        "private/token",
        "secret",
    ]
    assert said.deleted == []
    assert receiver.receiver.deleted_entries == 2


@pytest.mark.parametrize("first", [b"secret", b"private/token", b"forbidden/f", b"others/second"])
def test_no_hard_link_to_a_guarded_file_is_made(top: Path, guarded: Guard, first: bytes) -> None:
    (top / "private/token").write_bytes(b"token")
    with receiving(top.parent, guard=guarded, ordered=False) as receiver:
        receiver.entries(hard_link(b"new", first))
        said = receiver.finish()
    assert said.problems == {0: "PATH_FORBIDDEN"}
    assert not (top / "new").exists()


def test_a_guarded_top_directory(top: Path, guarded: Guard) -> None:
    guarded.forbidden = guarded.of(top)
    with receiving(top.parent, guard=guarded) as receiver:
        assert refused(receiver, directory()).reason is Reason.PATH_FORBIDDEN


# Archives: any order


def test_any_order(top: Path) -> None:
    """ARC-5: parents are made; a directory comes after its content, and again; a later entry replaces."""
    with receiving(top.parent, ordered=False, umask=0o027) as receiver:
        receiver.entries(
            file(b"a/b/f", b"1", mode=0o600),
            link(b"c/l", b"x"),
            directory(b"a", mode=0o711),
            file(b"a/b/g", b"2"),
            directory(b"c", mode=0o555),
        )
        receiver.content(part(0, b"1"), part(3, b"2"))
        receiver.entries(file(b"c/m", b"3"), hard_link(b"n", b"a/b/f"), file(b"a/b/g", b"newer"))
        receiver.content(part(5, b"3"), part(7, b"newer"))
        said = receiver.finish()
    assert said.problems == {}
    assert (top / "a/b/g").read_bytes() == b"newer"
    assert (top / "n").samefile(top / "a/b/f")
    modes = {path: stat.S_IMODE((top / path).stat().st_mode) for path in ("a", "a/b", "c")}
    assert modes == {"a": 0o711, "a/b": 0o750, "c": 0o555}
    assert {(top / path).stat().st_mtime_ns for path in ("a", "c")} == {TIME}
    assert not (TIME - SECOND < (top / "a/b").stat().st_mtime_ns < TIME + SECOND)


def test_any_order_into_a_missing_directory(tmp_path: Path) -> None:
    with receiving(tmp_path, ordered=False, umask=0o022) as receiver:
        receiver.entries(file(b"f", b"1"))
        receiver.content(part(0, b"1"))
        receiver.entries(directory(b"", mode=0o700))
        receiver.finish()
        assert receiver.receiver.created
    assert stat.S_IMODE((tmp_path / "top").stat().st_mode) == 0o700


def test_an_archive_through_its_own_link(tmp_path: Path, top: Path) -> None:
    """ARC-5: the parent of an entry is never a link, also not one of the archive."""
    (tmp_path / "outside").mkdir()
    with receiving(tmp_path, ordered=False) as receiver:
        receiver.entries(
            link(b"l", b"../outside"), file(b"l/f", b"1"), file(b"l/d/f", b"1"), hard_link(b"h", b"l/f")
        )
        said = receiver.finish()
    assert said.problems == {1: "PARENT_NOT_FOUND", 2: "PARENT_NOT_FOUND", 3: "FILE_NOT_FOUND"}
    assert os.listdir(tmp_path / "outside") == []
    assert os.listdir(top) == ["l"]


def test_a_file_that_is_replaced_before_its_content_came(top: Path) -> None:
    with receiving(top.parent, ordered=False) as receiver:
        receiver.entries(file(b"f", b"1"), hard_link(b"h", b"f"), file(b"g", b"2"), link(b"f", b"x"))
        receiver.content(part(0, b"1"), part(2, b"2"))
        said = receiver.finish()
    assert os.readlink(top / "f") == "x"
    assert said.problems == {1: "FILE_NOT_FOUND"}
    assert 0 not in said.changed


def test_others_are_not_deleted_in_any_order() -> None:
    with pytest.raises(ValueError, match="delete_others"):
        ReceiveOptions(delete_others=True, ordered=False)


# Staging


def test_notes_of_the_staging_directory(tmp_path: Path) -> None:
    """TRE-57: the note is made before the directory, and dropped after it."""
    noted: list[tuple[str, bytes, bytes, bool]] = []

    def exists(parent: bytes, name: bytes) -> bool:
        return os.path.exists(os.path.join(parent, name))

    def note(parent: bytes, name: bytes) -> None:
        noted.append(("note", parent, name, exists(parent, name)))

    def forget(parent: bytes, name: bytes) -> None:
        noted.append(("forget", parent, name, exists(parent, name)))

    for atomic, parent in ((False, tmp_path / "top"), (True, tmp_path)):
        noted.clear()
        with receiving(tmp_path, atomic=atomic, note=note, forget=forget) as receiver:
            receiver.entries(directory())
            (_, path, name, _), *_ = noted
            assert exists(path, name)
            receiver.finish()
        assert noted == [
            ("note", os.fsencode(parent), name, False),
            ("forget", os.fsencode(parent), name, False),
        ]
        (tmp_path / "top").rmdir()


def test_what_a_killed_transfer_left_is_removed(top: Path) -> None:
    """TRE-57: what another transfer uses, and what is no staging directory of a tree, stays."""
    with receiving(top.parent) as other:
        other.entries(directory(), file(b"f", b"abc"))
        other.content(part(1, b"a", last=False, digest=b""))
        (used,) = top.iterdir()
        stale = top / f".openshell-upload-tree-{'0' * 32}"
        (stale / "top/d").mkdir(parents=True)
        (stale / "7").write_bytes(b"x")
        kept = [top / ".openshell-upload-tree-1", top / f".openshell-upload-{'0' * 32}"]
        for path in kept:
            path.mkdir()
        with receiving(top.parent, delete_others=True) as receiver:
            receiver.entries(directory())
            assert not stale.exists()
            assert receiver.finish().deleted == []
        assert all(path.exists() for path in (used, *kept))
        other.content(part(1, b"bc", offset=1, digest=part(1, b"abc").digest))
        assert other.finish().problems == {}
    assert (top / "f").read_bytes() == b"abc"


@pytest.mark.parametrize("end", ["close", "violation", "stopped"])
def test_nothing_staged_is_left(top: Path, end: str) -> None:
    """TRE-54, TRE-56."""

    class StoppedError(Exception):
        pass

    def check() -> None:
        raise StoppedError

    with receiving(top.parent, check=check) as receiver:
        receiver.entries(directory(), file(b"f", bytes(2 * MIB)))
        receiver.content(part(1, b"a", last=False, digest=b""))
        if end == "violation":
            refused(receiver, file(b"../x"))
        if end == "stopped":
            with pytest.raises(StoppedError):
                receiver.content(part(1, b"", offset=1, hole_bytes=MIB, last=False, digest=b""))
    assert os.listdir(top) == []


def test_a_published_tree_without_permission_for_its_owner(tmp_path: Path) -> None:
    """TRE-12: the top directory is named as changed when it is published."""
    with receiving(tmp_path, atomic=True, fsync=True) as receiver:
        assert receiver.entries(directory(mode=0), link(b"l", b"x")).changed == [1]
        assert not (tmp_path / "top").exists()
        assert receiver.finish().changed == [1, 0]
        assert receiver.receiver.durable
    assert stat.S_IMODE((tmp_path / "top").stat().st_mode) == 0
    assert (tmp_path / "top").stat().st_mtime_ns == TIME


def test_a_place_that_another_program_takes_before_the_tree_is_published(tmp_path: Path) -> None:
    """TRE-12."""
    with receiving(tmp_path, atomic=True) as receiver:
        receiver.entries(directory(), link(b"l", b"x"))
        (tmp_path / "top").mkdir()
        with pytest.raises(TransferError) as caught:
            receiver.finish()
    assert caught.value.reason is Reason.FILE_EXISTS
    assert os.listdir(tmp_path / "top") == []
    assert os.listdir(tmp_path) == ["top"]


def test_trace_points(tmp_path: Path) -> None:
    points: list[str] = []
    with receiving(tmp_path, trace=points.append) as receiver:
        receiver.entries(directory(), file(b"f", b"1"), link(b"l", b"x"))
        receiver.content(part(1, b"1"))
        receiver.finish()
    assert points == [
        "tree.started",
        "tree.entry_placed",
        "tree.entry_placed",
        "tree.ending",
        "tree.published",
    ]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_top_directory_that_is_none(tmp_path: Path, kind: str) -> None:
    """TRE-18: refused before an entry is taken."""
    if kind == "file":
        (tmp_path / "top").write_bytes(b"x")
    else:
        (tmp_path / "top").symlink_to("/")
    with pytest.raises(TransferError) as caught:
        Receiving(tmp_path)
    assert caught.value.reason is (Reason.NOT_A_DIRECTORY if kind == "file" else Reason.LEAF_IS_LINK)


def test_descriptors_are_closed(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for atomic in (True, False):
        with receiving(tmp_path, atomic=atomic) as receiver:
            receiver.entries(directory(), directory(b"d"), file(b"d/f", b"abc"), link(b"l", b"x"))
            receiver.content(part(2, b"a", last=False, digest=b""))
        assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_second_close_does_nothing(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        receiver.entries(directory())
        receiver.receiver.close()
        with pytest.raises(TransferError):
            receiver.entries(link(b"l", b"x"))


@pytest.fixture
def deep(top: Path) -> Path:
    """Return a directory with 3000 directories below each other."""
    fs = FileSystem()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        fs.mkdir(b"d" * 100, fd)
        below = os.open(b"d" * 100, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    return top


def test_a_deep_directory_is_deleted(deep: Path) -> None:
    """TRE-14: no path and no number of descriptors limits the depth."""
    with receiving(deep.parent, delete_others=True) as receiver:
        receiver.entries(directory())
        said = receiver.finish()
    assert said.deleted == [b"d" * 100]
    assert receiver.receiver.deleted_entries == 3000
    assert os.listdir(deep) == []
