"""Which digests an operator allows, and who is told."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from digest_values import BLAKE3, SHA256, Algorithm
from gateway_harness import SANDBOX, running_gateway
from openshell_files_gateway.config.tables import LimitSettings
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import files_pb2


@pytest.mark.parametrize(
    ("limits", "told"),
    [(LimitSettings(), [BLAKE3, SHA256]), (LimitSettings(digests=("sha256",)), [SHA256])],
    ids=["default", "SHA-256"],
)
async def test_the_agent_is_told(limits: LimitSettings, told: list[Algorithm]) -> None:
    """DIG-12: with every operation; the agent alone carries it out."""
    async with running_gateway(limits=limits) as harness:
        supervisor = harness.supervisor()
        await supervisor.connect()
        request = files_pb2.StatFileRequest(sandbox=files_pb2.SandboxRef(id=SANDBOX), remote_path="/f")
        stat = cast("Any", harness.channel().unary_unary(methods.STAT_FILE))
        call = asyncio.ensure_future(stat(request.SerializeToString(), metadata=harness.user()))
        opened = await (await supervisor.take_relay()).next_frame()
        assert opened is not None
        assert list(opened.open.digests) == told
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
