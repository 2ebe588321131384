"""The idle timeout of a transfer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")


class Activity:
    """Ends a transfer that makes no progress for longer than the idle timeout.

    Transfers have no total timeout, since the time that a file takes is
    unknown.

    Args:
        idle_seconds: the idle timeout.
    """

    def __init__(self, idle_seconds: float) -> None:
        self._idle = idle_seconds
        self._clock = asyncio.get_running_loop().time
        self._last = self._clock()
        self._limit: asyncio.Timeout | None = None

    def touch(self) -> None:
        """Note progress: restart the idle timeout."""
        self._last = self._clock()
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(self._last + self._idle)

    async def watched(self, work: Awaitable[T]) -> T:
        """Return the result of `work`, and cancel it when the idle timeout expires. Not for two works at once.

        Raises:
            TransferError: TRANSFER_IDLE; or raised by `work`.
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
