"""Gives every file operation a relay: one that rests, or a new one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openshell_files_gateway.relay import kept
from openshell_files_gateway.relay.file_relay import FileRelay
from openshell_files_gateway.relay.kept import KeptRelay
from openshell_files_gateway.relay.repeatable import RepeatableChannel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from openshell_files_protocol.pb.openshell.v1.file_relay_pb2 import FileTransferCapability

    from openshell_files_gateway.relay.broker import RelayBroker
    from openshell_files_gateway.relay.channel import RelayChannel
    from openshell_files_gateway.relay.targets import RelayTarget


@dataclass(slots=True)
class Loan:
    """A relay for one operation.

    Attributes:
        kept: what is lent; another channel may take the place of a dead one.
        keeps: whether it is used again if the operation ends in order.
        input_over: whether nothing is on its way to the agent any more.
    """

    kept: KeptRelay
    keeps: bool
    input_over: bool = True

    @property
    def relay(self) -> FileRelay:
        """The file protocol on it."""
        return self.kept.relay

    @property
    def files(self) -> FileTransferCapability | None:
        """What its supervisor can do."""
        return self.kept.session.files

    @property
    def channel_id(self) -> str:
        """As in RelayOpen."""
        return self.kept.channel.channel_id


class FileRelays:
    """The relays of the file methods (FRM-9).

    Args:
        broker: opens them.
    """

    def __init__(self, broker: RelayBroker) -> None:
        self._broker = broker

    @asynccontextmanager
    async def lend(
        self, sandbox_id: str, target: RelayTarget, on_frame: Callable[[], None], *, again: bool
    ) -> AsyncGenerator[Loan]:
        """Lend a relay to the file agent of a sandbox; afterwards it rests, or is closed.

        Args:
            sandbox_id: the sandbox; that the caller may use it was checked.
            target: what the relay leads to.
            on_frame: called for every frame of the agent.
            again: whether one that rests will do, and this one may be kept.

        Raises:
            TransferError: as `RelayBroker.open_relay`.
        """
        used = self._broker.use_again(sandbox_id, target) if again else None
        if used is None:
            channel, session = await self._broker.open_relay(sandbox_id, target)
            until = asyncio.get_running_loop().time() + kept.MOST_SECONDS
            used = KeptRelay(channel, session, FileRelay(channel, on_frame), until)
        else:
            self._begin(used, sandbox_id, target, on_frame)
        loan = Loan(used, again and used.session.files is not None and used.session.files.keeps_relays)
        try:
            yield loan
        finally:
            in_order = loan.keeps and loan.input_over and used.relay.rests()
            self._broker.give_back(sandbox_id, used, keep=in_order)

    def _begin(
        self, used: KeptRelay, sandbox_id: str, target: RelayTarget, on_frame: Callable[[], None]
    ) -> None:
        async def renew() -> RelayChannel:
            used.channel, used.session = await self._broker.open_relay(sandbox_id, target)
            used.until = asyncio.get_running_loop().time() + kept.MOST_SECONDS
            return used.channel

        used.repeatable = RepeatableChannel(used.channel, renew)
        used.relay.begin(used.repeatable, on_frame)
