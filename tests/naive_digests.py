"""The digests of docs/protocol.md, word by word and slowly."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from openshell_files_protocol.pb.openshell.v1 import files_pb2

BLOCK: Final = 1 << 20

SHA256: Final = files_pb2.DIGEST_ALGORITHM_SHA256
BLOCKS: Final = files_pb2.DIGEST_ALGORITHM_SHA256_BLOCKS


def sha256_of(content: bytes) -> bytes:
    """DIG-1"""
    return hashlib.sha256(content).digest()


def blocks_of(content: bytes) -> bytes:
    """DIG-2"""
    stream = b""
    for index, begin in enumerate(range(0, len(content), BLOCK)):
        block = content[begin : begin + BLOCK]
        if block.count(0) < len(block):
            stream += index.to_bytes(8, "big") + block
    return hashlib.sha256(stream + len(content).to_bytes(8, "big")).digest()


def algorithm_of(*, blocks: bool) -> files_pb2.DigestAlgorithm.ValueType:
    """DIG-3: what a message says; the default is left out."""
    return BLOCKS if blocks else files_pb2.DIGEST_ALGORITHM_UNSPECIFIED


def digest_fields(content: bytes, *, blocks: bool) -> dict[str, Any]:
    """DIG-4: a digest in the field of its algorithm."""
    return {"sha256_blocks": blocks_of(content)} if blocks else {"sha256": sha256_of(content)}


def finish_of(content: bytes, *, blocks: bool) -> files_pb2.UploadFinish:
    """DIG-4: the finish of an upload with one of the two."""
    return files_pb2.UploadFinish(size_bytes=len(content), **digest_fields(content, blocks=blocks))
