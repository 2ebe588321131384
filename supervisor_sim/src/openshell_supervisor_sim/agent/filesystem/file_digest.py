"""The digest of what a file holds; its holes are not read."""

from __future__ import annotations

import errno

from openshell_files_protocol.digests import Digest, DigestAlgorithm, DigestHasher, TakesContent

from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt, read_range
from openshell_supervisor_sim.agent.filesystem.handles import FileSystem


def digest_of_file(
    fs: FileSystem, fd: int, size: int, interrupt: Interrupt, algorithm: DigestAlgorithm
) -> tuple[Digest, int]:
    """Compute the digest of the first `size` bytes of a file.

    Returns:
        The digest of what was there, and how many bytes that were.

    Raises:
        OSError: the file cannot be read.
    """
    hasher = DigestHasher(algorithm)
    count = put_file(fs, fd, size, hasher, interrupt)
    return hasher.digest(), count


def put_file(
    fs: FileSystem, fd: int, size: int, hasher: TakesContent, interrupt: Interrupt, *, start: int = 0
) -> int:
    """Put the bytes of a file from `start` up to `size` into a digest.

    Returns:
        Where it ended: at `size`, or at the end of the file before it.

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
    """Return where content begins and ends at or behind a position; both where the file does if there is none."""
    try:
        begin = fs.seek_data(fd, position)
    except OSError as error:
        if error.errno == errno.ENXIO:
            # Nothing but a hole up to the end, or the file became shorter.
            end = max(position, min(size, fs.fstat(fd).st_size))
            return end, end
        if error.errno == errno.EINVAL:
            # A file system without holes.
            return position, size
        raise
    if begin >= size:
        return size, size
    return begin, min(fs.seek_hole(fd, begin), size)
