"""The process's file mode creation mask."""

from __future__ import annotations

import os
import threading

_SWAPPING = threading.Lock()


def current_umask() -> int:
    """Return the umask.

    Linux reports it; elsewhere it has to be set for a moment to be read. The
    value is the strictest, so that a file of another thread is not too open.
    """
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    with _SWAPPING:
        mask = os.umask(0o077)
        os.umask(mask)
    return mask
