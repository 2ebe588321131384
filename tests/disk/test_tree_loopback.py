"""A tree goes from `TreeSender` to `TreeReceiver`, and arrives as it was."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openshell_files_protocol.limits import MAX_MESSAGE_BYTES, MIB, STAGING_PREFIX
from tree_receiving import SECOND, TIME, Transfer, loop, tree_of


def is_usable(name: bytes) -> bool:
    """Return whether an entry of a tree may have a name."""
    return not {0, 47} & set(name) and name not in {b".", b".."} and not name.startswith(STAGING_PREFIX)


names = st.one_of(
    st.sampled_from(
        [b"a", b"b", b"A", b".x", b"...", b" ", b"\xff", b"\n", "\u00e9".encode(), "e\u0301".encode()]
    ),
    st.binary(min_size=1, max_size=20).filter(is_usable),
    st.just(b"n" * 255),
)
modes = st.integers(0, 0o777)
times = st.integers(0, 4 * 10**9 * SECOND).map(lambda ns: ns - 10**9 * SECOND)
#: Data and holes, alternately.
contents = st.one_of(
    st.binary(max_size=200).map(lambda data: [(data, 0)]),
    st.lists(st.tuples(st.binary(max_size=5000), st.integers(0, 300_000)), max_size=3),
)
files = st.tuples(st.just("file"), contents, modes, times)
links = st.tuples(st.just("link"), st.sampled_from([b"a", b"/etc/passwd", b"../../x", b"\xff"]), times)
hard_links = st.tuples(st.just("hard_link"), st.integers(0, 10))
trees: st.SearchStrategy[Any] = st.recursive(
    st.one_of(files, links, hard_links),
    lambda inner: st.tuples(st.just("directory"), st.dictionaries(names, inner, max_size=6), modes, times),
    max_leaves=25,
)
tops = st.tuples(st.just("directory"), st.dictionaries(names, trees, max_size=6), modes, times)


@contextmanager
def scratch() -> Generator[Path]:
    """Yield a directory; a fixture would be one for all examples."""
    place = Path(tempfile.mkdtemp(prefix="trees-"))
    try:
        yield place
    finally:
        shutil.rmtree(place)


def make(path: bytes, tree: Any, made: list[bytes]) -> None:
    """Make a generated tree."""
    kind: str = tree[0]
    value: Any = tree[1]
    rest: list[Any] = list(tree[2:])
    if kind == "directory":
        os.mkdir(path)
        for name, below in value.items():
            make(os.path.join(path, name), below, made)
        mode, time = rest
        os.chmod(path, mode | 0o500 if os.geteuid() else mode)
    elif kind == "file":
        mode, time = rest
        with open(path, "wb") as file:
            for data, hole in value:
                file.write(data)
                file.seek(hole, os.SEEK_CUR)
            file.truncate()
        os.chmod(path, mode | 0o400 if os.geteuid() else mode)
        made.append(path)
    elif kind == "link":
        os.symlink(value, path)
        time = rest[0]
    elif made:
        first: bytes = made[int(value) % len(made)]
        os.link(first, path)
        return
    else:
        return
    os.utime(path, ns=(time, time), follow_symlinks=False)


@given(tree=tops, lag=st.integers(0, 3), atomic=st.booleans())
@settings(max_examples=120, deadline=None)
def test_a_tree_arrives_as_it_is_and_a_second_time_nothing_is_sent(
    tree: Any, lag: int, *, atomic: bool
) -> None:
    """TRE-7, TRE-45, TRE-47."""
    with scratch() as place:
        source = place / "source"
        make(os.fsencode(source), tree, [])
        wanted = tree_of(source)
        first = loop(source, place, lag=lag, atomic=atomic)
        assert first.said.problems == {}
        assert tree_of(place / "top") == wanted
        assert sorted(first.said.changed) == list(range(len(first.paths)))
        assert os.listdir(place).count("top") == len(os.listdir(place)) - 1
        for delete_others in (False, True):
            again = loop(source, place, lag=lag, delete_others=delete_others)
            assert (again.content_bytes, again.said.needed, again.said.changed) == (0, [], [])
            assert again.said.problems == {}
            assert tree_of(place / "top") == wanted
        by_content = loop(source, place, sending={"compare_content": True}, compare_content=True)
        assert (by_content.said.needed, by_content.said.changed) == ([], [])


@given(before=tops, after=tops)
@settings(max_examples=120, deadline=None)
def test_with_delete_others_any_tree_becomes_any_other(before: Any, after: Any) -> None:
    """TRE-14, TRE-51. A dry run before says what will change, and changes nothing."""
    with scratch() as place:
        make(os.fsencode(place / "source"), after, [])
        make(os.fsencode(place / "top"), before, [])
        there = tree_of(place / "top")
        planned = loop(place / "source", place, delete_others=True, dry_run=True)
        assert tree_of(place / "top") == there
        assert planned.said.needed == []
        done = loop(place / "source", place, delete_others=True)
        assert done.said.problems == {}
        assert tree_of(place / "top") == tree_of(place / "source")
        assert sorted(planned.said.deleted) == sorted(done.said.deleted)
        paths = {planned.paths[number] for number in planned.said.changed}
        assert paths == {done.paths[number] for number in done.said.changed}


@given(before=tops, after=tops)
@settings(max_examples=60, deadline=None)
def test_without_delete_others_nothing_is_lost(before: Any, after: Any) -> None:
    """TRE-46, TRE-47: what is not in the tree stays, and what is in the way is a problem."""
    with scratch() as place:
        make(os.fsencode(place / "source"), after, [])
        make(os.fsencode(place / "top"), before, [])
        there, sent = tree_of(place / "top"), tree_of(place / "source")
        said = loop(place / "source", place)
        found = tree_of(place / "top")
        assert said.said.deleted == []
        assert there.keys() <= found.keys()
        failed = {said.paths[number] for number in said.said.problems}
        for path in sent.keys() - failed:
            assert found[path][:3] == sent[path][:3]
        for path in failed & there.keys():
            assert found[path][0] == there[path][0]


def changed(source: Path, name: str) -> None:
    path = source / name
    status = path.stat()
    path.write_bytes(b"changed")
    os.utime(path, ns=(0, status.st_mtime_ns + 1))


def test_one_changed_file_is_one_sent_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(20):
        (source / f"d{number}").mkdir(parents=True)
        for one in range(10):
            (source / f"d{number}/f{one}").write_bytes(b"%d" % one)
    first = loop(source, tmp_path)
    assert len(first.sent) == 200
    changed(source, "d7/f3")
    second = loop(source, tmp_path)
    assert second.sent == [b"d7/f3"]
    assert second.content_bytes == len(b"changed")
    assert tree_of(tmp_path / "top") == tree_of(source)


@pytest.mark.parametrize("lag", [0, 5])
def test_more_entries_than_may_be_open(tmp_path: Path, lag: int) -> None:
    """TRE-5: 20 000 small files with few replies on their way; every message fits."""
    source = tmp_path / "source"
    for number in range(20):
        (source / f"d{number}").mkdir(parents=True)
        for one in range(1000):
            (source / f"d{number}/f{one}").write_bytes(b"%d" % one)
    transfer = loop(source, tmp_path, lag=lag)
    assert len(transfer.sent) == 20_000
    assert transfer.largest < MAX_MESSAGE_BYTES
    assert tree_of(tmp_path / "top") == tree_of(source)


def test_a_sparse_file_stays_sparse(tmp_path: Path) -> None:
    """TRE-43."""
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "disk", "wb") as file:
        file.write(b"begin")
        file.seek(64 * MIB)
        file.write(b"middle")
        file.truncate(256 * MIB)
    transfer = loop(source, tmp_path)
    assert transfer.content_bytes < MIB
    arrived = tmp_path / "top/disk"
    assert arrived.stat().st_blocks * 512 < 2 * MIB
    assert tree_of(tmp_path / "top") == tree_of(source)


def test_hard_links_that_wait_for_their_file(tmp_path: Path) -> None:
    """TRE-33: the first name has content of several messages, the others are announced before it has come."""
    source = tmp_path / "source"
    (source / "z/y").mkdir(parents=True)
    (source / "first").write_bytes(os.urandom(3 * MIB))
    for name in ("second", "z/third", "z/y/fourth"):
        os.link(source / "first", source / name)
    transfer: Transfer = loop(source, tmp_path)
    assert transfer.content_bytes == 3 * MIB
    assert tree_of(tmp_path / "top") == tree_of(source)
    assert (tmp_path / "top/first").stat().st_nlink == 4


def test_a_lost_transfer_goes_on_where_it_was(tmp_path: Path) -> None:
    """TRE-54, TRE-55: what arrived before the end of the stream is not sent again."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(50):
        (source / f"f{number}").write_bytes(b"%d" % number)
        os.utime(source / f"f{number}", ns=(TIME, TIME))

    class LostError(Exception):
        pass

    placed = 0

    def trace(point: str) -> None:
        nonlocal placed
        placed += point == "tree.entry_placed"
        if placed == 20:
            raise LostError

    with pytest.raises(LostError):
        loop(source, tmp_path, trace=trace)
    assert len(os.listdir(tmp_path / "top")) == 20
    again = loop(source, tmp_path)
    assert len(again.sent) == 30
    assert tree_of(tmp_path / "top") == tree_of(source)
