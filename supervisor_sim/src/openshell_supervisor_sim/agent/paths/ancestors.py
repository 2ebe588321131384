"""The directories above a directory, by descriptor."""

from __future__ import annotations

import os
from typing import Final

from openshell_files_disk.filesystem.handles import FileSystem

#: Device and inode.
Identity = tuple[int, int]

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY


def identity_of(status: os.stat_result) -> Identity:
    """Return device and inode."""
    return status.st_dev, status.st_ino


def ancestors(fs: FileSystem, fd: int, end: Identity) -> list[Identity]:
    """Return the identities of a directory and of each directory above it, from below.

    Args:
        fs: system calls.
        fd: O_PATH descriptor of the directory.
        end: of a directory above, which is left out; the walk ends at the machine's root, too.

    Raises:
        OSError: a directory above cannot be opened.
    """
    found: list[Identity] = []
    current = fd
    try:
        here = identity_of(fs.fstat(current))
        while here != end:
            found.append(here)
            above = fs.open(b"..", _DIRECTORY, dir_fd=current)
            if current != fd:
                fs.close(current)
            current = above
            below, here = here, identity_of(fs.fstat(current))
            if here == below:
                break
    finally:
        if current != fd:
            fs.close(current)
    return found
