"""Relays that wait for their supervisor's claim (RLY-3, RLY-14, RLY-16).

| channel                 | claim by its sandbox | claim by another     | time is up | refused by its sandbox |
|-------------------------|----------------------|----------------------|------------|------------------------|
| unknown                 | RELAY_UNKNOWN        | RELAY_UNKNOWN        | -          | nothing                |
| waiting                 | taken, forgotten     | SANDBOX_MISMATCH     | forgotten  | forgotten              |
| waiting, but overdue    | RELAY_TIMEOUT, forgotten | SANDBOX_MISMATCH | forgotten  | forgotten              |

Relays in use are not counted here; the limits of transfers count them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

#: Upstream's limits on waiting relays.
MAX_PENDING: Final = 256
MAX_PENDING_PER_SANDBOX: Final = 32

#: Upstream's limit on the wait of a relay, in seconds.
PENDING_SECONDS: Final = 10.0


@dataclass(slots=True)
class PendingRelay:
    """A relay that waits to be claimed.

    Attributes:
        channel_id: random id that only the supervisor knows.
        sandbox_id: the sandbox that it leads to.
        opened_at: seconds on the caller's monotonic clock.
        delivered_to: id of the last session that received the RelayOpen.
    """

    channel_id: str
    sandbox_id: str
    opened_at: float
    delivered_to: str


@dataclass(frozen=True, slots=True)
class RelayStatistics:
    """The number of waiting relays, and counts since the start."""

    pending: int
    opened: int
    claimed: int
    expired: int
    refused_for_capacity: int


class RelayTable:
    """All waiting relays, with limits in total and per sandbox.

    Args:
        max_pending: limit over all sandboxes.
        max_pending_per_sandbox: limit for one sandbox.
        pending_seconds: longest wait of a relay.
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
        """Add a relay that waits for its claim.

        Raises:
            TransferError: TOO_MANY_TRANSFERS, in total or for the sandbox.
        """
        if len(self._pending) >= self._max_pending:
            self._refused += 1
            raise TransferError(
                Reason.TOO_MANY_TRANSFERS,
                f"{len(self._pending)} relays are being opened on this gateway, which is the limit",
                retry_delay=1.0,
            )
        if self._per_sandbox[sandbox_id] >= self._max_per_sandbox:
            self._refused += 1
            raise TransferError(
                Reason.TOO_MANY_TRANSFERS,
                f"{self._max_per_sandbox} relays are being opened into this sandbox, which is the limit",
                retry_delay=1.0,
            )
        relay = PendingRelay(channel_id, sandbox_id, now, session_id)
        self._pending[channel_id] = relay
        self._per_sandbox[sandbox_id] += 1
        self._opened += 1
        return relay

    def claim(self, channel_id: str, sandbox_id: str, now: float) -> PendingRelay:
        """Claim a relay for its sandbox; each relay can be claimed once.

        Raises:
            TransferError: RELAY_UNKNOWN, SANDBOX_MISMATCH (the relay keeps
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
        """Remove and return a relay that its sandbox refused; None if it is unknown or another sandbox's."""
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
        """Return the relays whose RelayOpen a new session must receive, and mark them as delivered to it."""
        relays = [
            relay
            for relay in self._pending.values()
            if relay.sandbox_id == sandbox_id and relay.delivered_to != session_id
        ]
        for relay in relays:
            relay.delivered_to = session_id
        return relays

    def waiting(self, sandbox_id: str) -> list[PendingRelay]:
        """Return the waiting relays of a sandbox."""
        return [relay for relay in self._pending.values() if relay.sandbox_id == sandbox_id]

    def expire(self, now: float) -> list[PendingRelay]:
        """Remove and return the relays that waited too long."""
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
