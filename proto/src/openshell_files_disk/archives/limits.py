"""What an archive may become, and the errors of one that cannot be unpacked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from openshell_files_protocol.errors import FieldViolation, TransferError
from openshell_files_protocol.limits import KIB, MIB
from openshell_files_protocol.reasons import Reason

#: Unpacked bytes up to which the ratio is not checked: a small archive of zeros is no bomb.
RATIO_FREE_BYTES: Final = 64 * MIB

#: Largest extended header (pax, or a long name of GNU tar). It is kept in memory.
MAX_EXTENDED_HEADER_BYTES: Final = MIB

#: Largest window of a zstd frame, which is kept in memory; zstd itself needs an option for more.
MAX_ZSTD_WINDOW_BYTES: Final = 128 * MIB

#: Problems of one archive that are listed; the others are counted.
MAX_LISTED_PROBLEMS: Final = 1000

#: Listed problems also end at this size, so that the answer fits into a message.
MAX_LISTED_BYTES: Final = 512 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveLimits:
    """Bounds on one archive (ARC-4).

    Attributes:
        max_entries: members.
        max_bytes: bytes of the archive after decompression, headers included.
        max_ratio: those bytes, divided by the received bytes; checked above `RATIO_FREE_BYTES`.
    """

    max_entries: int
    max_bytes: int
    max_ratio: int


def invalid_archive(description: str) -> TransferError:
    """Return the error of content that is no complete archive."""
    return _refused(Reason.ARCHIVE_INVALID, description)


def too_large(description: str, limit: str, value: int) -> TransferError:
    """Return the error of an archive beyond a limit.

    Args:
        description: what is too large.
        limit: name of the limit, for the metadata.
        value: of the limit.
    """
    return _refused(Reason.ARCHIVE_TOO_LARGE, description, {limit: str(value)})


def _refused(reason: Reason, description: str, metadata: dict[str, str] | None = None) -> TransferError:
    message = f"archive: {description}"
    return TransferError(
        reason, message, metadata or {}, field_violations=(FieldViolation("archive", description),)
    )
