"""The bytes of a file that a download sends, and how they are cut into messages (DWN-4, DWN-7, DWN-16)."""

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
    """The payload of one message: content or a hole."""

    offset: int
    length: int
    hole: bool


def span(request: DownloadRequest, size: int) -> Span:
    """Apply the request's range to a file of `size` bytes (DWN-4, DWN-11, DWN-12).

    Raises:
        TransferError: RANGE_INVALID.
    """
    if request.tail_bytes:
        return Span(max(0, size - request.tail_bytes), size)
    if request.offset > size:
        raise TransferError(
            Reason.RANGE_INVALID,
            f"offset {request.offset} is behind the end of the file at {size}",
            {"size_bytes": str(size)},
        )
    end = size if request.length is None else min(size, request.offset + request.length)
    return Span(request.offset, end)


def piece_bytes(request: DownloadRequest, limits: Limits) -> int:
    """Return the content of one message in bytes (DWN-8, DWN-16).

    The caller's value has a floor here, too: a gateway that passes it on unchanged would count the
    small pieces as a flood of this supervisor (RLY-25).
    """
    if not request.checked:
        return min(RFC_CHUNK_BYTES, limits.max_chunk_bytes)
    if not request.max_chunk_bytes:
        return limits.max_chunk_bytes
    return min(max(request.max_chunk_bytes, MIN_CHUNK_BYTES), limits.max_chunk_bytes)


def next_piece(position: int, end: int, data_at: int, largest: int) -> Piece:
    """Choose the piece at `position`.

    Args:
        position: where it begins, before `end`.
        end: where the span ends.
        data_at: where content begins, at or after `position`; between them is a hole.
        largest: content of one message in bytes.

    Returns:
        A hole if it is at least as long as one message's content (DWN-7), else content.
    """
    hole = min(data_at, end) - position
    if hole >= largest:
        return Piece(position, min(hole, MAX_HOLE_BYTES), hole=True)
    return Piece(position, min(largest, end - position), hole=False)


def changed_error(path: str) -> TransferError:
    """Make the error for a file that changed while it was read (DWN-14)."""
    return TransferError(Reason.FILE_CHANGED, f"{path} changed while it was read")


def check_version(request: DownloadRequest, version: str) -> None:
    """Apply `if_version` (DWN-6).

    Raises:
        TransferError: VERSION_MISMATCH.
    """
    if request.if_version and request.if_version != version:
        raise TransferError(
            Reason.VERSION_MISMATCH,
            f"if_version is {request.if_version}, the file's version is {version}",
            {"version": version},
        )
