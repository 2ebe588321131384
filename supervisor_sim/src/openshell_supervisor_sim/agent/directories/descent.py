"""A walk through a tree by descriptors, which no swapped directory or link leads astray (DIR-10).

Only the current directory is open. A name is opened without following a link, and the way back is
the kernel's `..`, which must be the directory that the walk came from. So the depth of a tree needs
no descriptors, and only some bytes of memory for each level.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from typing import Final

from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK

#: Longest path in an error; the end of a longer one is shown.
_SHOWN_BYTES: Final = 1024


class MovedError(Exception):
    """A directory was moved while a walk was in it, so the way back leads elsewhere."""


class Trail:
    """Names and identities of the directories from the top of a walk to the current one, packed."""

    def __init__(self) -> None:
        self._devices = array("Q")
        self._inodes = array("Q")
        self._lengths = array("B")
        self._names = bytearray()

    def __len__(self) -> int:
        return len(self._lengths)

    def push(self, name: bytes, came_from: os.stat_result) -> None:
        """Add a directory.

        Args:
            name: of it.
            came_from: status of the directory that has the name.
        """
        self._devices.append(came_from.st_dev)
        self._inodes.append(came_from.st_ino)
        self._lengths.append(len(name))
        self._names += name

    def pop(self) -> tuple[bytes, tuple[int, int]]:
        """Remove the last directory; return its name, and device and inode of the directory above."""
        length = self._lengths.pop()
        name = bytes(self._names[len(self._names) - length :])
        del self._names[len(self._names) - length :]
        return name, (self._devices.pop(), self._inodes.pop())

    def names(self) -> list[bytes]:
        """Return the names from the top to the current directory."""
        found: list[bytes] = []
        start = 0
        for length in self._lengths:
            found.append(bytes(self._names[start : start + length]))
            start += length
        return found


class Descent:
    """A walk in a tree. Close it after use. Methods block.

    Args:
        fs: system calls.
        fd: descriptor of the top directory, open for reading; the walk owns it.

    Attributes:
        fd: the current directory, open for reading.
        status: of the current directory when it was entered.

    Raises:
        OSError: the directory's status cannot be read.
    """

    def __init__(self, fs: FileSystem, fd: int) -> None:
        self._fs = fs
        self.fd = fd
        self._trail = Trail()
        try:
            self.status = self._top = fs.fstat(fd)
            self._mount = fs.mount_of(fd)
        except BaseException:
            self.close()
            raise

    @property
    def depth(self) -> int:
        """Number of directories above the current one, up to the top of the walk."""
        return len(self._trail)

    def close(self) -> None:
        """Close the current directory; more than once is fine."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            self._fs.close(fd)

    def enter(self, name: bytes) -> None:
        """Enter a directory of the current one.

        Raises:
            OSError: ENOTDIR or ELOOP if the name is that of a link or a file by now.
        """
        fd = self._fs.open(name, DIRECTORY, dir_fd=self.fd)
        try:
            status = self._fs.fstat(fd)
            # The status of the directory that is left may be old; its identity is not.
            self._trail.push(name, self.status)
        except BaseException:
            self._fs.close(fd)
            raise
        self._replace(fd, status)

    def leave(self) -> bytes:
        """Go back to the directory above; return the name of the directory that was left.

        Raises:
            MovedError: the directory is below another one by now.
            OSError: the directory above cannot be opened.
        """
        fd = self._fs.open(b"..", DIRECTORY, dir_fd=self.fd)
        try:
            status = self._fs.fstat(fd)
            name, came_from = self._trail.pop()
        except BaseException:
            self._fs.close(fd)
            raise
        if (status.st_dev, status.st_ino) != came_from:
            self._fs.close(fd)
            raise MovedError
        self._replace(fd, status)
        return name

    def refuse_other_mount(self, top: str) -> None:
        """Refuse a current directory that is on another mount than the top of the walk (DIR-12).

        Args:
            top: path of the top directory, for the error.

        Raises:
            TransferError: MOUNT_POINT.
        """
        # Two mounts of one file system have the same device.
        if self.status.st_dev != self._top.st_dev or self._fs.mount_of(self.fd) != self._mount:
            # Made only here: the path is as long as the walk is deep.
            path = self.shown(top)
            raise TransferError(Reason.MOUNT_POINT, f"{path} is a mount point", {"path": path})

    def names(self) -> list[bytes]:
        """Return the names from the top of the walk to the current directory."""
        return self._trail.names()

    def shown(self, top: str, *names: bytes) -> str:
        """Return the path of the current directory, or of an entry in it, for an error.

        Args:
            top: path of the top directory.
            names: of the entry.
        """
        return shown_path(top, [*self._trail.names(), *names])

    def _replace(self, fd: int, status: os.stat_result) -> None:
        old, self.fd, self.status = self.fd, fd, status
        self._fs.close(old)


def shown_path(top: str, names: Sequence[bytes]) -> str:
    """Return a path for an error: bytes that are not UTF-8 are replaced, and a long path is cut at its beginning."""
    path = b"/".join(names)
    if len(path) > _SHOWN_BYTES:
        return "..." + path[-_SHOWN_BYTES:].decode("utf-8", "replace")
    return "/".join(filter(None, (top.rstrip("/"), path.decode("utf-8", "replace")))) or "/"


def open_top(fs: FileSystem, name: bytes, parent_fd: int) -> Descent:
    """Open a directory as the top of a walk.

    Raises:
        OSError: it is no directory, or cannot be read.
    """
    return Descent(fs, fs.open(name, DIRECTORY, dir_fd=parent_fd))


def open_below(fs: FileSystem, fd: int, names: Sequence[bytes]) -> int:
    """Open a directory below another one, over no link; return its O_PATH descriptor.

    Raises:
        OSError: one of the names is no directory.
    """
    current = fs.duplicate(fd)
    for name in names:
        try:
            below = fs.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
        finally:
            fs.close(current)
        current = below
    return current
