"""Rate limits of peers: a token bucket that delays instead of refusing."""

from __future__ import annotations

import math
from typing import Final

#: Shorter delays are skipped: the timer would cost more than the work that it delays.
LEAST_PAUSE_SECONDS: Final = 0.02

#: Duration of the ban on a peer that flooded.
BAN_SECONDS: Final = 30.0


class Pace:
    """A token bucket for the messages of one peer.

    Messages above the rate are delayed, not refused: flow control then slows
    the peer down, and a short burst loses nothing. A peer that stays above
    the rate for longer than `patience` floods: gRPC still has to receive its
    messages, and other peers would feel that.

    Args:
        per_second: rate in the long run.
        at_once: size of a burst after a pause.
        patience: seconds above the rate, without a break, until it counts as a flood.
        longest_wait: longest delay in seconds, even after large costs.
    """

    def __init__(
        self,
        *,
        per_second: float,
        at_once: int,
        patience: float = math.inf,
        longest_wait: float = BAN_SECONDS,
    ) -> None:
        self._per_second = per_second
        self._at_once = at_once
        self._patience = patience
        self._max_debt = longest_wait * per_second
        self._left = float(at_once)
        self._seen = 0.0
        self._above_since: float | None = None
        self._banned_until = -math.inf

    def spare(self, now: float) -> bool:
        """Take a token if there is one; return False, and take none, otherwise.

        Args:
            now: seconds on a monotonic clock.
        """
        if self._left + (now - self._seen) * self._per_second < 1:
            return False
        self.take(now)
        return True

    def take(self, now: float, cost: float = 1.0) -> float:
        """Take tokens for a message; the bucket may go into debt.

        Args:
            now: seconds on a monotonic clock.
            cost: tokens to take; a negative cost adds tokens.

        Returns:
            Seconds by which the message must be delayed; 0 for no delay.
        """
        left = min(self._at_once, self._left + (now - self._seen) * self._per_second)
        self._left = max(-self._max_debt, min(self._at_once, left - cost))
        self._seen = now
        if left >= self._at_once / 2:
            self._above_since = None
        if self._left < 0 and self._above_since is None:
            self._above_since = now
        return max(0.0, -self._left / self._per_second)

    def flooding(self, now: float) -> bool:
        """Return True if the last message was above the rate, and the peer exceeded `patience` or is banned."""
        if self._left >= 0 or self._above_since is None:
            return False
        if now - self._above_since >= self._patience:
            self._banned_until = now + BAN_SECONDS
        return now < self._banned_until

    def banned(self, now: float) -> float:
        """Return the remaining seconds of the peer's ban; 0 without a ban."""
        return max(0.0, self._banned_until - now)

    def idle(self, now: float) -> bool:
        """Return True if the bucket is full and the peer not banned, as in a new `Pace`."""
        return self._left + (now - self._seen) * self._per_second >= self._at_once and not self.banned(now)


class PaceTable:
    """A `Pace` for each peer.

    Args:
        per_second: see `Pace`.
        at_once: see `Pace`.
        patience: see `Pace`.
        max_peers: number of peers above which idle ones are forgotten.
    """

    def __init__(
        self, *, per_second: float, at_once: int, patience: float = math.inf, max_peers: int = 4096
    ) -> None:
        self._per_second = per_second
        self._at_once = at_once
        self._patience = patience
        self._max_peers = max_peers
        self._paces: dict[str, Pace] = {}

    def of(self, peer: str, now: float) -> Pace:
        """Return the pace of a peer.

        Args:
            peer: name of the peer.
            now: seconds on a monotonic clock.
        """
        if peer not in self._paces and len(self._paces) >= self._max_peers:
            self._paces = {key: pace for key, pace in self._paces.items() if not pace.idle(now)}
        return self._paces.setdefault(
            peer, Pace(per_second=self._per_second, at_once=self._at_once, patience=self._patience)
        )
