"""How a moved or staged entry gets the name of its destination (DIR-20, DIR-23)."""

from __future__ import annotations

import errno
import logging
import os
import stat
from typing import Final

from openshell_files_disk.filesystem.errno_reasons import mapped
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.directory_requests import PlaceRequest
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt
from openshell_supervisor_sim.agent.paths.ancestors import ancestors, identity_of
from openshell_supervisor_sim.agent.paths.destination import DestinationCheck
from openshell_supervisor_sim.agent.paths.location import Location
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot

_log = logging.getLogger(__name__)

#: Errors of a file system that has no rename without replacing.
_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP})


class Destinations:
    """Decides whether a destination may be replaced, and renames. Methods block, and any thread may call them.

    Args:
        root: the sandbox's root.
        check: compares destinations with conditions.
        fs: system calls.
    """

    def __init__(self, root: SandboxRoot, check: DestinationCheck, fs: FileSystem) -> None:
        self._root = root
        self._check = check
        self._fs = fs

    def locate(self, request: PlaceRequest) -> Location:
        """Resolve the destination; the caller closes it.

        Raises:
            TransferError: INVALID_PATH, PARENT_NOT_FOUND, PATH_FORBIDDEN and others of the path.
        """
        return self._root.locate(request.destination, "destination", create_parents=request.create_parents)

    def examine(
        self, location: Location, request: PlaceRequest, source: os.stat_result, interrupt: Interrupt
    ) -> os.stat_result | None:
        """Check whether the destination may be replaced, and its condition.

        Args:
            location: of the destination.
            request: of the caller.
            source: status of the entry that is moved or copied there.
            interrupt: stops a condition that reads a large file.

        Returns:
            The status of the entry that will be replaced; None if there is none.

        Raises:
            TransferError: FILE_EXISTS, CONDITION_FAILED, IS_A_DIRECTORY, NOT_A_DIRECTORY,
                NOT_A_REGULAR_FILE, PATH_FORBIDDEN.
        """
        status = location.lstat()
        if status is not None and not request.replaces:
            raise TransferError(Reason.FILE_EXISTS, f"destination: {location.path} exists")
        if status is None or not stat.S_ISDIR(status.st_mode):
            examined = self._check.examine(location, request, interrupt)
            if examined is not None and stat.S_ISDIR(source.st_mode):
                raise TransferError(
                    Reason.NOT_A_DIRECTORY,
                    f"destination: {location.path} is no directory, and the source is one",
                )
            return examined
        if not stat.S_ISDIR(source.st_mode) or request.condition is not None:
            raise TransferError(Reason.IS_A_DIRECTORY, f"destination: {location.path} is a directory")
        self._root.refuse_around(status, location.path)
        self._root.refuse_workdir(status, location.path)
        return status

    def refuse_inside(self, location: Location, source: os.stat_result, path: str) -> None:
        """Refuse a destination inside the directory that is moved or copied there.

        Args:
            location: of the destination.
            source: status of the source.
            path: of the source, for the error.

        Raises:
            TransferError: INVALID_REQUEST for `destination`.
        """
        if not stat.S_ISDIR(source.st_mode):
            return
        with mapped(f"looking above {location.path}"):
            root = identity_of(self._fs.fstat(self._root.descriptor))
            inside = identity_of(source) in ancestors(self._fs, location.parent_fd, root)
        if inside:
            raise invalid("destination", f"{location.path} is inside the source {path}")

    def rename(self, source: Location, destination: Location, *, exclusive: bool) -> None:
        """Give an entry the name of its destination.

        Args:
            source: its present name.
            destination: its new name.
            exclusive: fail if the destination exists; the kernel decides where it can.

        Raises:
            OSError: both names are as they were.
        """
        names = (source.parent_fd, source.name, destination.parent_fd, destination.name)
        if not exclusive:
            self._fs.move(*names)
            return
        try:
            self._fs.move_noreplace(*names)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            self._move_carefully(source, destination)

    def _move_carefully(self, source: Location, destination: Location) -> None:
        """Rename without replacing where the kernel cannot: by a link, or for a directory after a look.

        A rename of a directory replaces at most an empty directory that another program has just made.
        """
        status = self._fs.lstat(source.name, source.parent_fd)
        if status is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if stat.S_ISDIR(status.st_mode):
            if self._fs.lstat(destination.name, destination.parent_fd) is not None:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            self._fs.move(source.parent_fd, source.name, destination.parent_fd, destination.name)
            return
        self._fs.link_between(source.parent_fd, source.name, destination.parent_fd, destination.name)
        self._fs.unlink(source.name, source.parent_fd)
