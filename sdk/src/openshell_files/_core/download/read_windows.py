"""Read-ahead of a file object: which part of the file is fetched next.

Each fetch is a download of its own, verified before `read` returns any of its
bytes. Small reads share a window, and windows grow while reads are sequential.

StatFile reports the size of the file, but nothing verifies its answer. A
download verifies the size, because its digest covers the announced content
(DWN-10). So the end of the file is accepted only after a download has reported
the same size.
"""

from __future__ import annotations

from io import SEEK_CUR, SEEK_END, SEEK_SET
from typing import Final

from openshell_files_protocol.limits import KIB, MIB
from openshell_files_protocol.reasons import Retry

from openshell_files.errors import ErrorFacts, IntegrityError, LocalReason

#: Size of the first fetch, and of the first after a seek.
LEAST_WINDOW: Final = 256 * KIB

#: Largest fetch, unless one read asks for more.
MOST_WINDOW: Final = 8 * MIB


class ReadWindows:
    """Position in a file, and the window of it that was fetched.

    Args:
        size: of the file in bytes, from StatFile.
        path: of the file, for messages.
    """

    def __init__(self, size: int, path: str) -> None:
        self.size = size
        self._path = path
        self._confirmed = False
        self.position = 0
        self._start = 0
        self._data = b""
        self._length = LEAST_WINDOW

    def here(self, most: int) -> bytes:
        """Return up to `most` bytes of the window and advance; no bytes if a fetch is needed, or at the end."""
        begin = self.position - self._start
        if not 0 <= begin < len(self._data):
            return b""
        data = self._data[begin : begin + most]
        self.position += len(data)
        return data

    def wanted(self, most: int) -> tuple[int, int] | None:
        """Return offset and length of the next fetch for a read of `most` bytes; None at the end of the file."""
        follows = bool(self._data) and self.position == self._start + len(self._data)
        self._length = min(2 * self._length, MOST_WINDOW) if follows else LEAST_WINDOW
        if self.position >= self.size:
            # A fetch of no bytes, for the size that it reports.
            return None if self._confirmed else (self.size, 0)
        return self.position, min(max(most, self._length), self.size - self.position)

    def fetched(self, offset: int, data: bytes, size: int) -> None:
        """Take a fetch.

        Args:
            offset: of its first byte.
            data: its bytes.
            size: of the file, from the download.

        Raises:
            IntegrityError: the sandbox reported two sizes of one version.
        """
        if size != self.size:
            what = f"the download reports a file of {size} bytes, StatFile reported {self.size}"
            facts = ErrorFacts(
                LocalReason.DOWNLOAD_CORRUPT,
                retry=Retry.AGAIN,
                fix="Try again; report it if it happens again.",
            )
            raise IntegrityError(what, facts, path=self._path)
        self._confirmed = True
        self._start, self._data = offset, data

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move, as a file's `seek`; past the end `read` returns no bytes.

        Raises:
            ValueError: the position is before the beginning, or `whence` is not 0, 1 or 2.
        """
        bases = {SEEK_SET: 0, SEEK_CUR: self.position, SEEK_END: self.size}
        if whence not in bases:
            raise ValueError(f"whence: give 0, 1 or 2, not {whence!r}")
        position = bases[whence] + offset
        if position < 0:
            raise ValueError(f"offset: {position} is before the beginning of the file")
        self.position = position
        return position
