"""Detects that two paths or streams are the same open file. Imports only the standard library: the command needs it early."""

from __future__ import annotations

import os
import stat
from typing import TextIO


def is_descriptor_name(path: str) -> bool:
    """Return whether a path is a link to a descriptor, such as `/dev/stdin`, `/dev/fd/0` and `/proc/self/fd/0`."""
    try:
        if not stat.S_ISLNK(os.lstat(path).st_mode):
            return False
        directory = os.path.realpath(os.path.dirname(path) or ".")
        return os.readlink(path).startswith("/proc/") or directory.startswith("/proc/")
    except OSError:
        return False


def is_file_of(path: str, stream: TextIO) -> bool:
    """Return whether a path names the file that a stream has open: same device, same inode."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(stream.fileno()))
    except (OSError, ValueError):
        # There is no such path, or the stream has no descriptor.
        return False


def share_a_file(one: TextIO, other: TextIO) -> bool:
    """Return whether two streams write into one pipe or file (`2>&1`). A terminal or `/dev/null` does not count."""
    try:
        first, second = os.fstat(one.fileno()), os.fstat(other.fileno())
    except (OSError, ValueError):
        return False
    return os.path.samestat(first, second) and not stat.S_ISCHR(first.st_mode)
