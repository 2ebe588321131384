"""Waits for a slot among what may run at once (RLY-9)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from openshell_files_gateway.server.core.transfer_limits import Ticket, TransferLimits, TransferStatistics


class Slots:
    """Slots of transfers, or of commands.

    Args:
        limits: how many there are, and who has them.
        wait_seconds: how long a call waits for one before it is refused.
    """

    def __init__(self, limits: TransferLimits, wait_seconds: float = 0.0) -> None:
        self._limits = limits
        self._wait_seconds = wait_seconds
        self._turns: dict[Ticket, asyncio.Future[None]] = {}

    @property
    def most_of_one_principal(self) -> int:
        """How many one principal may have at a time in one sandbox."""
        return self._limits.most_of_one_principal

    @asynccontextmanager
    async def taken(self, sandbox_id: str, principal: str) -> AsyncGenerator[None]:
        """Hold a slot within the context.

        Args:
            sandbox_id: where.
            principal: the caller's key.

        Raises:
            TransferError: none is free, and none becomes free in time; for the
                reason of the limits.
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
            # Not wait_for: a turn that comes together with the end of the time or of the call must not be lost.
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
        for next_one in self._limits.end(ticket):
            self._turns[next_one].set_result(None)
