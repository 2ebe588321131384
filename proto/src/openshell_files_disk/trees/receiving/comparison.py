"""The attributes of an entry: which it may have, and whether what is in place has them (TRE-7, TRE-8, TRE-24, TRE-32)."""

from __future__ import annotations

import os
import stat
from typing import Final

from openshell_files_protocol.digests import HASHERS
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2

from openshell_files_disk.trees.opening import CONTENT
from openshell_files_disk.trees.receiving.names import violation
from openshell_files_disk.trees.receiving.reception import Reception

_NANOS: Final = 1_000_000_000
_MAX_MODE: Final = 0o777

_NAMED: Final = getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK) | os.O_NOFOLLOW


def has_content(
    reception: Reception, name: bytes, dir_fd: int, status: os.stat_result, digest: bytes
) -> bool:
    """Return whether a file has the content with a digest. It reads the file.

    Raises:
        OSError: the file cannot be read.
        TransferError: the transfer was stopped.
    """
    fs = reception.fs
    fd = fs.open(name, CONTENT, dir_fd=dir_fd)
    try:
        if not os.path.samestat(fs.fstat(fd), status):
            return False
        hasher = HASHERS[reception.algorithm]()
        offset = 0
        while data := fs.pread(fd, MIB, offset):
            reception.options.check()
            hasher.update(data)
            offset += len(data)
            if offset > status.st_size:
                return False
        return hasher.digest() == digest
    finally:
        fs.close(fd)


def adjust(
    reception: Reception, name: bytes, dir_fd: int, status: os.stat_result, mode: int, modified_ns: int
) -> None:
    """Give an unchanged file the permission bits and the time of its entry, without following a link.

    Raises:
        OSError: it was replaced, or belongs to another user.
    """
    if reception.options.dry_run:
        return
    fs = reception.fs
    fd = fs.open(name, _NAMED, dir_fd=dir_fd)
    try:
        found = fs.fstat(fd)
        if not os.path.samestat(found, status) or not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(2, "another program replaced it")
        if status.st_mode & 0o777 != mode:
            fs.chmod_entry(fd, mode)
        if status.st_mtime_ns != modified_ns:
            # A descriptor that is open for reading would need the permission to read.
            fs.set_link_time(name, dir_fd, modified_ns)
    finally:
        fs.close(fd)


def is_same_link(
    reception: Reception, name: bytes, dir_fd: int, status: os.stat_result, target: bytes
) -> bool:
    """Return whether a link with a target is in place."""
    if not stat.S_ISLNK(status.st_mode):
        return False
    try:
        return reception.fs.readlink(name, dir_fd) == target
    except OSError:
        return False


def modified_of(entry: trees_pb2.TreeEntry) -> int:
    """Return the modified time of an entry in nanoseconds since 1970."""
    return entry.modified_seconds * _NANOS + entry.modified_nanos


def differs(entry: trees_pb2.TreeEntry, there: os.stat_result) -> bool:
    """Return whether a directory has another mode or time than its entry (TRE-32)."""
    return there.st_mode & 0o777 != entry.mode or there.st_mtime_ns != modified_of(entry)


def check_attributes(entry: trees_pb2.TreeEntry, number: int) -> None:
    """Refuse values that no entry has (TRE-24)."""
    type_ = entry.type
    if entry.mode > _MAX_MODE:
        raise violation(number, f"has mode {entry.mode:o}, and permission bits are at most 777 (TRE-24)")
    if entry.modified_nanos >= _NANOS:
        raise violation(number, "has modified_nanos of a second or more (TRE-24)")
    if type_ == files_pb2.FILE_TYPE_REGULAR:
        return
    if type_ == files_pb2.FILE_TYPE_SYMLINK:
        if not entry.link_target or b"\0" in entry.link_target:
            raise violation(number, "is a link whose target is empty or has NUL (TRE-24)")
    elif type_ != files_pb2.FILE_TYPE_DIRECTORY:
        raise violation(number, f"has type {type_}, and no reason why it cannot be sent (TRE-24)")
    if entry.hard_link:
        raise violation(number, "is a hard link, and no regular file (TRE-27)")
