"""A claim that meets the end of its requester or of its supervisor (RLY-3, RLY-14)."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest
from openshell_files_gateway.relay.broker import RelayBroker
from openshell_files_gateway.relay.channel import RelayChannel
from openshell_files_gateway.relay.core.waiting_relays import RelayTable
from openshell_files_gateway.relay.supervisor_session import SupervisorSession
from openshell_files_gateway.relay.targets import FileAgentTarget
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, openshell_pb2
from openshell_files_protocol.reasons import Reason

CLAIM_SECONDS = 0.05


async def connected() -> tuple[RelayBroker, SupervisorSession]:
    broker = RelayBroker(RelayTable(), session_wait_seconds=1, claim_wait_seconds=CLAIM_SECONDS)
    hello = openshell_pb2.SupervisorHello(
        sandbox_id="sandbox", file_transfer=file_relay_pb2.FileTransferCapability()
    )
    session = SupervisorSession("session", hello)
    await broker.connect(session)
    return broker, session


async def opened(broker: RelayBroker, session: SupervisorSession) -> tuple[asyncio.Task[Any], str]:
    """Return a requester that waits, and its channel's id."""
    opening = asyncio.create_task(broker.open_relay("sandbox", FileAgentTarget("transfer")))
    return opening, (await session.next_outbound()).relay_open.channel_id


def claimed(broker: RelayBroker, channel_id: str) -> RelayChannel:
    broker.take(channel_id, "sandbox")
    return RelayChannel(channel_id, cast("Any", None))


async def test_a_claim_in_the_turn_in_which_the_time_is_up() -> None:
    """Nobody would ever close the channel, and the supervisor's call would never end."""
    broker, session = await connected()
    opening, channel_id = await opened(broker, session)
    channel = claimed(broker, channel_id)
    asyncio.get_running_loop().call_later(CLAIM_SECONDS / 2, broker.deliver, channel)
    time.sleep(CLAIM_SECONDS * 2)  # noqa: ASYNC251 - so that both timers are due in one turn
    with pytest.raises(TransferError) as caught:
        await opening
    assert caught.value.reason is Reason.RELAY_TIMEOUT
    await asyncio.wait_for(channel.wait_closed(), 5)


async def test_a_claim_in_the_turn_in_which_the_caller_goes() -> None:
    broker, session = await connected()
    opening, channel_id = await opened(broker, session)
    channel = claimed(broker, channel_id)
    broker.deliver(channel)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await asyncio.wait_for(channel.wait_closed(), 5)


async def test_a_supervisor_that_dies_between_claim_and_delivery() -> None:
    """The relay is claimed, so no other session is told of it: waiting for the time to be up is in vain."""
    broker, session = await connected()
    opening, channel_id = await opened(broker, session)
    claimed(broker, channel_id)
    broker.lose(channel_id)
    with pytest.raises(TransferError) as caught:
        await opening
    assert caught.value.reason is Reason.RELAY_LOST


async def test_a_supervisor_that_dies_after_the_delivery() -> None:
    """The channel says so itself; the broker has nothing to do with it any more."""
    broker, session = await connected()
    opening, channel_id = await opened(broker, session)
    channel = claimed(broker, channel_id)
    broker.deliver(channel)
    broker.lose(channel_id)
    assert await opening == (channel, session)
