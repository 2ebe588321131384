"""MakeDirectory (DIR-14)."""

from __future__ import annotations

import os
import stat

from openshell_files_disk.filesystem.errno_reasons import mapped
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import directories_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.directory_requests import MakeRequest
from openshell_supervisor_sim.agent.directories.descent import DIRECTORY
from openshell_supervisor_sim.agent.filesystem.file_info import describe
from openshell_supervisor_sim.agent.paths.location import Location, sync_directory
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot


def make_directory(
    root: SandboxRoot, fs: FileSystem, request: MakeRequest
) -> directories_pb2.MakeDirectoryResponse:
    """Make a directory; blocks.

    Raises:
        TransferError: FILE_EXISTS, PARENT_NOT_FOUND, PATH_FORBIDDEN, ACCESS_DENIED and others of the path.
    """
    if (there := root.locate_directory(request.path, "path")) is not None:
        return _found(root, fs, request, *there)
    with root.locate(
        request.path, "path", create_parents=request.create_parents, directories=True
    ) as location:
        with mapped(f"making {location.path}", missing=Reason.PARENT_NOT_FOUND):
            try:
                # Without bits that the caller did not ask for, even for a moment.
                fs.mkdir(location.name, location.parent_fd, 0o777 if request.mode is None else request.mode)
            except FileExistsError:
                return _existing(fs, request, location)
            status = _with_mode(fs, location, request.mode)
            sync_directory(fs, location.parent_fd)
        return directories_pb2.MakeDirectoryResponse(directory=describe(status, location.path), created=True)


def _found(
    root: SandboxRoot, fs: FileSystem, request: MakeRequest, fd: int, path: str
) -> directories_pb2.MakeDirectoryResponse:
    """Answer for a directory that is there already, perhaps behind a link; closes it."""
    try:
        status = root.refuse_forbidden(fd, path)
    finally:
        fs.close(fd)
    if not request.exist_ok:
        raise TransferError(Reason.FILE_EXISTS, f"path: {path} exists")
    return directories_pb2.MakeDirectoryResponse(directory=describe(status, path))


def _existing(
    fs: FileSystem, request: MakeRequest, location: Location
) -> directories_pb2.MakeDirectoryResponse:
    """Answer for an entry of the name: a file, or a directory that another caller has just made."""
    status = fs.lstat(location.name, location.parent_fd)
    if not request.exist_ok or status is None or not stat.S_ISDIR(status.st_mode):
        raise TransferError(Reason.FILE_EXISTS, f"path: {location.path} exists")
    return directories_pb2.MakeDirectoryResponse(directory=describe(status, location.path))


def _with_mode(fs: FileSystem, location: Location, mode: int | None) -> os.stat_result:
    """Set the bits that the umask took; return the status of the new directory."""
    status = fs.lstat(location.name, location.parent_fd)
    if status is None or not stat.S_ISDIR(status.st_mode):
        raise TransferError(Reason.FILE_NOT_FOUND, f"path: {location.path} was removed while it was made")
    if mode is None or stat.S_IMODE(status.st_mode) & 0o777 == mode:
        return status
    # The bit of the group that a directory inherits stays.
    wanted = stat.S_IMODE(status.st_mode) & stat.S_ISGID | mode
    fd = fs.open(location.name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=location.parent_fd)
    try:
        try:
            fs.chmod_entry(fd, wanted)
        except FileNotFoundError:
            _chmod_without_proc(fs, location, wanted)
        return fs.fstat(fd)
    finally:
        fs.close(fd)


def _chmod_without_proc(fs: FileSystem, location: Location, mode: int) -> None:
    fd = fs.open(location.name, DIRECTORY, dir_fd=location.parent_fd)
    try:
        fs.chmod(fd, mode)
    finally:
        fs.close(fd)
