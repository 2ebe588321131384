"""The end of the gRPC server."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conditions import PATIENCE_SECONDS
from gateway_harness import running_gateway
from openshell_files_gateway.server import server as module


async def test_a_call_that_never_ends_does_not_hold_a_stop_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does whose last write a supervisor that hangs holds back: grpc.aio waits for it for ever."""
    monkeypatch.setattr(module, "_END_SECONDS", 0.01)
    async with running_gateway() as harness:
        server: Any = harness.gateway._server
        stopped = server._server.stop

        async def waits(_grace: float) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(server._server, "stop", waits, raising=False)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await server.stop(0.0)
        finally:
            monkeypatch.setattr(server._server, "stop", stopped, raising=False)
