"""Rules for entries of a walk: which are hidden, and the reason of a failure with its path."""

from __future__ import annotations

import os
import stat

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import STAGING_PREFIX
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.filesystem.file_info import version
from openshell_supervisor_sim.agent.paths.location import Location
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot


def is_staging(name: bytes) -> bool:
    """Return whether a name is reserved for staging files."""
    return name.startswith(STAGING_PREFIX)


def with_facts(error: TransferError, path: str, **facts: int) -> TransferError:
    """Return an error with the path that it is about, and counts, in its metadata."""
    counts = {name: str(value) for name, value in facts.items()}
    return TransferError(
        error.reason,
        error.message,
        {"path": path, **error.metadata, **counts},
        error.field_violations,
        error.retry_delay,
    )


def required(location: Location, field: str) -> os.stat_result:
    """Return the status of an entry that has to exist.

    Raises:
        TransferError: FILE_NOT_FOUND.
    """
    status = location.lstat()
    if status is None:
        raise TransferError(Reason.FILE_NOT_FOUND, f"{field}: {location.path} does not exist")
    return status


def require_version(location: Location, field: str, status: os.stat_result, wanted: str) -> None:
    """Refuse an entry of another version.

    Raises:
        TransferError: CONDITION_FAILED.
    """
    if wanted and version(status) != wanted:
        raise TransferError(
            Reason.CONDITION_FAILED,
            f"{field}: {location.path} has another version",
            {"version": version(status)},
        )


def require_named_as_directory(location: Location, field: str, path: str, status: os.stat_result) -> None:
    """Refuse a path with a slash at its end that names no directory (PTH-24).

    Raises:
        TransferError: NOT_A_DIRECTORY.
    """
    if path.endswith(("/", "/.")) and not stat.S_ISDIR(status.st_mode):
        raise TransferError(Reason.NOT_A_DIRECTORY, f"{field}: {location.path} is no directory")


def refuse_entry(root: SandboxRoot, location: Location, status: os.stat_result, *, leaves: bool) -> None:
    """Refuse to remove, move or copy a guarded entry, or one with guarded places below it (DIR-11).

    Args:
        root: the sandbox's root.
        location: of the entry.
        status: of it.
        leaves: the entry will not be there afterwards.

    Raises:
        TransferError: PATH_FORBIDDEN.
    """
    fd = location.fs.open(location.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=location.parent_fd)
    try:
        root.refuse_forbidden(fd, location.path)
    finally:
        location.fs.close(fd)
    if stat.S_ISDIR(status.st_mode):
        root.refuse_around(status, location.path)
        if leaves:
            root.refuse_workdir(status, location.path)
