"""Path resolution without openat2: one component at a time.

The result is that of openat2 with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS (PTH-12). Every step
opens a name relative to a descriptor with O_NOFOLLOW, so the kernel never follows a link that is
swapped in.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from openshell_files_disk.filesystem.handles import FileSystem

#: Most links on the way, as in the kernel (MAXSYMLINKS).
MAX_LINKS: Final = 40

#: How often a walk is repeated because a directory was moved; as for openat2.
_ATTEMPTS: Final = 64

PROC_SUPER_MAGIC: Final = 0x9FA0
#: Inode of procfs's own root. Links in it (/proc/self, /proc/mounts) are
#: ordinary; those below a process are magic.
_PROC_ROOT_INODE: Final = 1


class MagicLinkError(OSError):
    """The path leads over a magic link of procfs, whose target is no path."""

    def __init__(self) -> None:
        super().__init__(errno.ELOOP, "magic links are not followed")


class _MovedError(Exception):
    """A directory on the way was moved while the path was walked."""


def walk(fs: FileSystem, root_fd: int, path: bytes) -> tuple[int, tuple[bytes, ...]]:
    """Open a directory inside the root, with three descriptors open at most.

    Args:
        fs: system calls.
        root_fd: O_PATH descriptor of the root.
        path: starts at the root; may contain `.`, `..` and links.

    Returns:
        An O_PATH descriptor and the directory's real names from the root.

    Raises:
        OSError: as openat2 would; `MagicLinkError` for a magic link.
    """
    for _ in range(_ATTEMPTS):
        walker = _Walker(fs, root_fd)
        try:
            walker.go(path)
        except _MovedError:
            walker.close()
            continue
        except BaseException:
            walker.close()
            raise
        return walker.fd, tuple(walker.names)
    raise OSError(errno.EAGAIN, "the path keeps changing while it is resolved")


def walk_as_far(fs: FileSystem, root_fd: int, path: bytes) -> int:
    """Open the last existing directory on the way, over links.

    Raises:
        OSError: the root cannot be opened.
    """
    walker = _Walker(fs, root_fd)
    with suppress(OSError, _MovedError):
        walker.go(path)
    return walker.fd


class _Walker:
    """Walks from directory to directory, with only the current one open.

    The kernel opens `..`, which must be the directory that the walk came from: so a directory that
    is moved meanwhile cannot lead out of the root.
    """

    def __init__(self, fs: FileSystem, root_fd: int) -> None:
        self._fs = fs
        self._root_fd = root_fd
        self.names: list[bytes] = []
        #: Device and inode of each directory from the root to here.
        self._above = [_identity(fs, root_fd)]
        self._links = 0
        # Last, so that an earlier failure has nothing to close.
        self.fd = fs.duplicate(root_fd)

    def close(self) -> None:
        self._fs.close(self.fd)

    def go(self, path: bytes) -> None:
        todo = deque(_names(path))
        while todo:
            name = todo.popleft()
            if name == b"..":
                if self.names:
                    self._up()
            else:
                todo.extendleft(reversed(self._down(name)))

    def _up(self) -> None:
        fd = self._fs.open(b"..", os.O_PATH | os.O_DIRECTORY, dir_fd=self.fd)
        self._replace(fd)
        self.names.pop()
        self._above.pop()
        if _identity(self._fs, fd) != self._above[-1]:
            raise _MovedError

    def _down(self, name: bytes) -> Sequence[bytes]:
        """Enter a directory; for a link return the components of its target instead."""
        fd = self._fs.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self.fd)
        try:
            status = self._fs.fstat(fd)
            if stat.S_ISLNK(status.st_mode):
                return self._follow(fd)
            if not stat.S_ISDIR(status.st_mode):
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            fd, entered = -1, fd
            self._replace(entered)
            self.names.append(name)
            self._above.append((status.st_dev, status.st_ino))
            return ()
        finally:
            if fd >= 0:
                self._fs.close(fd)

    def _follow(self, link: int) -> Sequence[bytes]:
        self._links += 1
        if self._links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = _target(self._fs, link, self.fd)
        if target.startswith(b"/"):
            self._replace(self._fs.duplicate(self._root_fd))
            self.names.clear()
            del self._above[1:]
        return _names(target)

    def _replace(self, fd: int) -> None:
        old, self.fd = self.fd, fd
        self._fs.close(old)


def _identity(fs: FileSystem, fd: int) -> tuple[int, int]:
    status = fs.fstat(fd)
    return status.st_dev, status.st_ino


def _names(path: bytes) -> Sequence[bytes]:
    return [name for name in path.split(b"/") if name not in {b"", b"."}]


def _target(fs: FileSystem, link_fd: int, parent_fd: int) -> bytes:
    on_procfs = fs.file_system_type(link_fd) == PROC_SUPER_MAGIC
    if on_procfs and fs.fstat(parent_fd).st_ino != _PROC_ROOT_INODE:
        raise MagicLinkError
    return fs.readlink(b"", link_fd)
