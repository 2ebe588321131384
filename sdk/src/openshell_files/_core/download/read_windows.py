"""Which part of a file is fetched next, when a program reads it like a local one.

A program reads a few bytes here and many there. Each fetch is a download of
its own, verified before anything of it is handed out, so small reads share a
window, and windows grow while the reads follow each other.

Where the file ends is first known from StatFile, whose word nothing confirms.
A download's does: it sends what it announced, under a digest (DWN-2). So no
end is believed before a download has said the same size.
"""

from __future__ import annotations

from io import SEEK_CUR, SEEK_END, SEEK_SET
from typing import Final

from openshell_files_protocol.limits import KIB, MIB
from openshell_files_protocol.reasons import Retry

from openshell_files.errors import ErrorFacts, IntegrityError, LocalReason

#: The first fetch, and the first after a jump.
LEAST_WINDOW: Final = 256 * KIB

#: Fetches do not grow beyond this unless one read asks for more.
MOST_WINDOW: Final = 8 * MIB


class ReadWindows:
    """The position in a file, and what is here of it.

    Args:
        size: of the file in bytes, as StatFile tells it.
        path: of it, for messages.
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
        """Return up to `most` bytes that are here, and go on behind them; none are at the end, or must be fetched."""
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
            # Of nothing, only for the size that it says.
            return None if self._confirmed else (self.size, 0)
        return self.position, min(max(most, self._length), self.size - self.position)

    def fetched(self, offset: int, data: bytes, size: int) -> None:
        """Take a fetch.

        Args:
            offset: where it begins.
            data: what came.
            size: of the file, as the download says.

        Raises:
            IntegrityError: the sandbox says two sizes of one version.
        """
        if size != self.size:
            what = f"the file has {size} bytes in the download, and {self.size} were told before"
            facts = ErrorFacts(
                LocalReason.DOWNLOAD_CORRUPT,
                retry=Retry.AGAIN,
                fix="Try again; report it if it happens again.",
            )
            raise IntegrityError(what, facts, path=self._path)
        self._confirmed = True
        self._start, self._data = offset, data

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move, as a file's `seek`; behind the end is allowed, and reads nothing.

        Raises:
            ValueError: it would be before the beginning, or `whence` is none of the three.
        """
        bases = {SEEK_SET: 0, SEEK_CUR: self.position, SEEK_END: self.size}
        if whence not in bases:
            raise ValueError(f"whence: give 0, 1 or 2, not {whence!r}")
        position = bases[whence] + offset
        if position < 0:
            raise ValueError(f"offset: {position} is before the beginning of the file")
        self.position = position
        return position
