"""Notices a transfer in which nothing moves."""

from __future__ import annotations

import asyncio

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason


class Activity:
    """When something last moved in a transfer.

    Transfers have no total deadline, since nobody knows how long a file
    takes; what they have is a bound on standing still.
    """

    def __init__(self, idle_seconds: float) -> None:
        self._idle = idle_seconds
        self._clock = asyncio.get_running_loop().time
        self._last = self._clock()

    def touch(self) -> None:
        """Something moved."""
        self._last = self._clock()

    async def watch(self) -> None:
        """Wait until nothing has moved for too long.

        Raises:
            TransferError: TRANSFER_IDLE, always.
        """
        while True:
            left = self._last + self._idle - self._clock()
            if left <= 0:
                break
            await asyncio.sleep(left)
        raise TransferError(Reason.TRANSFER_IDLE, f"nothing moved for {self._idle:g} s")
