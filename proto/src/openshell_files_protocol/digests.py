"""The digests of content: a table of algorithms, and a hasher for content with holes (DIG-1).

To add an algorithm, add its number to files.proto and its row to `HASHERS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final, Protocol, Self, cast

import blake3

from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2

_ZEROS: Final = bytes(MIB)


class DigestAlgorithm(Enum):
    """A digest algorithm; the value is its number on the wire."""

    SHA256 = files_pb2.DIGEST_ALGORITHM_SHA256
    BLAKE3 = files_pb2.DIGEST_ALGORITHM_BLAKE3

    @classmethod
    def known(cls, number: int) -> DigestAlgorithm | None:
        """Return the algorithm with a number; None for an unknown number."""
        try:
            return cls(number)
        except ValueError:
            return None

    @classmethod
    def all_known(cls, numbers: Iterable[int]) -> tuple[DigestAlgorithm, ...]:
        """Return the known algorithms among some numbers, in their order."""
        found = (cls.known(number) for number in numbers)
        return tuple(algorithm for algorithm in found if algorithm is not None)

    @property
    def wire(self) -> files_pb2.DigestAlgorithm.ValueType:
        """The number, with the type that messages use."""
        return files_pb2.DigestAlgorithm.ValueType(self.value)

    @property
    def word(self) -> str:
        """The name in messages and settings."""
        return self.name.lower()


#: The supported algorithms, best first: BLAKE3 takes a third of the CPU time of
#: SHA-256, which every implementation supports.
PREFERRED: Final = (DigestAlgorithm.BLAKE3, DigestAlgorithm.SHA256)


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest with its algorithm.

    Attributes:
        algorithm: the algorithm.
        value: the digest, 32 bytes.
    """

    algorithm: DigestAlgorithm
    value: bytes

    @classmethod
    def of(cls, message: files_pb2.Digest) -> Digest | None:
        """Return the digest in a message; None if its algorithm is unknown."""
        algorithm = DigestAlgorithm.known(message.algorithm)
        return None if algorithm is None else cls(algorithm, message.value)

    @property
    def message(self) -> files_pb2.Digest:
        """The digest as a message."""
        return files_pb2.Digest(algorithm=self.algorithm.wire, value=self.value)

    def __str__(self) -> str:
        return f"{self.algorithm.word}:{self.value.hex()}"


class Hasher(Protocol):
    """Interface of hashlib's hash objects."""

    def update(self, data: bytes | memoryview, /) -> object:
        """Add bytes."""
        ...

    def digest(self) -> bytes:
        """Return the digest of all bytes so far."""
        ...

    def copy(self) -> Self:
        """Return an independent copy of the state."""
        ...


class TakesContent(Protocol):
    """Interface of a computation over content, which may contain long runs of zero bytes."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Add bytes."""
        ...

    def zeros(self, count: int, between: Callable[[], object] | None = None) -> None:
        """Add `count` zero bytes.

        Args:
            count: number of bytes.
            between: called before every step of at most 1 MiB; if it raises,
                a part of the zeros has been added.
        """
        ...


class ContentHasher:
    """Adds content with runs of zero bytes to a hasher.

    Args:
        hasher: the hasher.
    """

    def __init__(self, hasher: Hasher) -> None:
        self._hasher = hasher

    def update(self, data: bytes | memoryview, /) -> None:
        """Add bytes."""
        self._hasher.update(data)

    def zeros(self, count: int, between: Callable[[], object] | None = None) -> None:
        """Add `count` zero bytes; see `TakesContent.zeros`."""
        while count:
            if between is not None:
                between()
            step = min(count, len(_ZEROS))
            self._hasher.update(memoryview(_ZEROS)[:step])
            count -= step

    def value(self) -> bytes:
        """Return the digest of all bytes so far."""
        return self._hasher.digest()

    def copy(self) -> ContentHasher:
        """Return an independent copy of the state."""
        return ContentHasher(self._hasher.copy())


class DigestHasher:
    """Computes a digest of content.

    Attributes:
        algorithm: the algorithm.

    Args:
        algorithm: the algorithm.
    """

    def __init__(self, algorithm: DigestAlgorithm) -> None:
        self.algorithm = algorithm
        self._content = ContentHasher(HASHERS[algorithm]())

    def update(self, data: bytes | memoryview, /) -> None:
        """Add bytes."""
        self._content.update(data)

    def zeros(self, count: int, between: Callable[[], object] | None = None) -> None:
        """Add `count` zero bytes; see `TakesContent.zeros`."""
        self._content.zeros(count, between)

    def digest(self) -> Digest:
        """Return the digest of all bytes so far."""
        return Digest(self.algorithm, self._content.value())

    def copy(self) -> DigestHasher:
        """Return an independent copy of the state."""
        other = DigestHasher(self.algorithm)
        other._content = self._content.copy()
        return other


HASHERS: Final[Mapping[DigestAlgorithm, Callable[[], Hasher]]] = {
    DigestAlgorithm.SHA256: hashlib.sha256,
    # One thread: content arrives in pieces of at most 1 MiB, for which more threads gained nothing.
    DigestAlgorithm.BLAKE3: cast("Callable[[], Hasher]", partial(blake3.blake3, max_threads=1)),
}
