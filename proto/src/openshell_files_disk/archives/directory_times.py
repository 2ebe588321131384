"""Directories of an archive whose times change after they were set, because members come in any order (ARC-7)."""

from __future__ import annotations

from collections.abc import Iterator

from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2


class DirectoryTimes:
    """Remembers the directories of an archive, and which have to be set again at its end.

    A receiver sets a directory when it leaves it. An archive may come back later, and the entry that
    it puts there changes the directory's time. It takes memory for each directory of the archive.
    """

    def __init__(self) -> None:
        self._entries: dict[bytes, trees_pb2.TreeEntry] = {}
        self._disturbed: set[bytes] = set()
        self._before = b""

    def note(self, entry: trees_pb2.TreeEntry) -> None:
        """Note an entry that was announced."""
        parent = entry.path.rpartition(b"/")[0]
        if entry.path and parent in self._entries and not _is_within(self._before, parent):
            self._disturbed.add(parent)
        self._before = entry.path
        if entry.type == files_pb2.FILE_TYPE_DIRECTORY:
            self._entries[entry.path] = entry
        else:
            # A directory that was replaced is none any more.
            self._entries.pop(entry.path, None)

    def disturbed(self) -> Iterator[trees_pb2.TreeEntry]:
        """Yield the directories that have to be set again, each before those above it."""
        for path in sorted(self._disturbed & self._entries.keys(), reverse=True):
            yield self._entries[path]


def _is_within(path: bytes, directory: bytes) -> bool:
    return not directory or path == directory or path.startswith(directory + b"/")
