"""The two digests of content, and how each deals with zeros (DIG-1, DIG-2).

SHA-256 of all bytes has no shortcut for a run of zeros: a sparse file of a
terabyte costs what a full one does. The digest of blocks leaves out what is
zero, so it costs what the content costs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol, Self

from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2

#: Content is cut here, and nowhere else (DIG-1).
BLOCK_BYTES: Final = MIB

#: Whoever sends takes the digest of blocks if so many zeros can be left out.
#: With fewer, SHA-256, which every tool knows, costs a tenth of a second more.
WORTHWHILE_ZEROS: Final = 64 * MIB

_ZEROS: Final = bytes(MIB)


class DigestAlgorithm(Enum):
    """Which digest, with its number on the wire."""

    SHA256 = files_pb2.DIGEST_ALGORITHM_SHA256
    SHA256_BLOCKS = files_pb2.DIGEST_ALGORITHM_SHA256_BLOCKS

    @classmethod
    def of(cls, number: int) -> DigestAlgorithm:
        """Return what a message means; what is not known is SHA-256, the default (DIG-3)."""
        return cls.SHA256_BLOCKS if number == files_pb2.DIGEST_ALGORITHM_SHA256_BLOCKS else cls.SHA256

    @property
    def wire(self) -> files_pb2.DigestAlgorithm.ValueType:
        """The number for a message: the default is left out, as a peer that knows no other leaves it out."""
        return (
            files_pb2.DIGEST_ALGORITHM_UNSPECIFIED
            if self is DigestAlgorithm.SHA256
            else files_pb2.DIGEST_ALGORITHM_SHA256_BLOCKS
        )

    @property
    def field(self) -> str:
        """The name of the field that carries it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest, and which one it is.

    Attributes:
        algorithm: which.
        value: 32 bytes; empty if a message did not carry it.
    """

    algorithm: DigestAlgorithm
    value: bytes

    @property
    def sha256(self) -> bytes:
        """The value for a field of SHA-256; empty if it is the other one."""
        return self.value if self.algorithm is DigestAlgorithm.SHA256 else b""

    @property
    def sha256_blocks(self) -> bytes:
        """The value for a field of the digest of blocks; empty if it is the other one."""
        return self.value if self.algorithm is DigestAlgorithm.SHA256_BLOCKS else b""


class Hasher(Protocol):
    """What hashlib gives."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Put bytes in."""
        ...

    def digest(self) -> bytes:
        """Return the digest of what was put in."""
        ...

    def copy(self) -> Self:
        """Return a second one that goes on from here."""
        ...


class ContentHasher(Hasher, Protocol):
    """A digest that is being computed, of content that may have long runs of zeros."""

    def zeros(self, count: int, between: Callable[[], object] | None = None) -> None:
        """Put `count` zero bytes in.

        Args:
            count: how many.
            between: called now and then if it takes long; may raise, and then
                some of the zeros were put in.
        """
        ...


class WholeDigest:
    """A digest of all bytes (DIG-1).

    Args:
        hasher: takes them; SHA-256 unless told otherwise.
    """

    def __init__(self, hasher: Hasher | None = None) -> None:
        self._hasher: Hasher = hashlib.sha256() if hasher is None else hasher

    def update(self, data: bytes | memoryview, /) -> None:
        """Put bytes in."""
        self._hasher.update(data)

    def zeros(self, count: int, between: Callable[[], object] | None = None) -> None:
        """Put `count` zero bytes in, one by one: SHA-256 knows no other way."""
        while count:
            if between is not None:
                between()
            step = min(count, len(_ZEROS))
            self._hasher.update(memoryview(_ZEROS)[:step])
            count -= step

    def digest(self) -> bytes:
        """Return the digest of what was put in."""
        return self._hasher.digest()

    def copy(self) -> WholeDigest:
        """Return a second one that goes on from here."""
        return WholeDigest(self._hasher.copy())


class BlocksDigest:
    """A digest of the blocks that hold anything but zeros (DIG-2).

    Nothing is held back: a block is begun with its index and the zeros it
    starts with as soon as its first other byte comes.

    Args:
        hasher: takes indices, blocks and the size; SHA-256 unless told
            otherwise.
    """

    def __init__(self, hasher: Hasher | None = None) -> None:
        self._hasher: Hasher = hashlib.sha256() if hasher is None else hasher
        self._position = 0
        #: The block at `_position` has a byte that is not zero.
        self._begun = False

    def update(self, data: bytes | memoryview, /) -> None:
        """Put bytes in."""
        view = memoryview(data)
        while view:
            piece = view[: BLOCK_BYTES - self._position % BLOCK_BYTES]
            # Compares like memcmp; content is mostly told from zeros by its first byte.
            if self._begun or not _ZEROS.startswith(piece):
                self._begin()
                self._hasher.update(piece)
            self._advance(len(piece))
            view = view[len(piece) :]

    def zeros(self, count: int, between: Callable[[], object] | None = None) -> None:  # noqa: ARG002 - never takes long
        """Put `count` zero bytes in; hashes less than a block of them."""
        if self._begun and count:
            step = min(count, BLOCK_BYTES - self._position % BLOCK_BYTES)
            self._hasher.update(memoryview(_ZEROS)[:step])
            self._advance(step)
            count -= step
        # Whatever block these reach into, nothing of it was begun.
        self._position += count

    def digest(self) -> bytes:
        """Return the digest of what was put in."""
        last = self._hasher.copy()
        last.update(self._position.to_bytes(8, "big"))
        return last.digest()

    def copy(self) -> BlocksDigest:
        """Return a second one that goes on from here."""
        other = BlocksDigest(self._hasher.copy())
        other._position, other._begun = self._position, self._begun
        return other

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        index, leading = divmod(self._position, BLOCK_BYTES)
        self._hasher.update(index.to_bytes(8, "big"))
        self._hasher.update(memoryview(_ZEROS)[:leading])

    def _advance(self, count: int) -> None:
        self._position += count
        self._begun = self._begun and self._position % BLOCK_BYTES != 0


def new_hasher(algorithm: DigestAlgorithm, hasher: Hasher | None = None) -> WholeDigest | BlocksDigest:
    """Begin a digest.

    Args:
        algorithm: which.
        hasher: what takes the bytes, SHA-256 unless told otherwise.
    """
    return WholeDigest(hasher) if algorithm is DigestAlgorithm.SHA256 else BlocksDigest(hasher)
