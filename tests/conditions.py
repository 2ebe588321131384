"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

#: Longer than anything that is waited for takes on a busy machine.
PATIENCE_SECONDS = 60.0

_LOOK_SECONDS = 0.02


async def until(
    condition: Callable[[], object], what: str | Callable[[], str], *, patience: float = PATIENCE_SECONDS
) -> None:
    """Return as soon as the condition holds; fail if it does not come to hold."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() >= deadline:
            what = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {patience:g} s in vain until {what}")
        await asyncio.sleep(_LOOK_SECONDS)


def block_until(
    condition: Callable[[], object], what: str | Callable[[], str], *, patience: float = PATIENCE_SECONDS
) -> None:
    """The same for tests without an event loop."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() >= deadline:
            what = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {patience:g} s in vain until {what}")
        time.sleep(_LOOK_SECONDS)
