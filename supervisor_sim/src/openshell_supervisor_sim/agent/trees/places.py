"""Resolves the path of a tree's top directory (TRE-17, TRE-18)."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from openshell_files_disk.filesystem.errno_reasons import mapped
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.paths.location import Location
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot


def locate_destination(
    root: SandboxRoot, path: str, field: str, *, create_parents: bool, dry_run: bool
) -> tuple[Location, bytes]:
    """Resolve the top directory of a tree to receive.

    In a dry run that would make directories above it, the first of these takes its place: nothing
    is there, as nothing is at the path.

    Args:
        root: the sandbox's root.
        path: as the caller gave it.
        field: of the request, for errors.
        create_parents: make directories that are missing above it.
        dry_run: make none.

    Returns:
        The location, which the caller closes, and the absolute path of the top directory.

    Raises:
        TransferError: INVALID_PATH, PARENT_NOT_FOUND, PATH_FORBIDDEN and others of the path.
    """
    if not dry_run:
        location = root.locate(path, field, create_parents=create_parents, directories=True)
        return location, _path_of(location)
    below = b""
    while True:
        try:
            location = root.locate(path, field, directories=True)
        except TransferError as error:
            parent, _, name = path.rstrip("/").rpartition("/")
            if not create_parents or error.reason is not Reason.PARENT_NOT_FOUND or not name:
                raise
            path = parent or "/"
            below = b"/" + name.encode("utf-8", "surrogateescape") + below
        else:
            return location, _path_of(location) + below


def refuse_destination(root: SandboxRoot, fs: FileSystem, location: Location) -> None:
    """Refuse a directory that is there and may not receive a tree (PTH-5, PTH-7, PTH-8).

    Raises:
        TransferError: PATH_FORBIDDEN.
    """
    status = location.lstat()
    if status is None or not stat.S_ISDIR(status.st_mode):
        return
    with mapped(f"looking at {location.path}"), suppress(FileNotFoundError):
        fd = fs.open(location.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=location.parent_fd)
        try:
            root.refuse_forbidden(fd, location.path)
        finally:
            fs.close(fd)


def open_origin(root: SandboxRoot, fs: FileSystem, path: str, field: str) -> tuple[int, bytes]:
    """Open the top directory of a tree to send, over a link at the end of its path.

    Args:
        root: the sandbox's root.
        fs: system calls.
        path: as the caller gave it.
        field: of the request, for errors.

    Returns:
        A descriptor, which the caller closes, and the directory's absolute path.

    Raises:
        TransferError: FILE_NOT_FOUND, NOT_A_DIRECTORY, PATH_FORBIDDEN, ACCESS_DENIED and others of the path.
    """
    found = root.open_directory(path, field)
    if found is None:
        with root.locate(path, field, follow=True, directories=True) as location:
            if location.lstat() is None:
                raise TransferError(Reason.FILE_NOT_FOUND, f"{field}: {location.path} does not exist")
            raise TransferError(Reason.NOT_A_DIRECTORY, f"{field}: {location.path} is no directory")
    fd, real = found
    shown = real.decode("utf-8", "replace")
    try:
        root.refuse_forbidden(fd, shown)
        with mapped(f"opening {shown}"):
            return fs.open(b".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd), real
    finally:
        fs.close(fd)


def _path_of(location: Location) -> bytes:
    return location.parent_path.rstrip(b"/") + b"/" + location.name
