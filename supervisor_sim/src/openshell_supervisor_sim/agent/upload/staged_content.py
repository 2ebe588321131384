"""The content of one upload so far: bytes in the staging file, and their checksums."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Final

from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.limits import MIB

from openshell_supervisor_sim.agent.filesystem.file_digest import put_file
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt
from openshell_supervisor_sim.agent.upload.staged_budget import StagedBudget
from openshell_supervisor_sim.agent.upload.staged_digest import StagedDigest, checksums_of_file

#: Zeros of a hole that are hashed and staged in one step.
HOLE_STEP: Final = 64 * MIB


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The staged content at one moment.

    Attributes:
        size: in bytes.
        edition: see `StagedContent`.
        digest: None if none is computed, or it is unknown.
        checksums: the CRC-32C of each segment of the bytes that arrived; None if unknown.
    """

    size: int
    edition: int
    digest: Digest | None
    checksums: list[bytes] | None


class StagedContent:
    """Bytes of an upload, from the start without a gap.

    Only its `LiveUpload` calls it, with the upload's lock held, except for the methods that read
    the whole file.

    Args:
        algorithm: of the digest; None computes no digest (DIG-9).
        fs: system calls.
        budget: bytes that may be staged.

    Attributes:
        size: bytes in the staging file.
        occupied: bytes of them that are not holes.
        durable: bytes flushed to the device.
        edition: rises whenever staged bytes are dropped, so that a flush counts for its own content only.
    """

    def __init__(self, algorithm: DigestAlgorithm | None, fs: FileSystem, budget: StagedBudget) -> None:
        self.size = 0
        self.occupied = 0
        self.durable = 0
        self.edition = 0
        self._algorithm = algorithm
        self._fs = fs
        self._budget = budget
        #: Checksums of exactly these bytes; None until they are read from the file again.
        self._hasher: StagedDigest | None = StagedDigest(algorithm)

    @property
    def hashed(self) -> bool:
        """False if the checksums must be computed from the file by `hash_prefix`."""
        return self._hasher is not None

    @property
    def digest(self) -> Digest | None:
        """Digest of the staged bytes; None if none is computed, or it is unknown."""
        return None if self._hasher is None else self._hasher.digest()

    def snapshot(self) -> Snapshot:
        """Return the content as it is now."""
        checksums = None if self._hasher is None else self._hasher.checksums
        return Snapshot(self.size, self.edition, self.digest, checksums)

    def append(self, fd: int, data: bytes | memoryview) -> None:
        """Write content after the staged bytes. If the disk fails midway, the bytes that it wrote are staged.

        Raises:
            TransferError: QUOTA_EXCEEDED.
            OSError: the disk failed.
        """
        view = memoryview(data)
        written = 0
        hasher = self._known_hasher()
        self._budget.take(len(view))
        try:
            while written < len(view):
                count = self._fs.pwrite(fd, view[written:], self.size + written)
                if not count:
                    raise OSError(errno.EIO, "the file system accepts no more bytes")
                written += count
        finally:
            hasher.update(data if written == len(view) else view[:written])
            self.size += written
            self.occupied += written
            self._budget.give_back(len(view) - written)

    def checksums(self) -> StagedDigest:
        """Return a copy of the checksums, to which a caller adds a hole without the lock."""
        return self._known_hasher().copy()

    def append_hole(self, fd: int, length: int, checksums: StagedDigest) -> None:
        """Lengthen the staging file by a hole.

        Args:
            fd: of the staging file.
            length: of the hole, in bytes.
            checksums: of the staged bytes and the hole.

        Raises:
            OSError: the disk failed; digest and size are as they were.
        """
        self._fs.truncate(fd, self.size + length)
        self._hasher = checksums
        self.size += length

    def restart(self, fd: int) -> None:
        """Drop every byte, and start from an empty file."""
        self._fs.truncate(fd, 0)
        self.drop()
        self._hasher = StagedDigest(self._algorithm)

    def drop(self) -> None:
        """Count the staged bytes no longer; the caller removes the file."""
        self.size = self.durable = 0
        self.edition += 1
        self.free()

    def free(self) -> None:
        """Return the bytes to the budget."""
        self._budget.give_back(self.occupied)
        self.occupied = 0

    def found(self, size: int, occupied: int, durable: int) -> None:
        """Adopt a staging file that an earlier agent wrote."""
        self.size = size
        self.durable = min(durable, size)
        self.occupied = occupied
        self._budget.adopt(occupied)
        self._hasher = None

    def flushed(self, content: Snapshot) -> None:
        """Note that content was flushed to the device, unless it was dropped meanwhile."""
        if content.edition == self.edition:
            self.durable = max(self.durable, content.size)

    def matches_file(self, fd: int) -> bool:
        """Make memory and staging file agree.

        Returns:
            False if the file lost bytes, so that `hash_prefix` must read it.
        """
        status = self._fs.fstat(fd)
        if status.st_size > self.size:
            self._fs.truncate(fd, self.size)
        elif status.st_size < self.size:
            self._shortened(status.st_size, status)
            self._hasher = None
        return self.hashed

    def hash_prefix(
        self, fd: int, size: int, interrupt: Interrupt
    ) -> tuple[StagedDigest, int, os.stat_result]:
        """Compute the checksums of the first `size` bytes; call without the lock, since a large file takes long.

        Returns:
            The checksums, the bytes that the file had, and its status, for `adopt_hash`.
        """
        hasher = StagedDigest(self._algorithm)
        count = put_file(self._fs, fd, size, hasher, interrupt)
        return hasher, count, self._fs.fstat(fd)

    def adopt_hash(self, hasher: StagedDigest, count: int, status: os.stat_result) -> None:
        """Take over the checksums that `hash_prefix` computed, and the size that it met."""
        if count < self.size:
            self._shortened(count, status)
        self._hasher = hasher

    def equals_file(self, fd: int, content: Snapshot, interrupt: Interrupt) -> bool:
        """Read the staging file again and compare it with the content that arrived; call without the lock.

        Raises:
            OSError: the file cannot be read.
            Interrupted: the stream was ended.
        """
        return checksums_of_file(self._fs, fd, content.size, interrupt) == content.checksums

    def _shortened(self, size: int, status: os.stat_result) -> None:
        """Note that a program in the sandbox shortened the file."""
        self.size = size
        self.edition += 1
        self.durable = min(self.durable, size)
        occupied = min(self.occupied, occupied_bytes(status))
        self._budget.give_back(self.occupied - occupied)
        self.occupied = occupied

    def _known_hasher(self) -> StagedDigest:
        if self._hasher is None:
            raise RuntimeError("the staged bytes were not read before more were written")
        return self._hasher


def occupied_bytes(status: os.stat_result) -> int:
    """Return the bytes of a file that are not holes, as the budget counts them."""
    return min(status.st_size, status.st_blocks * 512)
