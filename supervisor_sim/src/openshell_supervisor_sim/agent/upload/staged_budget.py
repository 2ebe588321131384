"""The limit of bytes that unfinished uploads occupy together (RSM-32)."""

from __future__ import annotations

import threading

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason


class StagedBudget:
    """Counts the bytes of unfinished uploads. Any thread may call.

    Args:
        limit: in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes in use."""
        return self._used

    def take(self, count: int) -> None:
        """Take bytes.

        Raises:
            TransferError: QUOTA_EXCEEDED.
        """
        with self._lock:
            if self._used + count > self._limit:
                raise TransferError(
                    Reason.QUOTA_EXCEEDED,
                    f"unfinished uploads may occupy {self._limit} bytes, {self._used} are in use",
                    {"max_staged_bytes": str(self._limit), "staged_bytes": str(self._used)},
                )
            self._used += count

    def adopt(self, count: int) -> None:
        """Count bytes that an earlier agent staged, even above the limit."""
        with self._lock:
            self._used += count

    def give_back(self, count: int) -> None:
        """Return bytes."""
        with self._lock:
            self._used -= count
