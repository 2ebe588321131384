"""How fast one peer may make the gateway work."""

from __future__ import annotations


class Pace:
    """A token bucket: so many at once, and then so many per second.

    What is above is not refused but waited with. A peer that floods is held
    up by flow control, and one that merely had a lot to say loses nothing.

    Args:
        per_second: how many may come in the long run.
        at_once: how many may come together after a pause.
    """

    def __init__(self, *, per_second: float, at_once: int) -> None:
        self._per_second = per_second
        self._at_once = at_once
        self._left = float(at_once)
        self._seen = 0.0

    def take(self, now: float) -> float:
        """Count one.

        Args:
            now: seconds on a monotonic clock.

        Returns:
            Seconds to wait before it is looked at; 0 if there is no hurry.
        """
        self._left = min(self._at_once, self._left + (now - self._seen) * self._per_second) - 1
        self._seen = now
        return max(0.0, -self._left / self._per_second)

    def idle(self, now: float) -> bool:
        """Whether it says no more than a new one."""
        return self._left + (now - self._seen) * self._per_second >= self._at_once
