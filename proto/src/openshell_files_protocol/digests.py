"""The digests of content: one table of algorithms, and a hasher that takes runs of zeros (DIG-1).

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
    """How a digest is computed; the value is the number on the wire."""

    SHA256 = files_pb2.DIGEST_ALGORITHM_SHA256
    BLAKE3 = files_pb2.DIGEST_ALGORITHM_BLAKE3

    @classmethod
    def known(cls, number: int) -> DigestAlgorithm | None:
        """Return the algorithm with a number; None if it is not known here."""
        return next((algorithm for algorithm in cls if algorithm.value == number), None)

    @classmethod
    def all_known(cls, numbers: Iterable[int]) -> tuple[DigestAlgorithm, ...]:
        """Return those of some numbers that are known here, in their order."""
        found = (cls.known(number) for number in numbers)
        return tuple(algorithm for algorithm in found if algorithm is not None)

    @property
    def wire(self) -> files_pb2.DigestAlgorithm.ValueType:
        """The number, as a message takes it."""
        return files_pb2.DigestAlgorithm.ValueType(self.value)

    @property
    def word(self) -> str:
        """The name for people and settings."""
        return self.name.lower()


#: What both ends of this repository take, best first: BLAKE3 costs a third of
#: the processor time of SHA-256, which everybody knows.
PREFERRED: Final = (DigestAlgorithm.BLAKE3, DigestAlgorithm.SHA256)


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest with its algorithm.

    Attributes:
        algorithm: how it was computed.
        value: 32 bytes.
    """

    algorithm: DigestAlgorithm
    value: bytes

    @classmethod
    def of(cls, message: files_pb2.Digest) -> Digest | None:
        """Return the digest that a message carries; None if it carries none that is known here."""
        algorithm = DigestAlgorithm.known(message.algorithm)
        return None if algorithm is None else cls(algorithm, message.value)

    @property
    def message(self) -> files_pb2.Digest:
        """The digest for a message."""
        return files_pb2.Digest(algorithm=self.algorithm.wire, value=self.value)

    def __str__(self) -> str:
        return f"{self.algorithm.word}:{self.value.hex()}"


class Hasher(Protocol):
    """What hashlib gives."""

    def update(self, data: bytes | memoryview, /) -> object:
        """Put bytes in."""
        ...

    def digest(self) -> bytes:
        """Return the digest of what was put in."""
        ...

    def copy(self) -> Self:
        """Return a second one that goes on from here."""
        ...


class TakesContent(Protocol):
    """Something that is computed from content, which may have long runs of zeros."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Put bytes in."""
        ...

    def zeros(self, count: int, between: Callable[[], object] | None = None) -> None:
        """Put `count` zero bytes in.

        Args:
            count: how many.
            between: called before every step of at most 1 MiB; may raise, and
                then some of the zeros were put in.
        """
        ...


class ContentHasher:
    """Puts content into a hasher.

    Args:
        hasher: takes the bytes.
    """

    def __init__(self, hasher: Hasher) -> None:
        self._hasher = hasher

    def update(self, data: bytes | memoryview, /) -> None:
        """Put bytes in."""
        self._hasher.update(data)

    def zeros(self, count: int, between: Callable[[], object] | None = None) -> None:
        """Put `count` zero bytes in, as `TakesContent` says."""
        while count:
            if between is not None:
                between()
            step = min(count, len(_ZEROS))
            self._hasher.update(memoryview(_ZEROS)[:step])
            count -= step

    def value(self) -> bytes:
        """Return the digest of what was put in."""
        return self._hasher.digest()

    def copy(self) -> ContentHasher:
        """Return a second one that goes on from here."""
        return ContentHasher(self._hasher.copy())


class DigestHasher:
    """A digest that is being computed.

    Attributes:
        algorithm: how.

    Args:
        algorithm: how.
    """

    def __init__(self, algorithm: DigestAlgorithm) -> None:
        self.algorithm = algorithm
        self._content = ContentHasher(HASHERS[algorithm]())

    def update(self, data: bytes | memoryview, /) -> None:
        """Put bytes in."""
        self._content.update(data)

    def zeros(self, count: int, between: Callable[[], object] | None = None) -> None:
        """Put `count` zero bytes in, as `TakesContent` says."""
        self._content.zeros(count, between)

    def digest(self) -> Digest:
        """Return the digest of what was put in."""
        return Digest(self.algorithm, self._content.value())

    def copy(self) -> DigestHasher:
        """Return a second one that goes on from here."""
        other = DigestHasher(self.algorithm)
        other._content = self._content.copy()
        return other


HASHERS: Final[Mapping[DigestAlgorithm, Callable[[], Hasher]]] = {
    DigestAlgorithm.SHA256: hashlib.sha256,
    # One thread: content comes in pieces of 1 MiB at most, and more threads gained nothing on them.
    DigestAlgorithm.BLAKE3: cast("Callable[[], Hasher]", partial(blake3.blake3, max_threads=1)),
}
