"""Queue of calls that wait for a free slot (RLY-22); `core/transfer_limits.py` counts the slots."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from openshell_files_gateway.server.core.transfer_limits import Ticket, TransferLimits, TransferStatistics


class TurnQueue:
    """Limits how many transfers (or commands) run at once, and queues calls above the limit.

    Args:
        limits: counts the slots that are taken, and orders the calls that wait.
        wait_seconds: longest wait for a slot; 0 refuses a call at once.
    """

    def __init__(self, limits: TransferLimits, wait_seconds: float = 0.0) -> None:
        self._limits = limits
        self._wait_seconds = wait_seconds
        self._turns: dict[Ticket, asyncio.Future[None]] = {}

    @property
    def most_of_one_principal(self) -> int:
        """Slots that one principal may hold at once in one sandbox."""
        return self._limits.most_of_one_principal

    @asynccontextmanager
    async def taken(self, sandbox_id: str, principal: str) -> AsyncGenerator[None]:
        """Hold a slot within the context, after a wait if none is free.

        Args:
            sandbox_id: sandbox of the operation.
            principal: the caller's key.

        Raises:
            TransferError: no slot became free in time; with the reason of the limits.
        """
        ticket = Ticket(sandbox_id, principal)
        if not self._limits.ask(ticket):
            await self._turn(ticket)
        try:
            yield
        finally:
            self._end(ticket)

    def statistics(self) -> TransferStatistics:
        """Return the counts."""
        return self._limits.statistics()

    async def _turn(self, ticket: Ticket) -> None:
        turn = self._turns[ticket] = asyncio.get_running_loop().create_future()
        try:
            # Not wait_for: a slot granted in the same turn as the timeout or a cancellation must not be lost.
            await asyncio.wait({turn}, timeout=self._wait_seconds)
        except asyncio.CancelledError:
            if turn.done():
                self._end(ticket)
            else:
                self._limits.withdraw(ticket)
            raise
        finally:
            del self._turns[ticket]
        if not turn.done():
            raise self._limits.withdraw(ticket)

    def _end(self, ticket: Ticket) -> None:
        for admitted in self._limits.end(ticket):
            self._turns[admitted].set_result(None)
