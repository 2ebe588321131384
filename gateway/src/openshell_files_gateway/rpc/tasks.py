"""Tasks of a call: ended by the call that began them, always."""

from __future__ import annotations

import asyncio
from typing import Any


async def cancel(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it is over; its result no longer matters.

    Raises:
        CancelledError: the caller was cancelled meanwhile; the task is over.
    """
    task.cancel()
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        # Awaiting the task itself could not tell its cancellation from ours.
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if not task.cancelled():
        task.exception()
    if cancelled is not None:
        raise cancelled


async def ends_within(task: asyncio.Future[Any], seconds: float) -> bool:
    """Give a task that has nothing left to do the time to notice; whether it ended in order."""
    await asyncio.wait({task}, timeout=seconds)
    return task.done() and not task.cancelled() and task.exception() is None
