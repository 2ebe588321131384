"""The digest of a file's content, computed without reading its holes."""

from __future__ import annotations

import errno

from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.digests import Digest, DigestAlgorithm, DigestHasher, TakesContent

from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt, read_range


def digest_of_file(
    fs: FileSystem, fd: int, size: int, interrupt: Interrupt, algorithm: DigestAlgorithm
) -> tuple[Digest, int]:
    """Compute the digest of the first `size` bytes of a file.

    Returns:
        The digest, and the number of bytes that the file had.

    Raises:
        OSError: the file cannot be read.
    """
    hasher = DigestHasher(algorithm)
    count = put_file(fs, fd, size, hasher, interrupt)
    return hasher.digest(), count


def put_file(
    fs: FileSystem, fd: int, size: int, hasher: TakesContent, interrupt: Interrupt, *, start: int = 0
) -> int:
    """Add the bytes of a file from `start` up to `size` to a digest.

    Returns:
        The position at which it stopped: `size`, or the end of a shorter file.

    Raises:
        OSError: the file cannot be read.
    """
    position = start
    while position < size:
        data_at, data_end = _next_data(fs, fd, position, size)
        hasher.zeros(data_at - position, interrupt.check)
        position = read_range(fs, fd, data_at, data_end, hasher, interrupt)
        if position < data_end or data_at == data_end:
            break
    return position


def _next_data(fs: FileSystem, fd: int, position: int, size: int) -> tuple[int, int]:
    """Return where content begins and ends at or after a position; both the end of the file if there is none."""
    try:
        begin = fs.seek_data(fd, position)
    except OSError as error:
        if error.errno == errno.ENXIO:
            # A hole up to the end, or the file was shortened.
            end = max(position, min(size, fs.fstat(fd).st_size))
            return end, end
        if error.errno == errno.EINVAL:
            # A file system without holes.
            return position, size
        raise
    if begin >= size:
        return size, size
    return begin, min(fs.seek_hole(fd, begin), size)
