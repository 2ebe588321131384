"""What a directory holds, down to the last bit that a transfer could change."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def snapshot(directory: Path) -> dict[str, tuple[object, ...]]:
    """Return everything below a directory: type, mode, size, times, inode, content, link."""
    found: dict[str, tuple[object, ...]] = {}
    for base, directories, files in os.walk(directory):
        for name in (".", *directories, *files):
            path = Path(base, name)
            status = path.lstat()
            content: object = None
            if stat.S_ISREG(status.st_mode):
                content = path.read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = path.readlink()
            found[str(path)] = (
                stat.filemode(status.st_mode), status.st_size, status.st_mtime_ns, status.st_ctime_ns,
                status.st_ino, status.st_nlink, content,
            )  # fmt: skip
    return found
