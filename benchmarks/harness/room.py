"""Whether there is room for a file before it is made: a machine that runs out of memory ends more than a benchmark."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil

GIB = 1 << 30

#: Left to everything else.
_SPARE = GIB // 2


def why_too_little(where: Path, needed: int) -> str | None:
    """Return why files of so many bytes together do not fit, and what to do; None if they do.

    Args:
        where: the directory they will be in.
        needed: bytes.
    """
    free, of_what = shutil.disk_usage(where).free, f"free in {where}"
    available = psutil.virtual_memory().available
    if is_memory(where) and available < free:
        free, of_what = available, "of memory available"
    if free >= needed + _SPARE:
        return None
    return (
        f"needs {needed / GIB:.1f} GiB for its files and {_SPARE / GIB:g} to spare; {free / GIB:.1f} GiB are "
        f"{of_what} (make it smaller with --large-mib, MIB= of make)"
    )


def is_memory(where: Path) -> bool:
    """Whether files there are in memory: the file system is a tmpfs."""
    target, best, kind = str(where.resolve()), "", ""
    for line in Path("/proc/self/mounts").read_text("utf-8").splitlines():
        _, mount, found, *_ = line.split()
        inside = target == mount or target.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, found
    return kind == "tmpfs"
