"""The digest of an operation: the first that its caller accepts and the operators allow (DIG-2, DIG-12)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.limits import DIGEST_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

#: Entries of a caller's list. Each costs time on the event loop, which all callers share.
MAX_ACCEPTED_DIGESTS: Final = 16


def accepted_digests(field: str, numbers: Sequence[int]) -> tuple[DigestAlgorithm, ...]:
    """Return the known algorithms of a caller's list; SHA-256 for an empty list (DIG-2, DIG-21).

    Raises:
        TransferError: INVALID_REQUEST for a list that is too long.
    """
    if len(numbers) > MAX_ACCEPTED_DIGESTS:
        raise invalid(field, f"lists {len(numbers)} algorithms, at most {MAX_ACCEPTED_DIGESTS} are allowed")
    return DigestAlgorithm.all_known(numbers) if numbers else (DigestAlgorithm.SHA256,)


def choose(
    field: str, accepted: Sequence[DigestAlgorithm], allowed: Sequence[DigestAlgorithm]
) -> DigestAlgorithm:
    """Choose the algorithm of an operation.

    Args:
        field: the caller's list in the request, for the error.
        accepted: algorithms that the caller accepts, best first.
        allowed: algorithms that the operators allow.

    Raises:
        TransferError: DIGEST_UNSUPPORTED.
    """
    for algorithm in accepted:
        if algorithm in allowed:
            return algorithm
    raise unsupported(field, allowed)


def declared_digest(field: str, message: files_pb2.Digest) -> Digest | None:
    """Check a digest that a request declares.

    Returns:
        The digest; None if this agent does not know its algorithm.

    Raises:
        TransferError: INVALID_REQUEST if it has no algorithm or the wrong size.
    """
    if message.algorithm == files_pb2.DIGEST_ALGORITHM_UNSPECIFIED:
        raise invalid(f"{field}.algorithm", "is missing")
    digest = Digest.of(message)
    if digest is not None and len(digest.value) != DIGEST_BYTES:
        raise invalid(f"{field}.value", f"has {len(digest.value)} bytes, not {DIGEST_BYTES}")
    return digest


def source_digest(request: files_pb2.StartUploadRequest) -> Digest | None:
    """Return the digest of the caller's file; None without one, or with an unknown algorithm (DIG-17, DIG-18).

    Raises:
        TransferError: INVALID_REQUEST.
    """
    if not request.HasField("digest"):
        return None
    digest = declared_digest("digest", request.digest)
    check_listed(request.digest.algorithm, request.metadata)
    return digest


def check_listed(number: int, metadata: files_pb2.UploadFileMetadata) -> None:
    """Check that the caller accepts the algorithm of the digest that it sent.

    Raises:
        TransferError: INVALID_REQUEST (DIG-6).
    """
    if number not in (metadata.accepted_digests or [files_pb2.DIGEST_ALGORITHM_SHA256]):
        raise invalid("digest.algorithm", "is not among metadata.accepted_digests (DIG-6)")


def unsupported(field: str, allowed: Sequence[DigestAlgorithm]) -> TransferError:
    """Make the error for digests that the operators do not allow."""
    words = ", ".join(algorithm.word for algorithm in allowed)
    return TransferError(
        Reason.DIGEST_UNSUPPORTED, f"{field}: this server computes only {words}", {"digests": words}
    )
