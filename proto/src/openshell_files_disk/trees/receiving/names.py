"""Names of a tree's entries: their rules, sets of many, and names that a file system takes for one (TRE-21, TRE-22)."""

from __future__ import annotations

import unicodedata
from array import array
from bisect import bisect_left
from typing import Final

from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.limits import MAX_NAME_BYTES, MAX_PATH_BYTES

_NO_NAMES: Final = frozenset({b"", b".", b".."})

#: Names of a directory that are kept as they are; more are kept as numbers.
_FEW: Final = 4096
#: Sorted lists over which the numbers are spread, so that an insertion moves little memory.
_BUCKETS: Final = 1024
_HASH_BITS: Final = 0xFFFF_FFFF_FFFF_FFFF


class Names:
    """A set of names that takes 8 bytes for each of many.

    Many names are kept as their hashes of 64 bits, with the process's random key. That two of a
    million names have one hash happens once in 30 million sets.
    """

    __slots__ = ("_buckets", "_few")

    def __init__(self) -> None:
        self._few: set[bytes] | None = set()
        self._buckets: list[array[int]] = []

    def add(self, name: bytes) -> bool:
        """Add a name; return whether it is new."""
        few = self._few
        if few is None:
            return self._add_hash(name)
        if name in few:
            return False
        few.add(name)
        if len(few) > _FEW:
            self._few = None
            self._buckets = [array("Q") for _ in range(_BUCKETS)]
            for one in few:
                self._add_hash(one)
        return True

    def __contains__(self, name: bytes) -> bool:
        if self._few is not None:
            return name in self._few
        number = hash(name) & _HASH_BITS
        bucket = self._buckets[number % _BUCKETS]
        place = bisect_left(bucket, number)
        return place < len(bucket) and bucket[place] == number

    def _add_hash(self, name: bytes) -> bool:
        number = hash(name) & _HASH_BITS
        bucket = self._buckets[number % _BUCKETS]
        place = bisect_left(bucket, number)
        if place < len(bucket) and bucket[place] == number:
            return False
        bucket.insert(place, number)
        return True


def folded(name: bytes) -> bytes:
    """Return what is equal for names that a file system takes for one, because it ignores case or normalisation."""
    if name.isascii():
        return name.lower()
    text = name.decode("utf-8", "surrogateescape").casefold()
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogateescape")


def violation(number: int, what: str) -> TransferError:
    """Return the error for an entry that breaks the protocol."""
    return invalid("manifest.entries", f"entry {number} {what}")


def check_name(number: int, path: bytes, name: bytes) -> None:
    """Refuse a path whose last component, or whose length, cannot be (TRE-21).

    Args:
        number: of the entry.
        path: relative to the top directory; what is above its last component is known to be right.
        name: that component.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    if name in _NO_NAMES or b"\0" in name or b"/" in name:
        raise violation(number, "has a path with a component that is empty, `.` or `..`, or has NUL (TRE-21)")
    if len(name) > MAX_NAME_BYTES:
        raise violation(number, f"has a name of {len(name)} bytes, more than {MAX_NAME_BYTES} (TRE-21)")
    if len(path) > MAX_PATH_BYTES:
        raise violation(number, f"has a path of {len(path)} bytes, more than {MAX_PATH_BYTES} (TRE-21)")


def check_path(number: int, path: bytes) -> list[bytes]:
    """Return the components of a path; refuse one that cannot be (TRE-21).

    Raises:
        TransferError: INVALID_REQUEST.
    """
    names = path.split(b"/", MAX_PATH_BYTES)
    for name in names:
        check_name(number, path, name)
    return names
