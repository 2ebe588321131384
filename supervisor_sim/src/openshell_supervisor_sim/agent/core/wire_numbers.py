"""Numbers of the kernel and of clocks, clamped to the range of a message field or a journal column.

A file system may report any 64-bit number of seconds, and an inode number or an allocated size that
no signed field holds. Such a file can still be transferred, so a number out of range becomes the
nearest one in range.
"""

from __future__ import annotations

import math
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

#: The range of google.protobuf.Timestamp: the years 1 to 9999.
MIN_TIMESTAMP_SECONDS: Final = -62_135_596_800
MAX_TIMESTAMP_SECONDS: Final = 253_402_300_799

#: The range of google.protobuf.Duration: 10 000 years.
_MAX_DURATION_SECONDS: Final = 315_576_000_000

NANOSECONDS: Final = 1_000_000_000
_MAX_UNSIGNED: Final = (1 << 64) - 1


def set_time(target: Timestamp, nanoseconds: int) -> None:
    """Set a time, clamped to the message's range.

    Args:
        target: message to set.
        nanoseconds: since 1970, of any size.
    """
    seconds, nanos = divmod(nanoseconds, NANOSECONDS)
    if seconds < MIN_TIMESTAMP_SECONDS:
        seconds, nanos = MIN_TIMESTAMP_SECONDS, 0
    elif seconds > MAX_TIMESTAMP_SECONDS:
        seconds, nanos = MAX_TIMESTAMP_SECONDS, NANOSECONDS - 1
    target.seconds, target.nanos = seconds, nanos


def set_clock_time(target: Timestamp, seconds: float) -> None:
    """Set a time in seconds since 1970; see `set_time`."""
    set_time(target, _nanoseconds(seconds, MAX_TIMESTAMP_SECONDS))


def set_duration(target: Duration, seconds: float) -> None:
    """Set a duration, clamped to the message's range."""
    seconds_part, nanos = divmod(_nanoseconds(seconds, _MAX_DURATION_SECONDS), NANOSECONDS)
    target.seconds, target.nanos = seconds_part, nanos


def unsigned(value: int) -> int:
    """Return a number clamped to the range of a uint64."""
    return min(max(value, 0), _MAX_UNSIGNED)


def signed(value: int) -> int:
    """Return a 64-bit number as SQLite stores it: the same bits, read as signed.

    Different numbers stay different, so an inode number can be compared.
    """
    value &= _MAX_UNSIGNED
    return value - (1 << 64) if value >> 63 else value


def _nanoseconds(seconds: float, most: int) -> int:
    if math.isnan(seconds):
        return 0
    return round(min(max(seconds, -most), most) * NANOSECONDS)
