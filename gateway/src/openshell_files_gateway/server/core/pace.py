"""How fast one peer may make the gateway work."""

from __future__ import annotations

import math
from typing import Final

#: A shorter pause costs more than what it holds up.
LEAST_PAUSE_SECONDS: Final = 0.02

#: Who was found flooding is not waited with again for so long.
BAN_SECONDS: Final = 30.0


class Pace:
    """A token bucket: so many at once, and then so many per second.

    What is above is not refused but waited with. A peer that floods is held
    up by flow control, and one that merely had a lot to say loses nothing.
    One that goes on above the pace is flooding: what waits for its turn has
    to be taken from the connection all the same, and that others feel.

    Args:
        per_second: how many may come in the long run.
        at_once: how many may come together after a pause.
        patience: seconds above the pace without a break that are no flood yet.
        longest_wait: seconds that anybody waits, however much was taken.
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
        self._most_owed = longest_wait * per_second
        self._left = float(at_once)
        self._seen = 0.0
        self._above_since: float | None = None
        self._banned_until = -math.inf

    def spare(self, now: float) -> bool:
        """Count one if it may come now; what may not is not counted either.

        Args:
            now: seconds on a monotonic clock.
        """
        if self._left + (now - self._seen) * self._per_second < 1:
            return False
        self.take(now)
        return True

    def take(self, now: float, cost: float = 1.0) -> float:
        """Count one.

        Args:
            now: seconds on a monotonic clock.
            cost: how many it is worth; less than 0 pays for others.

        Returns:
            Seconds to wait before it is looked at; 0 if there is no hurry.
        """
        left = min(self._at_once, self._left + (now - self._seen) * self._per_second)
        self._left = max(-self._most_owed, min(self._at_once, left - cost))
        self._seen = now
        if left >= self._at_once / 2:
            self._above_since = None
        if self._left < 0 and self._above_since is None:
            self._above_since = now
        return max(0.0, -self._left / self._per_second)

    def flooding(self, now: float) -> bool:
        """Whether what was counted last was above the pace, and patience is at its end."""
        if self._left >= 0 or self._above_since is None:
            return False
        if now - self._above_since >= self._patience:
            self._banned_until = now + BAN_SECONDS
        return now < self._banned_until

    def banned(self, now: float) -> float:
        """Return the seconds for which one that was flooding has no patience to expect; 0 for all others."""
        return max(0.0, self._banned_until - now)

    def idle(self, now: float) -> bool:
        """Whether it says no more than a new one."""
        return self._left + (now - self._seen) * self._per_second >= self._at_once and not self.banned(now)


class PaceTable:
    """A pace for each of many peers.

    Args:
        per_second: of each peer.
        at_once: of each peer.
        patience: with each peer.
        max_peers: how many are remembered before those that rest are
            forgotten.
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
            peer: its name.
            now: seconds on a monotonic clock.
        """
        if peer not in self._paces and len(self._paces) >= self._max_peers:
            self._paces = {key: pace for key, pace in self._paces.items() if not pace.idle(now)}
        return self._paces.setdefault(
            peer, Pace(per_second=self._per_second, at_once=self._at_once, patience=self._patience)
        )
