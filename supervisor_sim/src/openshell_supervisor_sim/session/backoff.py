"""How long to wait before the next attempt to connect."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

#: Upstream's bounds. Upstream has no jitter and never resets; with many
#: sandboxes that makes a herd after every restart of the gateway.
INITIAL_SECONDS: Final = 1.0
MAX_SECONDS: Final = 30.0


@dataclass(slots=True)
class Backoff:
    """Exponential backoff with jitter.

    A delay is drawn evenly from the upper half of the current bound: never
    almost zero, so that a refusing gateway is not hammered, and never the
    same for two supervisors.

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
        return random.uniform(self._bound / 2, self._bound)  # noqa: S311 - spreads load, hides nothing

    def reset(self) -> None:
        """Begin again; after a session was accepted."""
        self._bound = 0.0
