"""Digest of an upload's content, with snapshots that a resume rewinds to."""

from __future__ import annotations

from collections import deque
from typing import Final

from openshell_files_protocol.digests import Digest, DigestAlgorithm, DigestHasher

#: Enough to rewind over all chunks in the buffers of connection, gateway and
#: agent. A snapshot has at most 2 KiB.
_SNAPSHOTS: Final = 128


class ContentDigest:
    """Hashes content from its start and keeps snapshots at the latest chunk boundaries.

    A resume begins at a boundary that was sent a moment ago. With a snapshot
    of the hash there, neither the digest of the prefix (RSM-15) nor that of the
    whole needs another read of the source.

    Args:
        algorithm: of the digest.
    """

    def __init__(self, algorithm: DigestAlgorithm) -> None:
        self._hasher = DigestHasher(algorithm)
        self._position = 0
        self._snapshots: deque[tuple[int, DigestHasher]] = deque(maxlen=_SNAPSHOTS)
        self._remember()

    @property
    def algorithm(self) -> DigestAlgorithm:
        """Algorithm of the digest."""
        return self._hasher.algorithm

    @property
    def position(self) -> int:
        """Bytes hashed so far."""
        return self._position

    def update(self, data: bytes | memoryview) -> None:
        """Hash the next bytes."""
        self._hasher.update(data)
        self._position += len(data)
        self._remember()

    def update_zeros(self, count: int) -> None:
        """Hash a hole as the next bytes."""
        self._hasher.zeros(count)
        self._position += count
        self._remember()

    def digest(self) -> Digest:
        """Return the digest of everything hashed so far."""
        return self._hasher.digest()

    def rewind(self, position: int) -> bool:
        """Rewind to a boundary.

        Returns:
            False if there is no snapshot of it; the digest is then at 0.
        """
        if position == self._position:
            return True
        for at, hasher in reversed(self._snapshots):
            if at == position:
                self._hasher = hasher.copy()
                self._position = position
                while self._snapshots and self._snapshots[-1][0] > position:
                    self._snapshots.pop()
                return True
        self._hasher = DigestHasher(self.algorithm)
        self._position = 0
        self._snapshots.clear()
        self._remember()
        return position == 0

    def _remember(self) -> None:
        self._snapshots.append((self._position, self._hasher.copy()))
