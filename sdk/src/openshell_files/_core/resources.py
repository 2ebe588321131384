"""Failures of this process itself. Imports only the standard library: the command needs it early."""

from __future__ import annotations

from typing import Final

#: How Python's `RuntimeError` begins if the system refuses a thread.
_NO_THREAD: Final = "can't start new thread"


def lacks_resources(error: BaseException) -> bool:
    """Return whether an exception means that this process gets no more memory or threads."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and str(error).startswith(_NO_THREAD)
    )
