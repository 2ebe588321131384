"""Clients under test, with one face for both flavours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, cast

from openshell_files import RetryPolicy, SandboxFiles

#: Retries without pauses.
QUICK = RetryPolicy(attempts=4, initial_delay=0.0, outage_attempts=4)

Connect = Callable[..., SandboxFiles]


class BlockingView:
    """An asynchronous sandbox with blocking methods, so that one test serves both flavours."""

    def __init__(self, runner: asyncio.Runner, target: Any) -> None:
        self._runner = runner
        self._target = target

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._runner.run(self._outcome(method, args, kwargs))

        return call

    @staticmethod
    async def _outcome(method: Any, args: Any, kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        if isinstance(result, AsyncGenerator):
            return [piece async for piece in cast("AsyncGenerator[bytes]", result)]
        return await result


def big_content() -> bytes:
    """Return content of several chunks."""
    return bytes(range(251)) * 13_000
