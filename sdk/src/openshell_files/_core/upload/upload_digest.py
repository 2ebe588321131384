"""Algorithm of one upload's digest: first the caller's best, then the one that the server has (DIG-2, DIG-4, DIG-8)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.pb.openshell.v1 import files_pb2

from openshell_files._core import answers
from openshell_files.results import UploadState


class Agreement(Enum):
    """Result of comparing the server's algorithm with the caller's."""

    #: Both ends use one algorithm.
    AGREED = auto()
    #: The upload has an algorithm that the caller does not accept.
    NOT_ACCEPTED = auto()
    #: The server cannot compare the source's digest: hash the source with the server's algorithm first.
    HASH_SOURCE = auto()


class UploadDigest:
    """Chooses the algorithm.

    Args:
        accepted: algorithms that the caller accepts, best first.
        source: digest of the whole source, if the sandbox is to compare it (RSM-9).

    Attributes:
        accepted: the same.
        source: the same, or the digest that `source_hashed` set.
        algorithm: the upload's algorithm as far as it is known.
    """

    def __init__(self, accepted: Sequence[DigestAlgorithm], source: Digest | None) -> None:
        self.accepted = accepted
        self.source = source
        self.algorithm = accepted[0]
        self._expected = accepted[0]
        self._hashed_again = False

    @property
    def untried(self) -> Sequence[DigestAlgorithm]:
        """Accepted algorithms after the expected one."""
        return self.accepted[self.accepted.index(self._expected) + 1 :]

    def expect_next(self) -> None:
        """Expect the next accepted algorithm: the server refused this one (DIG-8)."""
        self._expected = self.algorithm = self.untried[0]

    def begin_upload(self) -> None:
        """Expect for a new upload what the server probably takes."""
        self.algorithm = self._expected

    def source_hashed(self, digest: Digest) -> None:
        """Take the source's digest by the server's algorithm."""
        self.source, self._hashed_again = digest, True

    def agree(self, status: files_pb2.UploadStatus, *, resumes: bool) -> Agreement:
        """Use the algorithm that the upload has (DIG-4).

        Args:
            status: state of the upload.
            resumes: an earlier call made the upload, so the source's digest was not sent.
        """
        has = DigestAlgorithm.known(status.digest_algorithm)
        if has is None or has not in self.accepted:
            return Agreement.NOT_ACCEPTED
        self.algorithm = has
        if resumes or self.source is None or self.source.algorithm is has or self._hashed_again:
            return Agreement.AGREED
        if answers.upload_state(status) is not UploadState.RECEIVING:
            return Agreement.AGREED
        self._expected = has
        return Agreement.HASH_SOURCE
