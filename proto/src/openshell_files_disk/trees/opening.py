"""Opens directories and files below a top directory, over no link and no mount point (TRE-28, TRE-44).

The kernel resolves a whole path in one call (openat2) where it has it. Elsewhere each component is
opened relative to the one before, without following a link.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from openshell_files_protocol.limits import MAX_PATH_BYTES

from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.filesystem.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)

#: A directory as the place of names; needs no permission to read it.
PLACE: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW
#: A directory whose names are read.
LISTING: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK
#: A file whose content is read. The open does not wait for a writer if the name is that of a FIFO by now.
CONTENT: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | getattr(os, "O_NOCTTY", 0)

_RESOLVE: Final = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV

#: Errors of a kernel, or of a filter of system calls, that does not have openat2.
_WITHOUT_OPENAT2: Final = frozenset({errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG})


class Beneath:
    """Opens what is below a top directory. Methods block; one thread at a time calls them.

    Paths are relative to the top directory, with components joined by `/`, none of them `.` or
    `..`; empty is the top directory itself. Errors are those of the system call, and:
    ELOOP for a link on the way (ELOOP or ENOTDIR for one at its end), EXDEV for a mount point (another file system, or
    the same one mounted there), ENAMETOOLONG for a path of more than 4095 bytes.

    Args:
        fs: system calls.
        top_fd: descriptor of the top directory, also one of O_PATH; the caller closes it.
        use_openat2: have the kernel resolve paths; without the call, or if False, components are
            opened one after the other.
        follow: follow links, as long as they stay below the top directory (EXDEV otherwise). Needs openat2 (ENOSYS).

    Raises:
        OSError: the top directory cannot be used.
    """

    def __init__(
        self, fs: FileSystem, top_fd: int, *, use_openat2: bool = True, follow: bool = False
    ) -> None:
        self._fs = fs
        self._follow = follow
        self._resolve = _RESOLVE & ~RESOLVE_NO_SYMLINKS if follow else _RESOLVE
        self._top_fd = top_fd
        self.uses_openat2 = use_openat2 and self._kernel_has_openat2()
        self._device = fs.fstat(top_fd).st_dev
        self._mount = None if self.uses_openat2 else fs.mount_of(top_fd)
        #: The last directory: its path and its O_PATH descriptor.
        self._path = b""
        self._fd = -1

    def directory(self, path: bytes) -> int:
        """Return a descriptor of a directory as the place of names (O_PATH).

        It stays open until the next call with another path, `forget` or `close`: calls for entries
        of one directory after each other open it once. The caller does not close it.

        Raises:
            OSError: see the class.
        """
        if self._fd >= 0 and path == self._path:
            return self._fd
        fd = self.open_directory(path, PLACE)
        self.forget()
        self._fd, self._path = fd, path
        return fd

    def open_directory(self, path: bytes, flags: int = LISTING) -> int:
        """Return a new descriptor of a directory, which the caller closes.

        Args:
            path: of the directory.
            flags: `LISTING` or `PLACE`.

        Raises:
            OSError: see the class.
        """
        if self.uses_openat2:
            if self._follow:
                flags &= ~os.O_NOFOLLOW
            return self._fs.openat2(self._top_fd, path or b".", flags, self._resolve)
        if self._follow:
            raise OSError(errno.ENOSYS, "this system cannot follow links inside a tree (openat2)")
        return self._walk(path, flags)

    def open_file(self, path: bytes, flags: int = CONTENT) -> int:
        """Return a descriptor of a file, which the caller closes. Its directory stays open, as by `directory`.

        A file that is itself a mount point is opened: compare device and inode with those that
        were expected.

        Args:
            path: of the file.
            flags: with O_NOFOLLOW.

        Raises:
            OSError: see the class.
        """
        if self._follow:
            return self.open_directory(path, flags)
        parent, _, name = path.rpartition(b"/")
        return self._fs.open(name, flags, dir_fd=self.directory(parent))

    def forget(self) -> None:
        """Close the last directory; the next call resolves its path again."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._fs.close(fd)

    def close(self) -> None:
        """Close what is open; more than once is fine."""
        self.forget()

    def _walk(self, path: bytes, flags: int) -> int:
        """Open a directory component by component, from the last directory if that is above it."""
        if len(path) > MAX_PATH_BYTES:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        start, names = self._top_fd, path
        if self._fd >= 0 and self._path and path.startswith(self._path + b"/"):
            start, names = self._fd, path[len(self._path) + 1 :]
        components = names.split(b"/") if names else [b"."]
        current = start
        try:
            for number, name in enumerate(components, 1):
                below = self._component(name, flags if number == len(components) else PLACE, current)
                if current != start:
                    self._fs.close(current)
                current = below
                self._refuse_mount_point(below)
        except BaseException:
            if current != start:
                self._fs.close(current)
            raise
        return current

    def _component(self, name: bytes, flags: int, parent_fd: int) -> int:
        if name == b"..":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        try:
            return self._fs.open(name, flags, dir_fd=parent_fd)
        except NotADirectoryError:
            # The answer for a link, too, for which openat2 answers ELOOP.
            status = self._fs.lstat(name, parent_fd)
            if status is not None and stat.S_ISLNK(status.st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
            raise

    def _refuse_mount_point(self, fd: int) -> None:
        # Two mounts of one file system have the same device, and one mount of btrfs has several.
        mount = self._fs.mount_of(fd)
        if mount != self._mount or (mount is None and self._fs.fstat(fd).st_dev != self._device):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    def _kernel_has_openat2(self) -> bool:
        try:
            fd = self._fs.openat2(self._top_fd, b".", PLACE, _RESOLVE)
        except OSError as error:
            if error.errno in _WITHOUT_OPENAT2:
                return False
            raise
        self._fs.close(fd)
        return True
