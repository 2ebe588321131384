"""Removes an entry with everything below it, by steps and by descriptors (TRE-14, TRE-50).

Only the current directory is open. A name is opened without following a link, and the way back is
the kernel's `..`, which must be the directory that the walk came from. So no depth of a tree needs
descriptors, and no swapped directory leads the walk elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections.abc import Generator
from contextlib import suppress
from typing import Final

from openshell_files_protocol.reasons import Reason

from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.guard import TreeGuard
from openshell_files_disk.trees.opening import LISTING, PLACE
from openshell_files_disk.trees.receiving.errors import EntryError

#: Names of directories that wait to be emptied, of all levels of a walk.
_MOST_WAITING: Final = 4096

#: How often a directory that was emptied gets new entries before the removal gives up.
_MOST_TRIES: Final = 64

_NOT_EMPTY: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST})


class Removal:
    """Removes one entry. Guarded places and mount points stay, with the directories above them.

    Args:
        fs: system calls.
        guard: of the tree.
        own: the entry is this transfer's own; its directories may have modes that forbid to change them.

    Attributes:
        removed: entries removed so far.
        kept: something was kept.
    """

    def __init__(self, fs: FileSystem, guard: TreeGuard | None, *, own: bool = False) -> None:
        self._fs = fs
        self._guard = guard
        self._own = own
        self.removed = 0
        self.kept = False
        self._trail = _Trail()
        #: Directories that are not empty, by the depth of the directory that they are in.
        self._waiting: dict[int, list[bytes]] = {}
        self._waiting_names = 0
        #: Names that stay, by the same depth.
        self._staying: dict[int, set[bytes]] = {}
        self._rounds = 0
        self._mount: int | None = None
        self._device = 0

    def steps(self, name: bytes, dir_fd: int, private: object = None) -> Generator[None]:
        """Remove the entry, one entry of it per step.

        Args:
            name: of the entry.
            dir_fd: descriptor of the directory that has the name; stays open.
            private: of the guard for that directory.

        Raises:
            OSError: something could not be removed; the rest stays.
            EntryError: FILE_CHANGED, because programs move or fill directories meanwhile.
        """
        status = self._fs.lstat(name, dir_fd)
        if status is None:
            return
        if self._refused(name, status, private):
            self.kept = True
            return
        if not stat.S_ISDIR(status.st_mode):
            with suppress(FileNotFoundError):
                self._fs.remove_file(name, dir_fd)
                self.removed += 1
            return
        self._device, self._mount = self._fs.fstat(dir_fd).st_dev, self._fs.mount_of(dir_fd)
        for _ in range(_MOST_TRIES):
            if self._removed_directory(name, dir_fd) or self.kept:
                return
            yield from self._empty(name, dir_fd)
        raise EntryError(Reason.FILE_CHANGED, "another program fills the directory while it is removed")

    def _refused(self, name: bytes, status: os.stat_result, private: object) -> bool:
        guard = self._guard
        if guard is None:
            return False
        if private is not None and guard.named(private, name) is not None:
            return True
        look = guard.directory if stat.S_ISDIR(status.st_mode) else guard.file
        return look(status) is not None

    def _removed_directory(self, name: bytes, dir_fd: int) -> bool:
        """Remove an empty directory; return False if it is not empty. A mount point is kept."""
        try:
            self._fs.remove_directory(name, dir_fd)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno == errno.EBUSY:
                self.kept = True
                return False
            if error.errno in _NOT_EMPTY:
                return False
            raise
        self.removed += 1
        return True

    def _empty(self, name: bytes, dir_fd: int) -> Generator[None]:
        """Remove what is in the directory."""
        fd = self._open(name, dir_fd)
        try:
            if self._is_other_mount(fd, self._fs.fstat(fd)):
                self.kept = True
                return
            while True:
                depth = len(self._trail)
                if names := self._waiting.get(depth):
                    fd = self._enter(names, depth, fd)
                    continue
                yield from self._clear(fd, depth)
                if self._waiting.get(depth):
                    continue
                stays = self._staying.pop(depth, None)
                if not depth:
                    return
                fd, left = self._leave(fd)
                if stays or not self._removed_directory(left, fd):
                    # Not empty: something stays, or a program has made an entry in it meanwhile.
                    if not stays and not self.kept:
                        self._count_round()
                        self._wait_for(depth - 1, left)
                    else:
                        self._staying.setdefault(depth - 1, set()).add(left)
                yield
        finally:
            self._fs.close(fd)
            self._trail, self._waiting, self._waiting_names = _Trail(), {}, 0

    def _is_other_mount(self, fd: int, status: os.stat_result) -> bool:
        # Two mounts of one file system have the same device.
        return status.st_dev != self._device or self._fs.mount_of(fd) != self._mount

    def _count_round(self) -> None:
        self._rounds += 1
        if self._rounds > _MOST_TRIES:
            raise EntryError(Reason.FILE_CHANGED, "another program fills a directory while it is removed")

    def _open(self, name: bytes, dir_fd: int) -> int:
        if self._own:
            with suppress(OSError):
                fd = self._fs.open(name, PLACE, dir_fd=dir_fd)
                try:
                    self._fs.chmod_entry(fd, 0o700)
                finally:
                    self._fs.close(fd)
        return self._fs.open(name, LISTING, dir_fd=dir_fd)

    def _enter(self, names: list[bytes], depth: int, fd: int) -> int:
        """Enter one of the directories that wait; return the descriptor of the current directory."""
        name = names.pop()
        self._waiting_names -= 1
        if not names:
            del self._waiting[depth]
        try:
            below = self._open(name, fd)
        except (FileNotFoundError, NotADirectoryError):
            return fd  # Its name is read again.
        try:
            status = self._fs.fstat(below)
            guarded = self._guard is not None and self._guard.directory(status) is not None
            if guarded or self._is_other_mount(below, status):
                self._keep(depth, name)
                self._fs.close(below)
                return fd
            self._trail.push(name, self._fs.fstat(fd))
        except BaseException:
            self._fs.close(below)
            raise
        self._fs.close(fd)
        return below

    def _leave(self, fd: int) -> tuple[int, bytes]:
        """Go back to the directory above; return its descriptor, and the name of the one that was left."""
        above = self._fs.open(b"..", LISTING, dir_fd=fd)
        status = self._fs.fstat(above)
        name, came_from = self._trail.pop()
        if (status.st_dev, status.st_ino) != came_from:
            self._fs.close(above)
            raise EntryError(Reason.FILE_CHANGED, "another program moved a directory while it was removed")
        self._fs.close(fd)
        return above, name

    def _keep(self, depth: int, name: bytes) -> None:
        self.kept = True
        self._staying.setdefault(depth, set()).add(name)

    def _clear(self, fd: int, depth: int) -> Generator[None]:
        """Remove the files and the empty directories of the current directory; the others wait."""
        guard = self._guard
        private = None if guard is None else guard.names_in(self._fs.fstat(fd))
        staying = self._staying.get(depth, ())
        room = max(1, _MOST_WAITING - self._waiting_names)
        with self._fs.scan(fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if name in staying:
                    continue
                if guard is not None:
                    status = self._fs.lstat(name, fd)
                    if status is not None and self._refused(name, status, private):
                        self._keep(depth, name)
                        staying = self._staying[depth]
                        continue
                if not entry.is_dir(follow_symlinks=False):
                    self._remove_file(name, fd, depth)
                elif not self._removed_directory(name, fd):
                    self._wait_for(depth, name)
                    room -= 1
                yield
                if not room:
                    break

    def _remove_file(self, name: bytes, fd: int, depth: int) -> None:
        try:
            self._fs.remove_file(name, fd)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            # A file over which another one is mounted.
            self._keep(depth, name)
            return
        self.removed += 1

    def _wait_for(self, depth: int, name: bytes) -> None:
        self._waiting.setdefault(depth, []).append(name)
        self._waiting_names += 1


class _Trail:
    """Names and identities of the directories from the top of a walk to the current one, packed."""

    def __init__(self) -> None:
        self._identities = array("Q")
        self._lengths = array("B")
        self._names = bytearray()

    def __len__(self) -> int:
        return len(self._lengths)

    def push(self, name: bytes, came_from: os.stat_result) -> None:
        """Add a directory, and the identity of the one that has its name."""
        self._identities.extend((came_from.st_dev, came_from.st_ino))
        self._lengths.append(len(name))
        self._names += name

    def pop(self) -> tuple[bytes, tuple[int, int]]:
        """Remove the last directory; return its name, and device and inode of the one above."""
        start = len(self._names) - self._lengths.pop()
        name = bytes(self._names[start:])
        del self._names[start:]
        inode, device = self._identities.pop(), self._identities.pop()
        return name, (device, inode)
