"""The range of a file that a download sends, and its division into messages (DWN-4, DWN-7, DWN-16)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MIB, MIN_CHUNK_BYTES, RFC_CHUNK_BYTES
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.limits import Limits
from openshell_supervisor_sim.agent.core.requests import DownloadRequest

#: Largest hole in one message. Both ends hash its zeros, and send nothing meanwhile.
MAX_HOLE_BYTES: Final = 256 * MIB


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes from `start` up to, not including, `end`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a file that one message carries.

    Attributes:
        offset: position of its first byte in the file.
        length: bytes.
        hole: the part is a hole, which the message carries as `hole_bytes`.
    """

    offset: int
    length: int
    hole: bool


def span(request: DownloadRequest, size: int) -> Span:
    """Return the bytes that the request selects of a file of `size` bytes (DWN-4, DWN-11, DWN-12).

    Raises:
        TransferError: RANGE_INVALID; the range begins past the end of the file.
    """
    if request.tail_bytes:
        return Span(max(0, size - request.tail_bytes), size)
    if request.offset > size:
        raise TransferError(
            Reason.RANGE_INVALID,
            f"offset {request.offset} is past the end of the file ({size} bytes)",
            {"size_bytes": str(size)},
        )
    end = size if request.length is None else min(size, request.offset + request.length)
    return Span(request.offset, end)


def piece_bytes(request: DownloadRequest, limits: Limits) -> int:
    """Return the largest number of content bytes in one message (DWN-8, DWN-16).

    A smaller value of the caller is raised to `MIN_CHUNK_BYTES`, even if the gateway passed it on
    unchanged: smaller pieces exceed the gateway's pace, and it ends the call with `SUPERVISOR_FLOODS`
    (RLY-25).
    """
    if not request.checked:
        return min(RFC_CHUNK_BYTES, limits.max_chunk_bytes)
    if not request.max_chunk_bytes:
        return limits.max_chunk_bytes
    return min(max(request.max_chunk_bytes, MIN_CHUNK_BYTES), limits.max_chunk_bytes)


def next_piece(position: int, end: int, data_at: int, largest: int) -> Piece:
    """Return the piece that begins at `position`.

    Args:
        position: offset of the piece, before `end`.
        end: end of the span.
        data_at: offset of the next content, at or after `position`; the bytes between them are a hole.
        largest: largest number of content bytes in one message.

    Returns:
        A hole if it is at least as long as one message's content (DWN-7), else content.
    """
    hole = min(data_at, end) - position
    if hole >= largest:
        return Piece(position, min(hole, MAX_HOLE_BYTES), hole=True)
    return Piece(position, min(largest, end - position), hole=False)


def changed_error(path: str) -> TransferError:
    """Return the error of a file that changed while the agent read it (DWN-14)."""
    return TransferError(Reason.FILE_CHANGED, f"{path} changed while it was read")


def check_version(request: DownloadRequest, version: str) -> None:
    """Compare the file's version with `if_version`, if the request has it (DWN-6).

    Raises:
        TransferError: VERSION_MISMATCH; they differ.
    """
    if request.if_version and request.if_version != version:
        raise TransferError(
            Reason.VERSION_MISMATCH,
            f"if_version is {request.if_version}, the file's version is {version}",
            {"version": version},
        )
