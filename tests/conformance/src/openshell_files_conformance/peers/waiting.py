"""Waiting for a condition that no message announces."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from openshell_files_conformance.checks import CannotGoOnError

#: How often a condition is looked at, in seconds.
_STEP: Final = 0.01


async def holds(condition: Callable[[], Awaitable[bool]], seconds: float = 5.0) -> bool:
    """Return whether a condition comes to hold within a time."""
    try:
        async with asyncio.timeout(seconds):
            # Nothing announces that a file appears or vanishes beside the agent.
            while not await condition():  # noqa: ASYNC110
                await asyncio.sleep(_STEP)
    except TimeoutError:
        return False
    return True


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 5.0) -> None:
    """Wait until a condition holds.

    Raises:
        CannotGoOnError: it does not come to hold in time.
    """
    if not await holds(condition, seconds):
        raise CannotGoOnError(f"waited {seconds:g} s in vain: {what}")
