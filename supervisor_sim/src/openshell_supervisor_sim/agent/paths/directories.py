"""Opens directories inside the root: by the kernel where it has openat2, else component by component (PTH-3, PTH-12)."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from openshell_files_disk.filesystem.handles import FileSystem, has_descriptor_paths
from openshell_files_disk.filesystem.syscalls import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS

from openshell_supervisor_sim.agent.paths.location import sync_directory
from openshell_supervisor_sim.agent.paths.walk import walk


class Directories:
    """The directories inside a root.

    Args:
        fs: system calls.
        root_fd: O_PATH descriptor of the root; the caller closes it.
        use_openat2: have the kernel resolve paths; without the call, or if False, the agent walks
            them.
    """

    def __init__(self, fs: FileSystem, root_fd: int, *, use_openat2: bool) -> None:
        self._fs = fs
        self._fd = root_fd
        #: True if /proc is mounted, through which descriptors are opened again and have a path.
        self.has_proc = has_descriptor_paths()
        self.uses_openat2 = use_openat2 and self.has_proc and self._kernel_has_openat2()

    def open(self, names: Sequence[bytes]) -> tuple[int, bytes]:
        """Open a directory inside the root; return its real path, too."""
        path = b"/" + b"/".join(names)
        if self.uses_openat2:
            try:
                fd = self._fs.openat2(
                    self._fd,
                    path,
                    os.O_PATH | os.O_DIRECTORY,
                    RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
                )
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                # Too many links, or a magic link: the walk can tell which.
                fd, real = walk(self._fs, self._fd, path)
                return fd, b"/" + b"/".join(real)
            try:
                return fd, self._path_inside(fd)
            except BaseException:
                self._fs.close(fd)
                raise
        fd, real = walk(self._fs, self._fd, path)
        return fd, b"/" + b"/".join(real)

    def flush_parents(self, path: bytes) -> bool:
        """Flush the names of a directory and of those above it.

        Args:
            path: real path of the directory inside the root.

        Returns:
            False if that fails.
        """
        names = [name for name in path.split(b"/") if name]
        for depth in range(len(names)):
            try:
                fd, _ = self.open(names[:depth])
            except OSError:
                return False
            try:
                if not sync_directory(self._fs, fd):
                    return False
            finally:
                self._fs.close(fd)
        return True

    def make(self, name: bytes, parent_fd: int) -> bool:
        """Make a directory unless it exists; return whether its name was flushed, or needed no flush."""
        if self._fs.lstat(name, parent_fd) is not None:
            return True
        try:
            self._fs.mkdir(name, parent_fd)
        except FileExistsError:
            return True
        return sync_directory(self._fs, parent_fd)

    def _path_inside(self, fd: int) -> bytes:
        root = self._fs.descriptor_path(self._fd).rstrip(b"/")
        path = self._fs.descriptor_path(fd)
        if path != root and not path.startswith(root + b"/"):
            # It was moved out of the root since it was resolved.
            raise FileNotFoundError(errno.ENOENT, "the directory was moved away")
        return path[len(root) :] or b"/"

    def _kernel_has_openat2(self) -> bool:
        try:
            fd = self._fs.openat2(self._fd, b".", os.O_PATH | os.O_DIRECTORY, RESOLVE_IN_ROOT)
        except OSError as error:
            # A system call filter that is older than the call answers EPERM.
            if error.errno in {errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG}:
                return False
            raise
        self._fs.close(fd)
        return True
