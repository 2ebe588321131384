"""Open descriptors of the directories of unfinished uploads.

A program may move a directory during an upload. Then its path leads nowhere, or to another
directory, and the agent would not find the staging file. A descriptor still refers to the moved
directory.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Final

from openshell_files_disk.filesystem.handles import FileSystem

#: Most descriptors. Further directories are found by their path, so that descriptors do not run out.
_MOST: Final = 512


class OpenDirectories:
    """Descriptors by the upload's id. Any thread may call the methods.

    Args:
        fs: system calls.
    """

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}
        self._closed = False

    def add(self, upload_id: str, directory: int) -> None:
        """Keep a descriptor of a directory; does nothing if that fails."""
        with suppress(OSError):
            fd = self._fs.duplicate(directory)
            with self._lock:
                added = not self._closed and len(self._open) < _MOST and upload_id not in self._open
                if added:
                    self._open[upload_id] = fd
            if not added:
                self._fs.close(fd)

    def duplicate(self, upload_id: str) -> int | None:
        """Return a descriptor of the directory, which the caller closes; None if there is none."""
        with self._lock:
            fd = self._open.get(upload_id)
            with suppress(OSError):
                return None if fd is None else self._fs.duplicate(fd)
        return None

    def remove(self, upload_id: str) -> None:
        """Close the directory of an upload that has ended; more than once is fine."""
        with self._lock:
            fd = self._open.pop(upload_id, None)
        if fd is not None:
            self._fs.close(fd)

    def close(self) -> None:
        """Close all; more than once is fine."""
        with self._lock:
            self._closed = True
            fds, self._open = list(self._open.values()), {}
        for fd in fds:
            self._fs.close(fd)
