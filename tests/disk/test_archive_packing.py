"""The writer of archives: what tarfile and tar read of it, and files that change meanwhile."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from openshell_files_disk.archives.packing import Packing, Zeros
from openshell_files_disk.archives.tar_headers import Member
from openshell_files_disk.archives.tar_reader import TarReader
from openshell_files_disk.archives.tar_writer import END, member_header
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2

TOP = trees_pb2.TreeEntry(type=files_pb2.FILE_TYPE_DIRECTORY, mode=0o755, modified_seconds=5)
Message = trees_pb2.TreeManifest | trees_pb2.TreeContent | trees_pb2.TreeEnd | None


class Sender:
    """Says what a test gives it."""

    def __init__(self, messages: Iterable[Message]) -> None:
        self._messages = deque(messages)
        self.replies: list[trees_pb2.TreeReply] = []

    def next(self) -> Message:
        return self._messages.popleft()

    def reply(self, reply: trees_pb2.TreeReply, /) -> None:
        self.replies.append(reply)


def file(path: str | bytes, size: int = 0, **more: Any) -> trees_pb2.TreeEntry:
    name = path if isinstance(path, bytes) else path.encode()
    return trees_pb2.TreeEntry(
        path=name, type=files_pb2.FILE_TYPE_REGULAR, mode=0o644, size_bytes=size, **more
    )


def part(entry: int, data: bytes = b"", **more: Any) -> trees_pb2.TreePart:
    return trees_pb2.TreePart(entry=entry, data=data, **more)


def packed(*messages: Message) -> tuple[Packing, Sender, bytes]:
    """Return the archive of what a sender says."""
    sender = Sender([*messages, trees_pb2.TreeEnd()])
    packing = Packing(sender)
    written = bytearray()
    while not packing.complete:
        for piece in packing.read():
            written += bytes(piece.length) if isinstance(piece, Zeros) else piece
    return packing, sender, bytes(written)


def opened(archive: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(archive), mode="r:", encoding="utf-8", errors="surrogateescape")


def test_entries_in_their_order() -> None:
    """ARC-12: headers wait for the content of the file before them; only regular files need content."""
    manifest = trees_pb2.TreeManifest(
        entries=[
            TOP,
            file("a", 3),
            file("b"),
            trees_pb2.TreeEntry(path=b"l", type=files_pb2.FILE_TYPE_SYMLINK, link_target=b"../x"),
            file("h", hard_link=b"a"),
            file("left out", 7, excluded=True),
            trees_pb2.TreeEntry(path=b"d", type=files_pb2.FILE_TYPE_DIRECTORY, mode=0o700),
            file("d/c", 2),
        ]
    )
    content = trees_pb2.TreeContent(
        parts=[
            part(1, b"12"),
            part(1, b"3", offset=2, last=True),
            part(2, last=True),
            part(7, b"cc", last=True),
        ]
    )
    packing, sender, archive = packed(manifest, None, content)
    with opened(archive) as tar:
        assert [(one.name, one.type, one.linkname) for one in tar] == [
            (".", tarfile.DIRTYPE, ""),
            ("a", tarfile.REGTYPE, ""),
            ("b", tarfile.REGTYPE, ""),
            ("l", tarfile.SYMTYPE, "../x"),
            ("h", tarfile.LNKTYPE, "a"),
            ("d", tarfile.DIRTYPE, ""),
            ("d/c", tarfile.REGTYPE, ""),
        ]
        assert tar.extractfile("a").read() == b"123"  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    assert archive.endswith(END)
    assert [(reply.decided_entries, list(reply.needed)) for reply in sender.replies] == [(8, [1, 2, 7])]
    result = packing.outcome.message()
    assert (result.entries, result.placed_entries, result.files, result.content_bytes) == (7, 7, 3, 5)


@pytest.mark.parametrize(
    ("entry", "first", "second"),
    [
        (file("short", 5), part(1, b"12", last=True, reason="FILE_CHANGED", message="m"), None),
        (file("short", 5), part(1, b"12"), part(1, offset=2, last=True, reason="FILE_CHANGED", message="m")),
        (file("short", 5), part(1, b"12", last=True), None),
        (file("long", 5), part(1, b"12345"), part(1, b"678", offset=5, last=True, reason="FILE_CHANGED")),
        (file("touched", 5), part(1, b"12345", last=True, reason="FILE_CHANGED"), None),
        (file("hole", 5), part(1, hole_bytes=3), part(1, offset=3, last=True, reason="FILE_CHANGED")),
    ],
)
def test_a_file_that_changes_keeps_its_announced_size(
    entry: trees_pb2.TreeEntry, first: trees_pb2.TreePart, second: trees_pb2.TreePart | None
) -> None:
    """ARC-14: the archive can be read to its end, and the file is told."""
    parts = [first, *([] if second is None else [second]), part(2, b"after", last=True)]
    packing, _, archive = packed(
        trees_pb2.TreeManifest(entries=[TOP, entry, file("z", 5)]), trees_pb2.TreeContent(parts=parts)
    )
    with opened(archive) as tar:
        assert [(one.name, one.size) for one in tar][1:] == [(entry.path.decode(), 5), ("z", 5)]
        assert tar.extractfile("z").read() == b"after"  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    assert packing.changed == [entry.path]
    assert [(one.path, one.reason) for one in packing.outcome.listed] == [(entry.path, "FILE_CHANGED")]
    assert packing.outcome.files == 1


def test_what_cannot_be_sent_is_listed_and_has_no_member() -> None:
    """ARC-13: a file that cannot be opened, its other names, a FIFO; a directory that cannot be read is one."""
    unreadable = trees_pb2.TreeEntry(
        path=b"d", type=files_pb2.FILE_TYPE_DIRECTORY, mode=0o000, reason="ACCESS_DENIED", message="no"
    )
    pipe = trees_pb2.TreeEntry(path=b"p", type=files_pb2.FILE_TYPE_SPECIAL, reason="NOT_A_REGULAR_FILE")
    entries = [TOP, file("a", 5), file("b", hard_link=b"a"), pipe, unreadable, file("c", 1)]
    packing, _, archive = packed(
        trees_pb2.TreeManifest(entries=entries),
        trees_pb2.TreeContent(
            parts=[part(1, last=True, reason="ACCESS_DENIED", message="no"), part(5, b"c", last=True)]
        ),
    )
    with opened(archive) as tar:
        assert tar.getnames() == [".", "d", "c"]
    assert [(one.path, one.reason) for one in packing.outcome.listed] == [
        (b"a", "ACCESS_DENIED"),
        (b"b", "FILE_NOT_FOUND"),
        (b"p", "NOT_A_REGULAR_FILE"),
        (b"d", "ACCESS_DENIED"),
    ]
    assert not packing.changed
    assert packing.outcome.message().placed_entries == 2


def test_holes_are_zeros_that_take_no_memory() -> None:
    """ARC-12: a hole of 1 TiB is one piece."""
    sender = Sender(
        [
            trees_pb2.TreeManifest(entries=[TOP, file("a", 1 << 40)]),
            trees_pb2.TreeContent(parts=[part(1, hole_bytes=1 << 40, last=True)]),
        ]
    )
    packing = Packing(sender)
    packing.read()
    pieces = packing.read()
    assert Zeros(1 << 40) in pieces
    assert sum(len(piece) for piece in pieces if isinstance(piece, bytes)) < MIB


ENTRIES = [
    TOP,
    file("n" * 200, modified_seconds=1),
    file(b"\xff\xfe", modified_seconds=1, modified_nanos=5),
    file("é", modified_seconds=1 << 40, modified_nanos=999_999_999),
    file("before", modified_seconds=-2, modified_nanos=500_000_000),
    file("large", 1 << 40, modified_seconds=3),
    file("h" * 200, hard_link=b"\xff\xfe"),
    trees_pb2.TreeEntry(path=b"l\xff", type=files_pb2.FILE_TYPE_SYMLINK, link_target=b"\xfe/" + b"x" * 300),
]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda one: repr(one.path[:8]))
def test_the_reader_reads_what_the_writer_wrote(entry: trees_pb2.TreeEntry) -> None:
    """ARC-2, ARC-12: names of any bytes, times to the nanosecond, large sizes."""
    members: list[Member] = []

    class Taking:
        def member(self, member: Member) -> None:
            members.append(member)

        def content(self, data: memoryview) -> None: ...

        def member_end(self) -> None: ...

    TarReader(Taking()).feed(memoryview(member_header(entry)))
    [member] = members
    assert member.name.rstrip(b"/") == (entry.path or b".")
    assert member.size == (0 if entry.hard_link else entry.size_bytes)
    assert member.modified_ns == entry.modified_seconds * 1_000_000_000 + entry.modified_nanos
    assert member.target == (entry.hard_link or entry.link_target)
    assert member.mode == entry.mode


def test_tar_reads_names_and_times(tmp_path: Path) -> None:
    """ARC-12: with the tar of this machine."""
    archive = tmp_path / "x.tar"
    archive.write_bytes(b"".join(map(member_header, [one for one in ENTRIES if not one.size_bytes])) + END)
    (tmp_path / "out").mkdir()
    subprocess.run(
        ["tar", "--warning=no-unknown-keyword", "--warning=no-timestamp", "-xf", str(archive)],
        cwd=tmp_path / "out",
        check=True,
    )
    for entry in ENTRIES:
        # No file system stores the year 36812.
        if (
            entry.size_bytes
            or not entry.path
            or entry.hard_link
            or entry.link_target
            or entry.modified_seconds >> 34
        ):
            continue
        found = (tmp_path / "out" / os.fsdecode(entry.path)).lstat()
        assert found.st_mtime_ns == entry.modified_seconds * 1_000_000_000 + entry.modified_nanos
