"""Checks whether an upload may replace the file at its destination (CND-1, CND-2, CND-5)."""

from __future__ import annotations

import os
import stat
from typing import Final, Protocol

from openshell_files_disk.filesystem.errno_reasons import mapped
from openshell_files_disk.filesystem.handles import FileSystem, is_regular
from openshell_files_protocol.digests import Digest
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.requests import (
    Absent,
    Condition,
    HasDigest,
    HasVersion,
    LeafLink,
    UploadRequest,
)
from openshell_supervisor_sim.agent.filesystem.file_digest import digest_of_file
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt, version
from openshell_supervisor_sim.agent.filesystem.storable_times import can_store_time
from openshell_supervisor_sim.agent.paths.location import Location, require_regular
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot

#: Write permission of owner, group and others. Root may write without it.
_ANY_WRITE: Final = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


class Replacing(Protocol):
    """The fields of a request that decide whether a destination is replaced."""

    @property
    def condition(self) -> Condition | None:
        """Condition on the destination."""
        ...

    @property
    def leaf_link(self) -> LeafLink:
        """Treatment of a link at the destination."""
        ...

    @property
    def keep_read_only(self) -> bool:
        """Replace no file that may not be written."""
        ...


class DestinationCheck:
    """Compares destinations with the conditions of requests.

    Args:
        root: the sandbox's root.
        fs: system calls.
    """

    def __init__(self, root: SandboxRoot, fs: FileSystem) -> None:
        self._root = root
        self._fs = fs

    def examine(self, location: Location, request: Replacing, interrupt: Interrupt) -> os.stat_result | None:
        """Check the destination against the request's condition.

        Returns:
            The status of the file that would be replaced; None if there is none.

        Raises:
            TransferError: FILE_EXISTS, CONDITION_FAILED, LEAF_IS_LINK,
                IS_A_DIRECTORY, NOT_A_REGULAR_FILE, PATH_FORBIDDEN.
        """
        status = location.lstat()
        condition = request.condition
        if status is not None:
            self._root.refuse_replacing(status, location.path)
        if condition is not None and isinstance(condition, Absent):
            if status is not None:
                raise TransferError(Reason.FILE_EXISTS, f"{location.path} exists")
            return None
        if status is None:
            if condition is not None:
                raise _failed(location, "the file does not exist")
            return None
        if stat.S_ISLNK(status.st_mode) and request.leaf_link is LeafLink.REPLACE:
            if condition is not None:
                raise _failed(location, "it is a symbolic link")
            return status
        require_regular(status, location.path)
        if request.keep_read_only:
            self._require_writable(location, status)
        if isinstance(condition, HasVersion) and condition.version != version(status):
            raise _failed(location, "it has another version", version(status))
        if isinstance(condition, HasDigest) and not self._has(condition.digest, location, interrupt):
            raise _failed(location, "it has another digest", version(status))
        return status

    def _require_writable(self, location: Location, status: os.stat_result) -> None:
        """Refuse to replace a file that the agent may not write, or that has no write permission at all (UPL-45)."""
        with mapped(f"looking at {location.path}"):
            writable = status.st_mode & _ANY_WRITE and self._fs.may_write(location.name, location.parent_fd)
        if not writable:
            raise TransferError(
                Reason.ACCESS_DENIED,
                f"{location.path} is read-only (mode {stat.S_IMODE(status.st_mode):04o}), and "
                "metadata.keep_read_only forbids to replace it",
                {"mode": f"{stat.S_IMODE(status.st_mode):04o}"},
            )

    def _has(self, digest: Digest, location: Location, interrupt: Interrupt) -> bool:
        """Return whether the file at a location has the digest."""
        fd = self._root.open_regular(location)
        try:
            with mapped(f"reading {location.path}"):
                size = self._fs.fstat(fd).st_size
                return digest_of_file(self._fs, fd, size, interrupt, digest.algorithm)[0] == digest
        finally:
            self._fs.close(fd)

    def adopt_identical(
        self, location: Location, request: UploadRequest, digest: Digest, interrupt: Interrupt
    ) -> tuple[os.stat_result, bool] | None:
        """Adopt the file at the destination if it has the requested size and digest (RSM-9, RSM-33).

        Returns:
            The file's status with mode and time applied, and whether it was flushed; None if its
            content differs, or the agent may not change it.
        """
        status = location.lstat()
        if status is None or not is_regular(status):
            return None
        if request.size_bytes is not None and status.st_size != request.size_bytes:
            return None
        try:
            fd = self._root.open_regular(location)
        except TransferError:
            return None
        try:
            with mapped(f"reading {location.path}"):
                present, count = digest_of_file(
                    self._fs, fd, self._fs.fstat(fd).st_size, interrupt, digest.algorithm
                )
                if count != status.st_size or present != digest:
                    return None
                flushed = self._apply(fd, request)
                return None if flushed is None else (self._fs.fstat(fd), flushed)
        finally:
            self._fs.close(fd)

    def _apply(self, fd: int, request: UploadRequest) -> bool | None:
        try:
            if request.modified_ns is not None:
                if not can_store_time(self._fs, fd, request.modified_ns):
                    # Creating the staging file refuses it.
                    return None
                self._fs.set_modified(fd, request.modified_ns)
            if request.mode is not None:
                self._fs.chmod(fd, request.mode)
        except PermissionError:
            # A file of another user: the agent may be allowed to replace it all the same.
            return None
        if not request.fsync:
            return False
        self._fs.fsync(fd)
        return True


def publish_mode(request: UploadRequest, replaced: os.stat_result | None, umask: int) -> int:
    """Return the permission bits of the published file (UPL-10, UPL-46)."""
    if request.mode is not None:
        return request.mode
    if replaced is not None and is_regular(replaced):
        return stat.S_IMODE(replaced.st_mode) & 0o777
    return 0o666 & ~umask


def _failed(location: Location, why: str, current: str = "") -> TransferError:
    return TransferError(
        Reason.CONDITION_FAILED,
        f"the condition on {location.path} does not hold: {why}",
        {"version": current} if current else {},
    )
