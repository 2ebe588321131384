"""Backoff: the delay before the next attempt to connect."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

#: Upstream's bounds. Upstream has no jitter and never resets, so that after a restart of the
#: gateway all sandboxes connect at once.
INITIAL_SECONDS: Final = 1.0
MAX_SECONDS: Final = 30.0


@dataclass(slots=True)
class Backoff:
    """Exponential backoff with jitter.

    A delay is drawn evenly from the upper half of the current bound: never close to zero, so that a
    gateway that refuses is not flooded, and different for each supervisor.

    Attributes:
        initial: first bound, in seconds.
        maximum: last bound, in seconds.
    """

    initial: float = INITIAL_SECONDS
    maximum: float = MAX_SECONDS
    _bound: float = 0.0

    def next_delay(self) -> float:
        """Return seconds to wait, and double the bound."""
        self._bound = min(self.maximum, self._bound * 2 if self._bound else self.initial)
        return random.uniform(self._bound / 2, self._bound)  # noqa: S311 - spreads load, is no secret

    def reset(self) -> None:
        """Return to the first bound, after a session was accepted."""
        self._bound = 0.0
