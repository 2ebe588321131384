"""Digests, computed in one go, as messages and words say them."""

from __future__ import annotations

import hashlib
from typing import Final, TypeAlias

import blake3
from openshell_files_protocol.pb.openshell.v1 import files_pb2

Algorithm: TypeAlias = files_pb2.DigestAlgorithm.ValueType

SHA256: Final[Algorithm] = files_pb2.DIGEST_ALGORITHM_SHA256
BLAKE3: Final[Algorithm] = files_pb2.DIGEST_ALGORITHM_BLAKE3

#: An algorithm that nobody knows yet.
UNKNOWN: Final = Algorithm(99)


def value_of(content: bytes, algorithm: Algorithm) -> bytes:
    """DIG-1"""
    return hashlib.sha256(content).digest() if algorithm == SHA256 else blake3.blake3(content).digest()


def digest_of(content: bytes, algorithm: Algorithm = SHA256) -> files_pb2.Digest:
    """DIG-1: the digest of content in a message."""
    return files_pb2.Digest(algorithm=algorithm, value=value_of(content, algorithm))


def finish_of(content: bytes, algorithm: Algorithm = SHA256) -> files_pb2.UploadFinish:
    """UPL-3: the finish of an upload of content."""
    return files_pb2.UploadFinish(size_bytes=len(content), digest=digest_of(content, algorithm))


def words_of(content: bytes, algorithm: Algorithm = BLAKE3) -> str:
    """The digest of content as results of the SDK say it."""
    name = "sha256" if algorithm == SHA256 else "blake3"
    return f"{name}:{value_of(content, algorithm).hex()}"


#: Of no content that a test sends.
OTHER: Final = files_pb2.Digest(algorithm=SHA256, value=bytes(32))
