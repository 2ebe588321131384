"""What the SDK asks of the C library's heap: that buffers of chunks stay with the process for the next chunk."""

from __future__ import annotations

from functools import cache
from typing import Final

from openshell_files_protocol.limits import MIB

#: The most from which glibc still learns is 32 MiB, its own header included.
_LARGEST_LEARNED: Final = 31 * MIB


@cache
def keep_buffers() -> None:
    """Let glibc see one large block freed, once in a process; another C library does not mind.

    Every chunk is a buffer of about 1 MiB. glibc gives the top of its heap
    back to the kernel whenever more than twice the largest block that it has
    seen freed lies there unused, at first 128 KiB. So each chunk costs page
    faults: up to 180 for a MiB of a download, a tenth of the client's CPU time
    and much more on a virtual machine whose host takes free memory back.

    Setting the thresholds with mallopt, as our servers do, is not for a
    library. This leaves them to glibc, and to whoever set them already: then
    it learns nothing. The block is never touched, so it costs no memory; a
    process may hold up to twice its size after transfers that needed it.
    """
    block = bytes(_LARGEST_LEARNED)  # by calloc: not written to, as a bytearray would be
    del block
