"""Two checksums of what is staged: one of what arrived, one to find out what the file holds.

The SHA-256 is computed while content is written. It says nothing about what
the file holds when it is published: a bit may have flipped since, or a program
in the sandbox may have written to the file. So the file is read once more
before it gets its name. A CRC-32C is enough for that: it finds every flipped
bit and every burst of up to 32, and costs a small part of a second SHA-256.
It does not stop a program in the sandbox that means harm; that one can as
well change the file after it was published.
"""

from __future__ import annotations

import errno
import hashlib

from openshell_files_protocol.chunks import crc32c

from openshell_supervisor_sim.agent.file_info import Interrupt, hash_zeros, read_range
from openshell_supervisor_sim.agent.filesystem import FileSystem


class Checksum:
    """A CRC-32C that is being computed.

    Attributes:
        value: of what was put in.
    """

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def update(self, data: bytes | memoryview, /) -> None:
        """Put bytes in."""
        self.value = crc32c(data, self.value)


class StagedDigest:
    """SHA-256 and CRC-32C of the same bytes; a `Hasher`."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._checksum = Checksum()

    @property
    def crc32c(self) -> int:
        """The CRC-32C of what was put in."""
        return self._checksum.value

    def update(self, data: bytes | memoryview, /) -> None:
        """Put bytes in."""
        self._sha256.update(data)
        self._checksum.update(data)

    def digest(self) -> bytes:
        """Return the SHA-256 of what was put in."""
        return self._sha256.digest()

    def copy(self) -> StagedDigest:
        """Return a second one that goes on from here."""
        other = StagedDigest()
        other._sha256 = self._sha256.copy()
        other._checksum = Checksum(self.crc32c)
        return other


def checksum_of_file(fs: FileSystem, fd: int, size: int, interrupt: Interrupt) -> int | None:
    """Compute the CRC-32C of the first `size` bytes of a file; holes are not read.

    Returns:
        The checksum; None if the file is shorter.

    Raises:
        OSError: the file cannot be read.
    """
    checksum = Checksum()
    position = 0
    while position < size:
        data_at, data_end = _next_data(fs, fd, position, size)
        hash_zeros(checksum, data_at - position, interrupt)
        if read_range(fs, fd, data_at, data_end, checksum, interrupt) < data_end:
            return None
        position = data_end
    return checksum.value


def _next_data(fs: FileSystem, fd: int, position: int, size: int) -> tuple[int, int]:
    """Return where content begins and ends at or behind a position."""
    try:
        begin = fs.seek_data(fd, position)
    except OSError as error:
        if error.errno == errno.ENXIO:
            # Nothing but a hole up to the end, or the file became shorter;
            # the size was compared before, and the checksum tells.
            return size, size
        if error.errno == errno.EINVAL:
            # A file system without holes.
            return position, size
        raise
    return min(begin, size), min(fs.seek_hole(fd, begin), size)
