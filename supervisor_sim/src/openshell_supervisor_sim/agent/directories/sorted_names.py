"""The sorted names of a directory, and a cache of those of large directories (DIR-5)."""

from __future__ import annotations

import os
import threading
import time
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final, overload

from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.limits import MIB

#: A smaller directory is read again for each page.
_LEAST_NAMES: Final = 1000

#: Bytes of all directories in the cache.
_MOST_BYTES: Final = 64 * MIB

#: Times of directories advance every 10 ms or less. A directory that changed a moment ago could change again with the
#: same time.
_SETTLED_SECONDS: Final = 0.1

Key = tuple[int, int, int, int]


class SortedNames(Sequence[bytes]):
    """Names in the order of their bytes, packed.

    Args:
        names: in any order.
    """

    def __init__(self, names: Sequence[bytes]) -> None:
        ordered = sorted(names)
        self._ends = array("Q", accumulate(len(name) for name in ordered))
        self._packed = b"".join(ordered)

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return len(self._packed) + 8 * len(self._ends)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not 0 <= index < len(self._ends):
            raise IndexError(index)
        return self._packed[self._ends[index - 1] if index else 0 : self._ends[index]]

    def index_behind(self, name: bytes) -> int:
        """Return the index of the first name behind another one, which need not be there."""
        return bisect_right(self, name)


class NamesCache:
    """The names of the last large directories that were listed. Any thread may call it.

    Args:
        fs: system calls.
        clock: seconds since 1970.
    """

    def __init__(self, fs: FileSystem, clock: Callable[[], float] = time.time) -> None:
        self._fs = fs
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[Key, SortedNames] = OrderedDict()
        self._bytes = 0

    def names(self, fd: int, status: os.stat_result) -> SortedNames:
        """Return the names in a directory that is open for reading.

        Args:
            fd: of the directory.
            status: of it, from before this call.

        Raises:
            OSError: the directory cannot be read.
        """
        key = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        with self._lock:
            if (known := self._known.get(key)) is not None:
                self._known.move_to_end(key)
                return known
        names = SortedNames(self._fs.names(fd))
        settled = self._clock() - status.st_ctime_ns / 1e9 >= _SETTLED_SECONDS
        if settled and len(names) >= _LEAST_NAMES and names.size <= _MOST_BYTES:
            self._add(key, names)
        return names

    def _add(self, key: Key, names: SortedNames) -> None:
        with self._lock:
            if key not in self._known:
                self._known[key] = names
                self._bytes += names.size
            while self._bytes > _MOST_BYTES:
                _, oldest = self._known.popitem(last=False)
                self._bytes -= oldest.size
