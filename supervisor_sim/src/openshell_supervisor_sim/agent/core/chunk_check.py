"""Compares a chunk with its CRC-32C (UPL-7)."""

from __future__ import annotations

from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason


def check_chunk(offset: int, data: bytes | memoryview, declared: int | None) -> None:
    """Compare content with the CRC-32C that came with it.

    Args:
        offset: of the content in the file, in bytes, for the error.
        data: content of the chunk.
        declared: CRC-32C in the chunk; None for a `chunk` of the RFC, which has none.

    Raises:
        TransferError: CHUNK_CHECKSUM.
    """
    if declared is None:
        return
    computed = crc32c(data)
    if computed != declared:
        raise TransferError(
            Reason.CHUNK_CHECKSUM,
            f"crc32c of the content at {offset} is {declared:08x}, the bytes that arrived have {computed:08x}",
            {"expected_offset": str(offset)},
        )
