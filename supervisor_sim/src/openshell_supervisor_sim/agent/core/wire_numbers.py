"""Numbers of the kernel and of clocks, made such that a message or a journal can hold them.

A file system may say any 64-bit number of seconds, and an inode number or an
allocated size that no signed field holds. A file with such numbers is still a
file, so whatever cannot be carried becomes the nearest number that can.
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
    """Set a time, or the first or last one that the message can hold.

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
    """Set a time in seconds since 1970, as clocks and settings say it; see `set_time`."""
    set_time(target, _nanoseconds(seconds, MAX_TIMESTAMP_SECONDS))


def set_duration(target: Duration, seconds: float) -> None:
    """Set a duration, or the longest one that the message can hold."""
    seconds_part, nanos = divmod(_nanoseconds(seconds, _MAX_DURATION_SECONDS), NANOSECONDS)
    target.seconds, target.nanos = seconds_part, nanos


def unsigned(value: int) -> int:
    """Return the nearest number that a uint64 holds."""
    return min(max(value, 0), _MAX_UNSIGNED)


def signed(value: int) -> int:
    """Return a number of 64 bits as SQLite keeps it: the same bits, with a sign.

    Different numbers stay different, so an inode number can be compared.
    """
    value &= _MAX_UNSIGNED
    return value - (1 << 64) if value >> 63 else value


def _nanoseconds(seconds: float, most: int) -> int:
    if math.isnan(seconds):
        return 0
    return round(min(max(seconds, -most), most) * NANOSECONDS)
