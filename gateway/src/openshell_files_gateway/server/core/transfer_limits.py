"""Counts concurrent transfers (or commands), in total, per sandbox and per principal, and queues those above a limit (RLY-9, RLY-12, RLY-23)."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason


@dataclass(frozen=True, slots=True)
class TransferStatistics:
    """Operations that run and wait now, and operations started and refused since the start."""

    active: int
    waiting: int
    started: int
    refused: int


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """One operation that runs, or waits for a slot.

    Attributes:
        sandbox_id: sandbox of the operation.
        principal: the caller's key.
    """

    sandbox_id: str
    principal: str


def share_of(slots: int, share: float) -> int:
    """Return how many of all slots one principal may take; at least one.

    Args:
        slots: number of all slots.
        share: the principal's part of them, above 0 and at most 1.
    """
    return max(1, math.floor(slots * share))


class TransferLimits:
    """Counts running operations against the limits, and queues a bounded number above them.

    Free slots go round-robin to the principals that wait, so that a principal
    with a thousand calls does not delay the single call of another. Each end
    of an operation hands its slot to a call in the queue that is within every
    limit. So a new call that finds a free slot takes it from no call in the
    queue.

    Upstream limits only the relays that wait to be claimed.

    Args:
        max_total: limit over all sandboxes.
        max_per_sandbox: limit for one sandbox.
        share: part of either limit that one principal may take.
        max_waiting: limit on waiting operations of all principals; 0 refuses at once.
        what: name of the operations in error messages.
        reason: reason of the refusals.
    """

    def __init__(
        self,
        *,
        max_total: int,
        max_per_sandbox: int,
        share: float = 1.0,
        max_waiting: int = 0,
        what: str = "transfers",
        reason: Reason = Reason.TOO_MANY_TRANSFERS,
    ) -> None:
        self._what = what
        self._reason = reason
        self._max_total = max_total
        self._max_per_sandbox = min(max_per_sandbox, max_total)
        self._max_of_principal = share_of(max_total, share)
        self._max_of_principal_in_sandbox = min(
            share_of(self._max_per_sandbox, share), self._max_of_principal
        )
        self._max_waiting = max_waiting
        self._max_waiting_of_principal = share_of(max_waiting, share) if max_waiting else 0
        self._in_sandbox: Counter[str] = Counter()
        self._of_principal: Counter[str] = Counter()
        self._of_principal_in_sandbox: Counter[tuple[str, str]] = Counter()
        #: Principals in the order of their turns, each with its waiting operations.
        self._waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._total = self._waiting_total = self._started = self._refused = 0

    @property
    def most_of_one_principal(self) -> int:
        """Slots that one principal may hold at once in one sandbox."""
        return self._max_of_principal_in_sandbox

    def ask(self, ticket: Ticket) -> bool:
        """Ask for a slot.

        Returns:
            True if the ticket has a slot; `end` must follow. False if it waits
            until `end` of another ticket returns it, or `withdraw` is called.

        Raises:
            TransferError: too many operations wait already.
        """
        met = self._bound_met(ticket)
        if met is None:
            self._count(ticket)
            return True
        queue = self._waiting.get(ticket.principal, ())
        if self._waiting_total >= self._max_waiting or len(queue) >= self._max_waiting_of_principal:
            self.refuse(met)
        self._waiting.setdefault(ticket.principal, deque()).append(ticket)
        self._waiting_total += 1
        return False

    def withdraw(self, ticket: Ticket) -> TransferError:
        """Remove a ticket from the queue; return the error for a caller whose wait timed out."""
        queue = self._waiting[ticket.principal]
        queue.remove(ticket)
        self._waiting_total -= 1
        if not queue:
            del self._waiting[ticket.principal]
        self._refused += 1
        return self._error(
            self._bound_met(ticket)
            or f"no slot became free in time: other {self._what} were before this one in the queue"
        )

    def end(self, ticket: Ticket) -> list[Ticket]:
        """Free the slot of an operation that ended; return the tickets that get a slot now."""
        pair = (ticket.principal, ticket.sandbox_id)
        for counter, key in (
            (self._in_sandbox, ticket.sandbox_id),
            (self._of_principal, ticket.principal),
        ):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]
        self._of_principal_in_sandbox[pair] -= 1
        if not self._of_principal_in_sandbox[pair]:
            del self._of_principal_in_sandbox[pair]
        self._total -= 1
        return list(self._let_in())

    def refuse(self, message: str) -> NoReturn:
        """Count a refusal, and raise it.

        Raises:
            TransferError: always.
        """
        self._refused += 1
        raise self._error(message)

    def statistics(self) -> TransferStatistics:
        """Return the counts."""
        return TransferStatistics(self._total, self._waiting_total, self._started, self._refused)

    def _let_in(self) -> Iterator[Ticket]:
        """Give free slots to waiting tickets, round-robin between their principals."""
        passed = 0
        while passed < len(self._waiting) and self._total < self._max_total:
            principal, queue = next(iter(self._waiting.items()))
            self._waiting.move_to_end(principal)
            ticket = next((waiting for waiting in queue if self._bound_met(waiting) is None), None)
            if ticket is None:
                passed += 1
                continue
            passed = 0
            queue.remove(ticket)
            self._waiting_total -= 1
            if not queue:
                del self._waiting[principal]
            self._count(ticket)
            yield ticket

    def _count(self, ticket: Ticket) -> None:
        self._in_sandbox[ticket.sandbox_id] += 1
        self._of_principal[ticket.principal] += 1
        self._of_principal_in_sandbox[ticket.principal, ticket.sandbox_id] += 1
        self._total += 1
        self._started += 1

    def _bound_met(self, ticket: Ticket) -> str | None:
        """Return the message about the limit that stops a ticket; None if no limit does."""
        what = self._what
        if self._total >= self._max_total:
            return f"limit of this gateway reached: {self._total} {what} are running"
        if self._in_sandbox[ticket.sandbox_id] >= self._max_per_sandbox:
            return f"limit of this sandbox reached: {self._max_per_sandbox} {what} are running"
        if self._of_principal[ticket.principal] >= self._max_of_principal:
            return f"limit of one caller reached: {self._max_of_principal} {what} of this caller are running"
        held = self._of_principal_in_sandbox[ticket.principal, ticket.sandbox_id]
        if held >= self._max_of_principal_in_sandbox:
            return f"limit of one caller in a sandbox reached: {held} {what} of this caller are running here"
        return None

    def _error(self, message: str) -> TransferError:
        return TransferError(self._reason, message, retry_delay=1.0)
