"""The digest of the bytes that arrived, and checksums to compare the staging file with them.

The upload's digest is computed while content is written, unless its caller asked
for none (DIG-9). It does not prove the content of the file that is published: a bit may have
flipped since, or a program in the sandbox may have written to the file. So the file is read once
more before the rename. A CRC-32C is enough for that: it finds every flipped
bit and every burst of up to 32, and costs a small part of a second digest.
It does not stop a hostile program in the sandbox, which can also change the file after it was
published.

There is one CRC-32C for each segment of the file, so that several threads read the file while the
caller waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.digests import ContentHasher, Digest, DigestAlgorithm, DigestHasher
from openshell_files_protocol.limits import MIB

from openshell_supervisor_sim.agent.filesystem.file_digest import put_file
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt

#: Size of a segment: a file of a few hundred MiB has several for every thread.
SEGMENT_BYTES: Final = 32 * MIB

#: Threads that read one file. Half of the time the kernel copies, while another thread computes a
#: checksum; further threads would wait for the interpreter.
_READERS: Final = 4


class Checksum:
    """A CRC-32C that is being computed."""

    def __init__(self, value: int = 0) -> None:
        self._value = value

    def update(self, data: bytes | memoryview, /) -> None:
        """Add bytes."""
        self._value = crc32c(data, self._value)

    def digest(self) -> bytes:
        """Return the CRC-32C of the bytes, big-endian."""
        return self._value.to_bytes(4, "big")

    def copy(self) -> Checksum:
        """Return an independent copy."""
        return Checksum(self._value)


class SegmentChecksums:
    """A CRC-32C of each segment of a file."""

    def __init__(self) -> None:
        self._over: list[bytes] = []
        self._current = ContentHasher(Checksum())
        self._left = SEGMENT_BYTES

    def update(self, data: bytes | memoryview, /) -> None:
        """Add bytes."""
        while len(data) > self._left:
            part = memoryview(data)[: self._left]
            data = memoryview(data)[self._left :]
            self._current.update(part)
            self._next_segment()
        self._current.update(data)
        self._left -= len(data)

    def zeros(self, count: int, between: Callable[[], object] | None = None) -> None:
        """Add `count` zero bytes; calls `between` from time to time."""
        while count > self._left:
            count -= self._left
            self._current.zeros(self._left, between)
            self._next_segment()
        self._current.zeros(count, between)
        self._left -= count

    @property
    def values(self) -> list[bytes]:
        """The checksum of each segment; the last segment may be shorter."""
        return [*self._over, self._current.value()]

    def copy(self) -> SegmentChecksums:
        """Return an independent copy."""
        other = SegmentChecksums()
        other._over = self._over.copy()
        other._current = self._current.copy()
        other._left = self._left
        return other

    def _next_segment(self) -> None:
        self._over.append(self._current.value())
        self._current = ContentHasher(Checksum())
        self._left = SEGMENT_BYTES


class StagedDigest:
    """The upload's digest and the checksums of the same bytes.

    Args:
        algorithm: of the upload; None computes no digest (DIG-9).
    """

    def __init__(self, algorithm: DigestAlgorithm | None) -> None:
        self._algorithm = algorithm
        self._digest = None if algorithm is None else DigestHasher(algorithm)
        self._checksums = SegmentChecksums()

    @property
    def checksums(self) -> list[bytes]:
        """The CRC-32C of each segment of the bytes."""
        return self._checksums.values

    def update(self, data: bytes | memoryview, /) -> None:
        """Add bytes."""
        if self._digest is not None:
            self._digest.update(data)
        self._checksums.update(data)

    def zeros(self, count: int, between: Callable[[], object] | None = None) -> None:
        """Add `count` zero bytes; calls `between` from time to time."""
        if self._digest is not None:
            self._digest.zeros(count, between)
        self._checksums.zeros(count, between)

    def digest(self) -> Digest | None:
        """Return the digest of the bytes; None if none is computed."""
        return None if self._digest is None else self._digest.digest()

    def copy(self) -> StagedDigest:
        """Return an independent copy."""
        other = StagedDigest(self._algorithm)
        other._digest = None if self._digest is None else self._digest.copy()
        other._checksums = self._checksums.copy()
        return other


def checksums_of_file(fs: FileSystem, fd: int, size: int, interrupt: Interrupt) -> list[bytes] | None:
    """Compute the CRC-32C of each segment of the first `size` bytes of a file, as `StagedDigest` does.

    It does not read holes. It blocks; several threads read a large file.

    Returns:
        The checksums; None if the file is shorter.

    Raises:
        OSError: the file cannot be read.
    """

    def checksum(start: int) -> bytes | None:
        end = min(start + SEGMENT_BYTES, size)
        hasher = ContentHasher(Checksum())
        return hasher.value() if put_file(fs, fd, end, hasher, interrupt, start=start) == end else None

    starts = range(0, max(size, 1), SEGMENT_BYTES)
    readers = min(len(starts), _READERS, len(os.sched_getaffinity(0)))
    if readers == 1:
        values = [checksum(start) for start in starts]
    else:
        with ThreadPoolExecutor(readers, thread_name_prefix="file-agent-verify") as pool:
            values = list(pool.map(checksum, starts))
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None
