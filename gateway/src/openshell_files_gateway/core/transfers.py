"""How many transfers, or commands, may run at once, in total and per sandbox."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason


@dataclass(frozen=True, slots=True)
class TransferStatistics:
    """What runs now, and counts since the start."""

    active: int
    started: int
    refused: int


class TransferLimits:
    """Counts what runs and refuses what is above a bound.

    Upstream bounds only relays that wait to be claimed, so any number may
    run; here those that run are bounded too.

    Args:
        max_total: all sandboxes together.
        max_per_sandbox: in one sandbox.
        what: is counted, for people.
        reason: of the refusals.
    """

    def __init__(
        self,
        *,
        max_total: int,
        max_per_sandbox: int,
        what: str = "transfers",
        reason: Reason = Reason.TOO_MANY_TRANSFERS,
    ) -> None:
        self._what = what
        self._reason = reason
        self._max_total = max_total
        self._max_per_sandbox = max_per_sandbox
        self._per_sandbox: Counter[str] = Counter()
        self._total = self._started = self._refused = 0

    def begin(self, sandbox_id: str) -> None:
        """Count one more; `end` must follow.

        Raises:
            TransferError: for the reason that was given.
        """
        if self._total >= self._max_total:
            self._refuse(f"{self._total} {self._what} are running on this gateway, as many as may")
        if self._per_sandbox[sandbox_id] >= self._max_per_sandbox:
            self._refuse(f"{self._max_per_sandbox} {self._what} are running in this sandbox, as many as may")
        self._per_sandbox[sandbox_id] += 1
        self._total += 1
        self._started += 1

    def end(self, sandbox_id: str) -> None:
        """Count one that ended, however it did."""
        self._per_sandbox[sandbox_id] -= 1
        if not self._per_sandbox[sandbox_id]:
            del self._per_sandbox[sandbox_id]
        self._total -= 1

    def statistics(self) -> TransferStatistics:
        """Return the counts."""
        return TransferStatistics(self._total, self._started, self._refused)

    def _refuse(self, message: str) -> None:
        self._refused += 1
        raise TransferError(self._reason, message, retry_delay=1.0)
