"""Refuses modified times that a file system cannot store: many end in 2038, 2106 or 2446 (UPL-49)."""

from __future__ import annotations

import errno
from typing import Final

from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import invalid

from openshell_supervisor_sim.agent.core.wire_numbers import NANOSECONDS

#: From 1980 to January 2038: every file system can store these times, so nothing is tried.
_ALWAYS_KEPT: Final = range(315_532_800, 2_147_483_647)

#: Coarsest rounding of a file system (FAT: two seconds).
_GRANULARITY_SECONDS: Final = 2


def can_store_time(fs: FileSystem, fd: int, modified_ns: int) -> bool:
    """Try to set a modified time, and then restore the previous one.

    Args:
        fs: system calls.
        fd: of the file.
        modified_ns: nanoseconds since 1970.

    Raises:
        OSError: the file's time cannot be set at all.
    """
    wanted = modified_ns // NANOSECONDS
    if wanted in _ALWAYS_KEPT:
        return True
    before = fs.fstat(fd).st_mtime_ns
    try:
        fs.set_modified(fd, modified_ns)
    except OverflowError:
        return False
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.EOVERFLOW, errno.ERANGE}:
            return False
        raise
    kept = fs.fstat(fd).st_mtime_ns // NANOSECONDS
    fs.set_modified(fd, before)
    return abs(kept - wanted) <= _GRANULARITY_SECONDS


def require_storable_time(fs: FileSystem, fd: int, path: str, modified_ns: int | None) -> None:
    """Refuse a modified time that the file system would change (UPL-49).

    Args:
        fs: system calls.
        fd: of a file on the destination's file system.
        path: of the destination, for the error.
        modified_ns: nanoseconds since 1970; None passes.

    Raises:
        TransferError: INVALID_REQUEST for the field `metadata.modified_time`.
        OSError: the file's time cannot be set at all.
    """
    if modified_ns is not None and not can_store_time(fs, fd, modified_ns):
        raise invalid(
            "metadata.modified_time",
            f"cannot be stored by the file system of {path}; omit it, or give a time between 1980 and 2038",
        )
