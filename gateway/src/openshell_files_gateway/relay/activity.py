"""Notices a transfer in which nothing moves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")


class Activity:
    """When something last moved in a transfer.

    Transfers have no total deadline, since nobody knows how long a file
    takes; what they have is a bound on standing still.
    """

    def __init__(self, idle_seconds: float) -> None:
        self._idle = idle_seconds
        self._clock = asyncio.get_running_loop().time
        self._last = self._clock()
        self._limit: asyncio.Timeout | None = None

    def touch(self) -> None:
        """Something moved."""
        self._last = self._clock()
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(self._last + self._idle)

    async def watched(self, work: Awaitable[T]) -> T:
        """Wait for `work`, one at a time, and end it when nothing has moved for too long.

        Raises:
            TransferError: TRANSFER_IDLE; and what `work` raises.
        """
        limit = asyncio.timeout_at(self._last + self._idle)
        try:
            async with limit:
                self._limit = limit
                try:
                    return await work
                finally:
                    self._limit = None
        except TimeoutError:
            if not limit.expired():
                raise
            raise TransferError(Reason.TRANSFER_IDLE, f"nothing moved for {self._idle:g} s") from None
