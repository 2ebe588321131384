"""Walking and removing directories that are deeper than a path, a stack or the open files of a process allow."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress

#: Bytes of a path that are opened at once; 4095 may be.
_AT_ONCE = 3000
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@contextmanager
def opened(top: bytes, path: bytes) -> Generator[int]:
    """Open a directory below `top`, however long its path is."""
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while path:
            end = len(path) if len(path) <= _AT_ONCE else path.rindex(b"/", 0, _AT_ONCE)
            step = os.open(path[:end], _FLAGS, dir_fd=descriptor)
            os.close(descriptor)
            descriptor, path = step, path[end + 1 :]
        yield descriptor
    finally:
        os.close(descriptor)


def walk(top: bytes) -> Iterator[tuple[bytes, os.stat_result, bytes]]:
    """Yield every entry below a directory: path, status, and the target of a link.

    What vanishes meanwhile is left out, and so is what is below a mount point.
    """
    device = os.stat(top).st_dev
    waiting = [b""]
    while waiting:
        above = waiting.pop()
        with suppress(FileNotFoundError, NotADirectoryError), opened(top, above) as descriptor:
            for name in map(os.fsencode, os.listdir(descriptor)):
                with suppress(FileNotFoundError):
                    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                    link = stat.S_ISLNK(status.st_mode)
                    target = os.readlink(name, dir_fd=descriptor) if link else b""
                    path = above + b"/" + name if above else name
                    yield path, status, target
                    if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
                        waiting.append(path)


def remove(top: bytes) -> None:
    """Remove a directory with everything below it, and nothing behind a mount point; nothing there is fine."""
    with suppress(FileNotFoundError):
        device = os.stat(top, follow_symlinks=False).st_dev
        os.chmod(top, 0o700)
        directories = [b""]
        for path in directories:
            with opened(top, path) as descriptor:
                for name in map(os.fsencode, os.listdir(descriptor)):
                    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                    if status.st_dev != device:
                        raise OSError(f"{os.fsdecode(top)} has a mount point, {os.fsdecode(name)}")
                    if stat.S_ISDIR(status.st_mode):
                        os.chmod(name, 0o700, dir_fd=descriptor)
                        directories.append(path + b"/" + name if path else name)
                    else:
                        os.unlink(name, dir_fd=descriptor)
        for path in reversed(directories[1:]):
            above, _, name = path.rpartition(b"/")
            with opened(top, above) as descriptor:
                os.rmdir(name, dir_fd=descriptor)
        os.rmdir(top)
