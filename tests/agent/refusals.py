"""The refusal of a call that must fail."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest
from agent.agent_harness import Refused


async def refusal(call: Awaitable[object]) -> Refused:
    """Return the error of a call; fail if it has none."""
    with pytest.raises(Refused) as refused:
        await call
    return refused.value
