"""A location: the open directory and the name that a path is resolved to."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from openshell_files_disk.filesystem.errno_reasons import mapped
from openshell_files_disk.filesystem.handles import FileSystem, is_regular
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason


@dataclass(slots=True)
class Location:
    """A directory, open, and a name in it. Close it after use.

    Attributes:
        parent_fd: O_PATH descriptor of the directory.
        parent_path: the directory's real path inside the root, as bytes.
        name: the last component.
        parents_flushed: each directory that was made on the way was flushed.
    """

    fs: FileSystem
    parent_fd: int
    parent_path: bytes
    name: bytes
    parents_flushed: bool = True

    @property
    def path(self) -> str:
        """Absolute path inside the sandbox. Bytes that are not UTF-8 are replaced."""
        return (self.parent_path.rstrip(b"/") + b"/" + self.name).decode("utf-8", "replace")

    def close(self) -> None:
        """Close the directory; more than once is fine."""
        if self.parent_fd >= 0:
            fd, self.parent_fd = self.parent_fd, -1
            self.fs.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def lstat(self) -> os.stat_result | None:
        """Return the status of the file at the location, without following a link; None if there is none.

        Raises:
            TransferError: the directory cannot be searched.
        """
        with mapped(f"looking at {self.path}"):
            return self.fs.lstat(self.name, self.parent_fd)


def require_regular(status: os.stat_result, path: str) -> None:
    """Refuse everything but a regular file (PTH-4).

    Raises:
        TransferError: LEAF_IS_LINK, IS_A_DIRECTORY or NOT_A_REGULAR_FILE.
    """
    if is_regular(status):
        return
    if stat.S_ISLNK(status.st_mode):
        raise TransferError(Reason.LEAF_IS_LINK, f"{path} is a symbolic link")
    if stat.S_ISDIR(status.st_mode):
        raise TransferError(Reason.IS_A_DIRECTORY, f"{path} is a directory")
    raise TransferError(Reason.NOT_A_REGULAR_FILE, f"{path} is a FIFO, socket or device")


def sync_directory(fs: FileSystem, dir_fd: int) -> bool:
    """Flush a directory's names.

    Returns:
        False if that fails: the agent may enter the directory but not read it, or the file system
        cannot flush one.
    """
    try:
        fd = fs.open(b".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=dir_fd)
        try:
            fs.fsync(fd)
        finally:
            fs.close(fd)
    except OSError:
        return False
    return True


def shown(names: Sequence[bytes]) -> str:
    """Return a path for an error; bytes that are not UTF-8 are replaced."""
    return "/" + b"/".join(names).decode("utf-8", "replace")
