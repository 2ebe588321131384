"""Path resolution without openat2: one component at a time.

The result is that of openat2 with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS
(PTH-3). Every step opens a name relative to a descriptor with O_NOFOLLOW, so
a link that is swapped in is seen as a link and never followed by the kernel.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from openshell_supervisor_sim.agent.filesystem import FileSystem

#: As in the kernel (MAXSYMLINKS).
MAX_LINKS: Final = 40

PROC_SUPER_MAGIC: Final = 0x9FA0
#: Inode of procfs's own root. Links in it (/proc/self, /proc/mounts) are
#: ordinary; those below a process are magic.
_PROC_ROOT_INODE: Final = 1


class MagicLinkError(OSError):
    """The path leads over a link that names a place the path does not contain."""

    def __init__(self) -> None:
        super().__init__(errno.ELOOP, "magic links are not followed")


def walk(fs: FileSystem, root_fd: int, path: bytes) -> tuple[int, tuple[bytes, ...]]:
    """Open a directory inside the root.

    Args:
        fs: system calls.
        root_fd: O_PATH descriptor of the root.
        path: starts at the root; may contain `.`, `..` and links.

    Returns:
        An O_PATH descriptor and the directory's real names from the root.

    Raises:
        OSError: as openat2 would; `MagicLinkError` for a magic link.
    """
    todo = deque(_names(path))
    links = 0
    with ExitStack() as held:
        fds = [root_fd]
        names: list[bytes] = []
        while todo:
            name = todo.popleft()
            if name == b"..":
                if names:
                    names.pop()
                    fds.pop()
                continue
            fd = fs.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=fds[-1])
            held.callback(fs.close, fd)
            mode = fs.fstat(fd).st_mode
            if stat.S_ISLNK(mode):
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                target = _target(fs, fd, fds[-1])
                if target.startswith(b"/"):
                    names, fds = [], [root_fd]
                todo.extendleft(reversed(_names(target)))
            elif stat.S_ISDIR(mode):
                names.append(name)
                fds.append(fd)
            else:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return fs.duplicate(fds[-1]), tuple(names)


def _names(path: bytes) -> Sequence[bytes]:
    return [name for name in path.split(b"/") if name not in {b"", b"."}]


def _target(fs: FileSystem, link_fd: int, parent_fd: int) -> bytes:
    on_procfs = fs.file_system_type(link_fd) == PROC_SUPER_MAGIC
    if on_procfs and fs.fstat(parent_fd).st_ino != _PROC_ROOT_INODE:
        raise MagicLinkError
    return fs.readlink(b"", link_fd)
