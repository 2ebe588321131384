"""How many transfers, or commands, may run at once: in total, in a sandbox, and of one principal (RLY-9)."""

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
    """What runs and waits now, and counts since the start."""

    active: int
    waiting: int
    started: int
    refused: int


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """Something that runs, or waits for its turn.

    Attributes:
        sandbox_id: where.
        principal: the caller's key.
    """

    sandbox_id: str
    principal: str


def share_of(slots: int, share: float) -> int:
    """Return how many of so many slots one principal may take; always one at least.

    Args:
        slots: all of them.
        share: part of them, above 0 and at most 1.
    """
    return max(1, math.floor(slots * share))


class TransferLimits:
    """Counts what runs, and lets a few more wait for their turn.

    Turns go round between the principals that wait, so that one with a
    thousand calls does not keep another's single call waiting. Who waits has
    met a bound, and is let in as soon as that bound is met no longer; so a
    newcomer that finds a free slot overtakes nobody who could have taken it.

    Upstream bounds only relays that wait to be claimed, so any number may
    run; here those that run are bounded too.

    Args:
        max_total: all sandboxes together.
        max_per_sandbox: in one sandbox.
        share: part of either bound that one principal may take.
        max_waiting: all principals together; 0 refuses at once.
        what: is counted, for people.
        reason: of the refusals.
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
        #: In the order of their turns.
        self._waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._total = self._waiting_total = self._started = self._refused = 0

    @property
    def most_of_one_principal(self) -> int:
        """How many one principal may run at a time in one sandbox."""
        return self._max_of_principal_in_sandbox

    def ask(self, ticket: Ticket) -> bool:
        """Ask for a slot.

        Returns:
            True if the ticket has it, and `end` must follow; False if it waits
            until an `end` returns it, or `withdraw` is called.

        Raises:
            TransferError: for the reason that was given, if as many wait as may.
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
        """Let a ticket that waits wait no longer; returns the error for a caller that has waited long enough."""
        queue = self._waiting[ticket.principal]
        queue.remove(ticket)
        self._waiting_total -= 1
        if not queue:
            del self._waiting[ticket.principal]
        self._refused += 1
        return self._error(self._bound_met(ticket) or f"the {self._what} before this one took all turns")

    def end(self, ticket: Ticket) -> list[Ticket]:
        """Count one that ended, however it did; returns those that have a slot now."""
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
        """Give slots that are free to those that wait, each principal in its turn."""
        passed = 0
        while passed < len(self._waiting) and self._total < self._max_total:
            principal, queue = next(iter(self._waiting.items()))
            self._waiting.move_to_end(principal)
            ticket = next((one for one in queue if self._bound_met(one) is None), None)
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
        """Say which bound keeps a ticket out; None if none does."""
        what = self._what
        if self._total >= self._max_total:
            return f"{self._total} {what} are running on this gateway, as many as may"
        if self._in_sandbox[ticket.sandbox_id] >= self._max_per_sandbox:
            return f"{self._max_per_sandbox} {what} are running in this sandbox, as many as may"
        if self._of_principal[ticket.principal] >= self._max_of_principal:
            return (
                f"{self._max_of_principal} {what} of this caller are running, as many as one caller may have"
            )
        held = self._of_principal_in_sandbox[ticket.principal, ticket.sandbox_id]
        if held >= self._max_of_principal_in_sandbox:
            return f"{held} {what} of this caller are running in this sandbox, as many as one caller may have"
        return None

    def _error(self, message: str) -> TransferError:
        return TransferError(self._reason, message, retry_delay=1.0)
