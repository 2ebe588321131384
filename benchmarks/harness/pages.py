"""Memory that the machine has at hand before something is measured that will take it.

A virtual machine may give memory that nobody uses back to its host, within
seconds and without being asked (free page reporting). Who takes it next waits
for the host, page by page: where these benchmarks were made a GiB of file in
memory took 5 s then, and 0.5 s otherwise, whoever wrote it. It hit ours or the
baseline as it came, and was larger than what was to be measured.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Final

import psutil

#: For the heaps and sockets of everybody who takes part.
_BESIDE: Final = 256 << 20

#: Left to everything else.
_SPARE: Final = 512 << 20


def take_before(size: int) -> None:
    """Take memory and let it go again, so that what comes next gets pages that the machine has.

    Args:
        size: bytes that will be written to files in memory. A quarter more is
            taken, and what processes need beside; less if there is no more.
    """
    taken = min(size + size // 4 + _BESIDE, psutil.virtual_memory().available - _SPARE)
    if taken <= 0:
        return
    with mmap.mmap(-1, taken) as memory:
        # It is only quicker; not every kernel has large pages.
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
        for page in range(0, taken, mmap.PAGESIZE):
            memory[page] = 1
