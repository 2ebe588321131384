"""A file's description, its version, and comparisons of its status."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from typing import Final, Protocol

from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.digests import Digest
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2

from openshell_supervisor_sim.agent.core.wire_numbers import set_time, unsigned

_READ_BYTES: Final = MIB


class TakesBytes(Protocol):
    """Something that is computed from bytes."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Put bytes in."""
        ...


class Interrupted(Exception):  # noqa: N818 - not an error: the operation has no caller any more
    """The caller of a long computation has left."""


class Interrupt:
    """Lets the event loop stop a long computation in a disk thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Stop the computation at its next step."""
        self._event.set()

    def check(self) -> None:
        """Raise `Interrupted` if the computation shall stop."""
        if self._event.is_set():
            raise Interrupted


def version(status: os.stat_result) -> str:
    """Return the file's version, which changes with content and metadata.

    It is a hash of device, inode, size, modified and changed time. It misses a change within one
    tick of the file system's clock that keeps the size.
    """
    numbers = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return hashlib.sha256(repr(numbers).encode("ascii")).hexdigest()[:32]


def same_file(before: os.stat_result, after: os.stat_result) -> bool:
    """Return whether size, modified and changed time are the same (DWN-14).

    A file that loses or gains a name has a new changed time and the same content: a reader of a
    file that is replaced still reads the old one.
    """
    renamed = before.st_nlink != after.st_nlink
    return untouched(before, after) or (renamed and same_content(before, after))


def same_inode(one: os.stat_result, other: os.stat_result) -> bool:
    """Return whether both have the same device and inode number; an inode number can be reused after a removal."""
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def untouched(before: os.stat_result, after: os.stat_result) -> bool:
    """Return whether nothing changed a file, not even a program that set the modified time back."""
    return same_content(before, after) and before.st_ctime_ns == after.st_ctime_ns


def same_content(before: os.stat_result, after: os.stat_result) -> bool:
    """Return whether size and modified time are the same; a rename changes the changed time."""
    return (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)


def file_type(status: os.stat_result) -> files_pb2.FileType.ValueType:
    """Return the type of a file for the caller."""
    if stat.S_ISREG(status.st_mode):
        return files_pb2.FILE_TYPE_REGULAR
    if stat.S_ISDIR(status.st_mode):
        return files_pb2.FILE_TYPE_DIRECTORY
    if stat.S_ISLNK(status.st_mode):
        return files_pb2.FILE_TYPE_SYMLINK
    return files_pb2.FILE_TYPE_SPECIAL


def describe(status: os.stat_result, path: str, digest: Digest | None = None) -> files_pb2.FileInfo:
    """Return the description of a file for the caller, with its digest unless it is None."""
    info = files_pb2.FileInfo(
        path=path,
        type=file_type(status),
        size_bytes=unsigned(status.st_size),
        mode=stat.S_IMODE(status.st_mode),
        version=version(status),
        digest=digest.message if digest is not None else None,
        allocated_bytes=unsigned(status.st_blocks * 512),
    )
    set_time(info.modified_time, status.st_mtime_ns)
    return info


def read_range(fs: FileSystem, fd: int, start: int, end: int, taker: TakesBytes, interrupt: Interrupt) -> int:
    """Read a part of a file into a digest.

    Returns:
        The position at which it stopped: `end`, or the end of a shorter file.
    """
    position = start
    while position < end:
        interrupt.check()
        # New bytes for each read: a checksum would copy a reused buffer into bytes.
        if not (data := fs.pread(fd, min(_READ_BYTES, end - position), position)):
            break
        taker.update(data)
        position += len(data)
    return position
