"""Removes the directory of a sandbox, even if its commands made that hard.

Commands choose names, permissions and depth. So no step uses a path or follows
a link, and neither the stack nor the number of open files grows with the depth
of the tree: subdirectories are moved to the top one by one.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Final

#: Entries per step, so that a directory with millions of entries needs no list
#: of millions.
_BATCH: Final = 4096


def remove_tree(path: Path) -> None:
    """Remove a directory with all of its content; do nothing if it does not exist.

    Args:
        path: a directory, not a link to one.

    Raises:
        OSError: an entry cannot be removed, for example a mount point.
    """
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        _remove(path.name, parent)
    finally:
        os.close(parent)


def _remove(name: str, parent: int) -> None:
    try:
        top = _enter(name, parent)
    except FileNotFoundError:
        return
    try:
        prefix = f".removed-{secrets.token_hex(8)}-"
        _empty(top, (f"{prefix}{number}" for number in count()))
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _empty(top: int, fresh: Iterator[str]) -> None:
    while entries := _entries(top):
        for name, is_directory in entries:
            if not is_directory:
                os.unlink(name, dir_fd=top)
                continue
            inner = _enter(name, top)
            try:
                _flatten(inner, top, fresh)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)


def _flatten(directory: int, top: int, fresh: Iterator[str]) -> None:
    """Remove the files of a directory and move its subdirectories to the top."""
    while entries := _entries(directory):
        for name, is_directory in entries:
            if is_directory:
                # Moving a directory requires write permission on the directory itself.
                os.close(_enter(name, directory))
                os.rename(name, next(fresh), src_dir_fd=directory, dst_dir_fd=top)
            else:
                os.unlink(name, dir_fd=directory)


def _entries(directory: int) -> list[tuple[str, bool]]:
    with os.scandir(directory) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in islice(entries, _BATCH)]


def _enter(name: str, parent: int) -> int:
    """Open a directory without following links, even if its permissions forbid it."""
    # O_PATH needs no permission on the directory itself.
    found = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        own = f"/proc/self/fd/{found}"
        os.chmod(own, 0o700)
        return os.open(own, os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(found)
