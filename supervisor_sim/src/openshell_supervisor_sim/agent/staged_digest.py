"""Two checksums of what is staged: one of what arrived, one to find out what the file holds.

The upload's digest is computed while content is written. It says nothing about what
the file holds when it is published: a bit may have flipped since, or a program
in the sandbox may have written to the file. So the file is read once more
before it gets its name. A CRC-32C is enough for that: it finds every flipped
bit and every burst of up to 32, and costs a small part of a second SHA-256.
It does not stop a program in the sandbox that means harm; that one can as
well change the file after it was published.

Both are of the same bytes: of all of them, or of the blocks that hold anything
but zeros (DIG-2). In the second case zeros cost nothing, neither when they
arrive nor when the file is read.
"""

from __future__ import annotations

from collections.abc import Callable

from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.digests import Digest, DigestAlgorithm, new_hasher

from openshell_supervisor_sim.agent.file_digest import put_file
from openshell_supervisor_sim.agent.file_info import Interrupt
from openshell_supervisor_sim.agent.filesystem import FileSystem


class Checksum:
    """A CRC-32C that is being computed."""

    def __init__(self, value: int = 0) -> None:
        self._value = value

    def update(self, data: bytes | memoryview, /) -> None:
        """Put bytes in."""
        self._value = crc32c(data, self._value)

    def digest(self) -> bytes:
        """Return the CRC-32C of what was put in, big-endian."""
        return self._value.to_bytes(4, "big")

    def copy(self) -> Checksum:
        """Return a second one that goes on from here."""
        return Checksum(self._value)


class StagedDigest:
    """The upload's digest and a CRC-32C of the same bytes; a `ContentHasher`.

    Args:
        algorithm: of the upload.
    """

    def __init__(self, algorithm: DigestAlgorithm = DigestAlgorithm.SHA256) -> None:
        self._algorithm = algorithm
        self._digest = new_hasher(algorithm)
        self._checksum = new_hasher(algorithm, Checksum())

    @property
    def crc32c(self) -> int:
        """The CRC-32C of what was put in."""
        return int.from_bytes(self._checksum.digest(), "big")

    def update(self, data: bytes | memoryview, /) -> None:
        """Put bytes in."""
        self._digest.update(data)
        self._checksum.update(data)

    def zeros(self, count: int, between: Callable[[], object] | None = None) -> None:
        """Put `count` zero bytes in; `between` is called now and then."""
        self._digest.zeros(count, between)
        self._checksum.zeros(count, between)

    def digest(self) -> bytes:
        """Return the digest of what was put in."""
        return self._digest.digest()

    @property
    def named(self) -> Digest:
        """The digest of what was put in, and which one it is."""
        return Digest(self._algorithm, self.digest())

    def copy(self) -> StagedDigest:
        """Return a second one that goes on from here."""
        other = StagedDigest(self._algorithm)
        other._digest = self._digest.copy()
        other._checksum = self._checksum.copy()
        return other


def checksum_of_file(
    fs: FileSystem,
    fd: int,
    size: int,
    interrupt: Interrupt,
    algorithm: DigestAlgorithm = DigestAlgorithm.SHA256,
) -> int | None:
    """Compute the CRC-32C of the first `size` bytes of a file, as `StagedDigest` does; holes are not read.

    Returns:
        The checksum; None if the file is shorter.

    Raises:
        OSError: the file cannot be read.
    """
    checksum = new_hasher(algorithm, Checksum())
    if put_file(fs, fd, size, checksum, interrupt) < size:
        return None
    return int.from_bytes(checksum.digest(), "big")
