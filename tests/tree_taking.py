"""A fake receiver of trees for tests of TreeSender, and short ways to one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.selection import Selection
from openshell_files_disk.trees.sender import TreeSender
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.limits import MAX_MANIFEST_ENTRIES
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2

Entry = trees_pb2.TreeEntry


class Taker:
    """A receiver that needs the content of what `wants` says, and keeps everything that it gets."""

    def __init__(self, sender: TreeSender, wants: Callable[[Entry], bool] = lambda _: True) -> None:
        self.sender = sender
        self.wants = wants
        self.entries: list[Entry] = []
        self.content: dict[bytes, bytes] = {}
        self.digests: dict[bytes, bytes] = {}
        self.failed: dict[bytes, str] = {}
        self.holes = 0
        self.largest = 0
        self.end: trees_pb2.TreeEnd | None = None

    def run(self) -> Taker:
        """Take everything."""
        try:
            while self.end is None:
                self.take(self.sender.next())
        finally:
            self.sender.close()
        return self

    def take(
        self, message: trees_pb2.TreeManifest | trees_pb2.TreeContent | trees_pb2.TreeEnd | None
    ) -> None:
        assert message is not None, "the sender waits, and nothing is open"
        self.largest = max(self.largest, message.ByteSize())
        match message:
            case trees_pb2.TreeManifest():
                assert len(message.entries) <= MAX_MANIFEST_ENTRIES
                first = len(self.entries)
                self.entries += message.entries
                needed = [
                    number
                    for number, entry in enumerate(message.entries, first)
                    if has_content(entry) and self.wants(entry)
                ]
                self.sender.reply(trees_pb2.TreeReply(decided_entries=len(self.entries), needed=needed))
            case trees_pb2.TreeContent():
                for part in message.parts:
                    self._part(part)
            case trees_pb2.TreeEnd():
                self.end = message

    def _part(self, part: trees_pb2.TreePart) -> None:
        path = self.entries[part.entry].path
        if part.reason:
            self.failed[path] = part.reason
            return
        before = self.content.get(path, b"")
        assert part.offset == len(before)
        self.content[path] = before + part.data + bytes(part.hole_bytes)
        self.holes += part.hole_bytes
        if part.last:
            self.digests[path] = part.digest

    @property
    def by_path(self) -> dict[bytes, Entry]:
        """The entries by their paths, which are unique (TRE-22)."""
        found = {entry.path: entry for entry in self.entries}
        assert len(found) == len(self.entries)
        return found


def has_content(entry: Entry) -> bool:
    return (
        entry.type == files_pb2.FILE_TYPE_REGULAR
        and not entry.hard_link
        and not entry.reason
        and not entry.excluded
    )


def sender_of(
    top: Path, selection: Selection | None = None, fs: FileSystem | None = None, **options: object
) -> TreeSender:
    return TreeSender(
        fs or FileSystem(),
        os.open(top, os.O_RDONLY | os.O_DIRECTORY),
        selection or Selection(),
        shown=str(top),
        algorithm=DigestAlgorithm.BLAKE3,
        **options,  # type: ignore[arg-type]
    )


def taken(
    top: Path, selection: Selection | None = None, fs: FileSystem | None = None, **options: object
) -> Taker:
    return Taker(sender_of(top, selection, fs, **options)).run()
