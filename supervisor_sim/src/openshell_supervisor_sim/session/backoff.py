"""Backoff: the delay before the next attempt to connect."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

#: Upstream's bounds, in seconds. Upstream's backoff has no jitter and never returns to the first bound, so after
#: a restart of the gateway all sandboxes connect at the same moment.
INITIAL_SECONDS: Final = 1.0
MAX_SECONDS: Final = 30.0


@dataclass(slots=True)
class Backoff:
    """Exponential backoff with jitter.

    Each delay is a random number between half of the current bound and the bound: the lower limit
    protects a gateway that refuses from a flood, and supervisors get different delays.

    Attributes:
        initial: first bound, in seconds.
        maximum: largest bound, in seconds.
    """

    initial: float = INITIAL_SECONDS
    maximum: float = MAX_SECONDS
    _bound: float = 0.0

    def next_delay(self) -> float:
        """Double the bound, and return the delay in seconds."""
        self._bound = min(self.maximum, self._bound * 2 if self._bound else self.initial)
        return random.uniform(self._bound / 2, self._bound)  # noqa: S311 - spreads load, is no secret

    def reset(self) -> None:
        """Return to the first bound, after a session was accepted."""
        self._bound = 0.0
