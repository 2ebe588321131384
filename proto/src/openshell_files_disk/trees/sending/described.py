"""Entries of a tree from the status of files."""

from __future__ import annotations

import os
import stat
from typing import Final, NamedTuple

from openshell_files_protocol.limits import KIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_protocol.reasons import Reason

#: Longest path in a message; the end of a longer one is shown.
_SHOWN_BYTES: Final = KIB

_SECOND: Final = 1_000_000_000

_SPECIAL_BITS: Final = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX


class Source(NamedTuple):
    """A regular file whose content may be needed, as it was when it was announced.

    Attributes:
        path: below the top directory.
        device: number of its device.
        inode: number of its inode.
        size: in bytes.
        modified_ns: modified time in nanoseconds since 1970.
    """

    path: bytes
    device: int
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: bytes, status: os.stat_result) -> Source:
        """Return the source with a status."""
        return cls(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def is_as_announced(self, status: os.stat_result) -> bool:
        """Return whether a file is the announced one, and unchanged (TRE-41)."""
        return (
            status.st_size == self.size
            and status.st_mtime_ns == self.modified_ns
            and status.st_ino == self.inode
            and status.st_dev == self.device
            and stat.S_ISREG(status.st_mode)
        )


def describe(path: bytes, status: os.stat_result, user: int) -> trees_pb2.TreeEntry:
    """Return the entry of a file with a status.

    A FIFO, a socket or a device gets the reason why it is not sent (TRE-25).

    Args:
        path: below the top directory.
        status: of the entry itself.
        user: id of the user who reads the tree; another owner is a loss (TRE-26).
    """
    mode = status.st_mode
    seconds, nanos = divmod(status.st_mtime_ns, _SECOND)
    entry = trees_pb2.TreeEntry(path=path, mode=mode & 0o777, modified_seconds=seconds, modified_nanos=nanos)
    if stat.S_ISREG(mode):
        entry.type = files_pb2.FILE_TYPE_REGULAR
        entry.size_bytes = status.st_size
    elif stat.S_ISDIR(mode):
        entry.type = files_pb2.FILE_TYPE_DIRECTORY
    elif stat.S_ISLNK(mode):
        entry.type = files_pb2.FILE_TYPE_SYMLINK
    else:
        entry.type = files_pb2.FILE_TYPE_SPECIAL
        refuse(entry, Reason.NOT_A_REGULAR_FILE, "a FIFO, socket or device is not sent")
    if mode & _SPECIAL_BITS and not stat.S_ISLNK(mode):
        entry.losses.append(trees_pb2.TREE_LOSS_SPECIAL_BITS)
    if status.st_uid != user:
        entry.losses.append(trees_pb2.TREE_LOSS_OWNER)
    return entry


def shown_path(top: str, path: bytes) -> str:
    """Return the path of an entry for a message: bytes that are not UTF-8 are replaced.

    Args:
        top: path of the top directory.
        path: below it.
    """
    if len(path) > _SHOWN_BYTES:
        return "..." + path[-_SHOWN_BYTES:].decode("utf-8", "replace")
    return f"{top}/{path.decode('utf-8', 'replace')}".rstrip("/")


def excluded(path: bytes, kind: files_pb2.FileType.ValueType) -> trees_pb2.TreeEntry:
    """Return the entry of something that a rule leaves out (TRE-10)."""
    return trees_pb2.TreeEntry(path=path, type=kind, excluded=True)


def kind_of(mode: int) -> files_pb2.FileType.ValueType:
    """Return the type of a file by its mode."""
    if stat.S_ISREG(mode):
        return files_pb2.FILE_TYPE_REGULAR
    if stat.S_ISDIR(mode):
        return files_pb2.FILE_TYPE_DIRECTORY
    if stat.S_ISLNK(mode):
        return files_pb2.FILE_TYPE_SYMLINK
    return files_pb2.FILE_TYPE_SPECIAL


def refuse(entry: trees_pb2.TreeEntry, reason: Reason, message: str) -> trees_pb2.TreeEntry:
    """Give an entry the reason why it is not sent; return it."""
    entry.reason = reason.name
    entry.message = message
    return entry
