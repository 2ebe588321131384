"""SHA-256 of a transfer's content, with the way back that a resume needs."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Final, Protocol, Self

#: Enough to go back over everything that can be on its way: chunks in the
#: connection's, the gateway's and the agent's buffers. A snapshot is a few
#: hundred bytes.
_SNAPSHOTS: Final = 128

_ZEROS: Final = bytes(1 << 20)


class Hasher(Protocol):
    """What hashlib gives."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Hash more bytes."""
        ...

    def digest(self) -> bytes:
        """Return the digest of the bytes so far."""
        ...

    def copy(self) -> Self:
        """Return an independent hasher of the same bytes."""
        ...


def add_zeros(hasher: Hasher, count: int) -> None:
    """Hash `count` zero bytes without allocating them."""
    while count:
        step = min(count, len(_ZEROS))
        hasher.update(memoryview(_ZEROS)[:step])
        count -= step


class ContentDigest:
    """Hashes content from its start and remembers the latest chunk boundaries.

    A resume goes on at a boundary that was sent a moment ago. With a snapshot
    of the hash there, neither the prefix's digest (RSM-4) nor the whole's
    needs another read of the source.
    """

    def __init__(self) -> None:
        self._hasher: Hasher = hashlib.sha256()
        self._position = 0
        self._snapshots: deque[tuple[int, Hasher]] = deque(maxlen=_SNAPSHOTS)
        self._remember()

    @property
    def position(self) -> int:
        """Bytes hashed so far."""
        return self._position

    def update(self, data: bytes | memoryview) -> None:
        """Hash the bytes that follow."""
        self._hasher.update(data)
        self._position += len(data)
        self._remember()

    def update_zeros(self, count: int) -> None:
        """Hash a hole that follows."""
        add_zeros(self._hasher, count)
        self._position += count
        self._remember()

    def digest(self) -> bytes:
        """Return the SHA-256 of everything hashed so far."""
        return self._hasher.digest()

    def rewind(self, position: int) -> bool:
        """Go back to a boundary.

        Returns:
            False if it is not remembered; the digest then starts at 0.
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
        self._hasher = hashlib.sha256()
        self._position = 0
        self._snapshots.clear()
        self._remember()
        return position == 0

    def _remember(self) -> None:
        self._snapshots.append((self._position, self._hasher.copy()))
