"""The content of one copied file: shared where the file system can, else copied without its holes (DIR-25)."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.filesystem.file_info import same_file

#: Errors of a file system, or of a pair of them, that cannot share or copy content in the kernel.
_UNSUPPORTED: Final = frozenset(
    {
        errno.EINVAL,
        errno.ENOSYS,
        errno.EPERM,
        errno.EOPNOTSUPP,
        errno.ENOTTY,
        errno.EXDEV,
        errno.EBADF,
        errno.ETXTBSY,
    }
)

#: Content that one step copies.
_STEP_BYTES: Final = 8 * MIB
_READ_BYTES: Final = MIB


@dataclass(slots=True)
class CopiedBytes:
    """Counts of a copy.

    Attributes:
        copied: bytes of content, holes excluded.
        shared: part of them that shares its storage with the source.
    """

    copied: int = 0
    shared: int = 0


class FileCopy:
    """Copies the content of an open file. Methods block.

    Args:
        fs: system calls.
        source: descriptor, open for reading.
        destination: descriptor of an empty file, open for writing.
        counts: gets the counts.
        path: of the source, for errors.
    """

    def __init__(self, fs: FileSystem, source: int, destination: int, counts: CopiedBytes, path: str) -> None:
        self._fs = fs
        self._source = source
        self._destination = destination
        self._counts = counts
        self._path = path
        self._in_kernel = True

    def steps(self) -> Generator[None]:
        """Copy the content, some MiB per step.

        Raises:
            OSError: of the file system.
            TransferError: FILE_CHANGED if the source changed meanwhile.
        """
        before = self._fs.fstat(self._source)
        if before.st_size and not self._cloned(before):
            yield from self._segments(before.st_size)
            self._fs.truncate(self._destination, before.st_size)
        if not same_file(before, self._fs.fstat(self._source)):
            raise TransferError(
                Reason.FILE_CHANGED,
                f"{self._path} changed while it was copied; nothing was published",
                {"path": self._path},
            )

    def _cloned(self, status: os.stat_result) -> bool:
        try:
            self._fs.clone(self._source, self._destination)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return False
            raise
        stored = min(status.st_size, status.st_blocks * 512)
        self._counts.copied += stored
        self._counts.shared += stored
        return True

    def _segments(self, size: int) -> Generator[None]:
        """Copy each part between two holes."""
        position = 0
        while position < size:
            try:
                begin = self._fs.seek_data(self._source, position)
                end = min(self._fs.seek_hole(self._source, begin), size)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                if error.errno != errno.EINVAL:
                    raise
                # A file system without holes.
                begin, end = position, size
            position = begin
            while position < end:
                moved = self._piece(position, min(_STEP_BYTES, end - position))
                if not moved:
                    # The source was shortened, which the comparison at the end finds.
                    return
                position += moved
                self._counts.copied += moved
                yield

    def _piece(self, offset: int, size: int) -> int:
        """Copy some bytes; return their number, 0 at the end of the source."""
        if self._in_kernel:
            try:
                moved = self._fs.copy_range(self._source, self._destination, offset, size)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                moved = 0
            if moved:
                return moved
            # Some file systems answer 0 instead of an error.
            self._in_kernel = False
        data = self._fs.pread(self._source, min(size, _READ_BYTES), offset)
        # May write less than all: the next piece begins behind that.
        return self._fs.pwrite(self._destination, data, offset) if data else 0
