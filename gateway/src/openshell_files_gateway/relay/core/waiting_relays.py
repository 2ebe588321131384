"""Relays that were opened and wait for their supervisor (RLY-3, RLY-4).

| channel                 | claim by its sandbox | claim by another     | time is up | refused by its sandbox |
|-------------------------|----------------------|----------------------|------------|------------------------|
| unknown                 | RELAY_UNKNOWN        | RELAY_UNKNOWN        | -          | nothing                |
| waiting                 | taken, forgotten     | SANDBOX_MISMATCH     | forgotten  | forgotten              |
| waiting, but overdue    | RELAY_TIMEOUT, forgotten | SANDBOX_MISMATCH | forgotten  | forgotten              |

Only relays that wait are counted here; those in use are transfers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

#: Upstream's bounds on relays that wait.
MAX_PENDING: Final = 256
MAX_PENDING_PER_SANDBOX: Final = 32

#: Upstream's bound on the age of a relay that waits, in seconds.
PENDING_SECONDS: Final = 10.0


@dataclass(slots=True)
class PendingRelay:
    """A relay that waits to be claimed.

    Attributes:
        channel_id: random, known to the supervisor only.
        sandbox_id: the sandbox it was opened for.
        opened_at: seconds on the caller's monotonic clock.
        delivered_to: the session that was told last.
    """

    channel_id: str
    sandbox_id: str
    opened_at: float
    delivered_to: str


@dataclass(frozen=True, slots=True)
class RelayStatistics:
    """Relays that wait now, and counts since the start."""

    pending: int
    opened: int
    claimed: int
    expired: int
    refused_for_capacity: int


class RelayTable:
    """All relays that wait, bounded in total and per sandbox.

    Args:
        max_pending: bound over all sandboxes.
        max_pending_per_sandbox: bound for one.
        pending_seconds: how long a relay may wait.
    """

    def __init__(
        self,
        *,
        max_pending: int = MAX_PENDING,
        max_pending_per_sandbox: int = MAX_PENDING_PER_SANDBOX,
        pending_seconds: float = PENDING_SECONDS,
    ) -> None:
        self._max_pending = max_pending
        self._max_per_sandbox = max_pending_per_sandbox
        self._seconds = pending_seconds
        self._pending: dict[str, PendingRelay] = {}
        self._per_sandbox: Counter[str] = Counter()
        self._opened = self._claimed = self._expired = self._refused = 0

    def open(self, channel_id: str, sandbox_id: str, session_id: str, now: float) -> PendingRelay:
        """Note that a relay waits.

        Raises:
            TransferError: TOO_MANY_TRANSFERS, in total or for the sandbox.
        """
        if len(self._pending) >= self._max_pending:
            self._refused += 1
            raise TransferError(
                Reason.TOO_MANY_TRANSFERS,
                f"{len(self._pending)} relays are being opened on this gateway, as many as may",
                retry_delay=1.0,
            )
        if self._per_sandbox[sandbox_id] >= self._max_per_sandbox:
            self._refused += 1
            raise TransferError(
                Reason.TOO_MANY_TRANSFERS,
                f"{self._max_per_sandbox} relays are being opened into this sandbox, as many as may",
                retry_delay=1.0,
            )
        relay = PendingRelay(channel_id, sandbox_id, now, session_id)
        self._pending[channel_id] = relay
        self._per_sandbox[sandbox_id] += 1
        self._opened += 1
        return relay

    def claim(self, channel_id: str, sandbox_id: str, now: float) -> PendingRelay:
        """Hand a relay to the sandbox it waits for; it can be claimed once.

        Raises:
            TransferError: RELAY_UNKNOWN, SANDBOX_MISMATCH (it goes on
                waiting), or RELAY_TIMEOUT.
        """
        relay = self._pending.get(channel_id)
        if relay is None:
            raise TransferError(Reason.RELAY_UNKNOWN, "unknown or expired relay channel")
        if relay.sandbox_id != sandbox_id:
            raise TransferError(Reason.SANDBOX_MISMATCH, "the relay channel belongs to another sandbox")
        self._forget(relay)
        if now - relay.opened_at > self._seconds:
            self._expired += 1
            raise TransferError(Reason.RELAY_TIMEOUT, f"relay channel timed out after {self._seconds:g} s")
        self._claimed += 1
        return relay

    def refuse(self, channel_id: str, sandbox_id: str) -> PendingRelay | None:
        """Take back a relay that its sandbox refused; None if it is not its to refuse."""
        relay = self._pending.get(channel_id)
        if relay is None or relay.sandbox_id != sandbox_id:
            return None
        self._forget(relay)
        return relay

    def abandon(self, channel_id: str) -> None:
        """Forget a relay whose requester no longer waits."""
        relay = self._pending.get(channel_id)
        if relay is not None:
            self._forget(relay)

    def undelivered(self, sandbox_id: str, session_id: str) -> list[PendingRelay]:
        """Return the relays that a new session has to be told, and note that it is."""
        relays = [
            relay
            for relay in self._pending.values()
            if relay.sandbox_id == sandbox_id and relay.delivered_to != session_id
        ]
        for relay in relays:
            relay.delivered_to = session_id
        return relays

    def waiting(self, sandbox_id: str) -> list[PendingRelay]:
        """Return the relays that wait for a sandbox."""
        return [relay for relay in self._pending.values() if relay.sandbox_id == sandbox_id]

    def expire(self, now: float) -> list[PendingRelay]:
        """Forget and return the relays that waited too long."""
        overdue = [relay for relay in self._pending.values() if now - relay.opened_at > self._seconds]
        for relay in overdue:
            self._forget(relay)
        self._expired += len(overdue)
        return overdue

    def statistics(self) -> RelayStatistics:
        """Return the counts."""
        return RelayStatistics(len(self._pending), self._opened, self._claimed, self._expired, self._refused)

    def _forget(self, relay: PendingRelay) -> None:
        del self._pending[relay.channel_id]
        self._per_sandbox[relay.sandbox_id] -= 1
        if not self._per_sandbox[relay.sandbox_id]:
            del self._per_sandbox[relay.sandbox_id]
