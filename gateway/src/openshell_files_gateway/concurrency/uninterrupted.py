"""Work in threads that is waited for also when the one who wants it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread; cancelled, wait until it is over.

    A thread cannot be stopped, and what it still does must not happen at the
    same time as whatever its caller does next.

    Raises:
        CancelledError: the caller was cancelled; the work is over.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work))
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        running.exception()  # nobody is left who would hear of it
        raise cancelled
    return running.result()
