"""Keeps glibc from returning the buffers of chunks to the kernel after each chunk."""

from __future__ import annotations

from functools import cache
from typing import Final

from openshell_files_protocol.limits import MIB

#: glibc learns from freed blocks of up to 32 MiB, its header included.
_LARGEST_LEARNED: Final = 31 * MIB


@cache
def keep_buffers() -> None:
    """Free one large block, once in a process; with another C library this has no effect.

    Every chunk is a buffer of about 1 MiB. glibc returns the top of its heap
    to the kernel when its free part exceeds twice the largest block that was
    ever freed, at first 128 KiB. So each chunk costs page faults: up to 180
    per MiB of a download, a tenth of the client's CPU time, and much more on a
    virtual machine whose host reclaims free memory.

    A library should not set the thresholds with mallopt, as our servers do.
    Here glibc adapts them itself, unless the program has set them. The block is
    never touched, so it costs no memory; after transfers that needed it, a
    process may keep up to twice its size.
    """
    block = bytes(_LARGEST_LEARNED)  # by calloc, which does not touch it
    del block
