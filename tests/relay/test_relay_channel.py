"""Writes to a relay, after one that was cancelled."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import grpc
import pytest
from conditions import PATIENCE_SECONDS, until
from openshell_files_gateway.concurrency.tasks import cancel
from openshell_files_gateway.relay.channel import RelayChannel
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason


class BusyCall:
    """A call as grpc.aio serves it: it carries out a cancelled write, and refuses others meanwhile."""

    def __init__(self) -> None:
        self.busy = False
        self.refused = 0
        self.window = asyncio.Event()
        self.written: list[bytes] = []

    async def write(self, message: bytes) -> None:
        if self.busy:
            self.refused += 1
            raise grpc.aio.InternalError("TOO_MANY_OPERATIONS")
        self.busy = True
        self.written.append(message)
        await self.window.wait()
        self.busy = False

    def carry_out(self) -> None:
        self.busy = False
        self.window.set()


async def interrupted(call: BusyCall, channel: RelayChannel) -> None:
    """Cancel a write that waits for its window."""
    writing = asyncio.create_task(channel.send([b"first"]))
    await until(lambda: call.busy, "the write waits for its window")
    await cancel(writing)


async def test_a_write_waits_for_a_cancelled_one() -> None:
    """FRM-31: a cancelled upload's last frame is not lost because a write was under way."""
    call = BusyCall()
    channel = RelayChannel("channel", cast("grpc.aio.ServicerContext[Any, bytes]", call))
    await interrupted(call, channel)
    sending = asyncio.create_task(channel.send([b"second"]))
    await until(lambda: call.refused > 1, "the second write is refused and repeated")
    call.carry_out()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await sending
    assert [b"first" in call.written[0], b"second" in call.written[1]] == [True, True]


async def test_a_relay_that_ends_meanwhile_is_lost() -> None:
    call = BusyCall()
    channel = RelayChannel("channel", cast("grpc.aio.ServicerContext[Any, bytes]", call))
    await interrupted(call, channel)
    sending = asyncio.create_task(channel.send([b"second"]))
    await until(lambda: call.refused > 1, "the second write is refused and repeated")
    channel.lose("the supervisor died")
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(TransferError) as lost:
            await sending
    assert lost.value.reason is Reason.RELAY_LOST
