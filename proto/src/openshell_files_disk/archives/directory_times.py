"""Directories of an archive that have to be set again, because members come in any order (ARC-7)."""

from __future__ import annotations

from collections.abc import Iterator

from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2


class DirectoryTimes:
    """Remembers the directories of an archive, and which have to be set again at its end.

    A receiver sets a directory when it left it and all content of it has come. A directory to which the archive
    comes back, and one that it names after something in it, is in the receiver twice: the one that is set last may
    be the one without mode and time. It takes memory for each directory of the archive.
    """

    def __init__(self) -> None:
        self._entries: dict[bytes, trees_pb2.TreeEntry] = {}
        self._disturbed: set[bytes] = set()
        #: Directories that were entered without an entry of their own.
        self._unannounced: set[bytes] = set()
        self._before = self._parent = b""

    def note(self, entry: trees_pb2.TreeEntry) -> None:
        """Note an entry that was announced."""
        path = entry.path
        parent = path.rpartition(b"/")[0]
        if parent != self._parent:
            self._enter(parent)
            self._parent = parent
        self._before = path
        if entry.type == files_pb2.FILE_TYPE_DIRECTORY:
            self._entries[path] = entry
            if path in self._unannounced:
                self._disturbed.add(path)
        else:
            # A directory that was replaced is none any more.
            self.forget(path)

    def forget(self, path: bytes) -> None:
        """Do not set a directory again: it is not in place."""
        self._entries.pop(path, None)

    def _enter(self, directory: bytes) -> None:
        """Note that an entry of a directory comes, and that the one before may be elsewhere."""
        while directory:
            if directory not in self._entries:
                self._unannounced.add(directory)
            elif not _is_within(self._before, directory):
                self._disturbed.add(directory)
            directory = directory.rpartition(b"/")[0]

    def disturbed(self) -> Iterator[trees_pb2.TreeEntry]:
        """Yield the directories that have to be set again, each before those above it."""
        for path in sorted(self._disturbed & self._entries.keys(), reverse=True):
            yield self._entries[path]


def _is_within(path: bytes, directory: bytes) -> bool:
    return not directory or path == directory or path.startswith(directory + b"/")
