"""An operation on a relay that rested, as long as the agent has said nothing of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import KIB
from openshell_files_protocol.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from openshell_files_gateway.relay.channel import RelayChannel

#: So much is sent, and held, before the agent has to be heard.
_HELD_BYTES: Final = 256 * KIB


class RepeatableChannel:
    """The channel of one operation; begins the operation anew if the relay ended while it rested.

    Nobody can know that a relay is still there when it is used again: the
    agent may end it at any time (FRM-9), and a supervisor may be dead without
    a sign. Until the first byte comes back, what was sent is held, and can be
    sent again on a relay that was just opened.

    Args:
        channel: the relay that rested.
        renew: opens another one.
    """

    def __init__(self, channel: RelayChannel, renew: Callable[[], Awaitable[RelayChannel]]) -> None:
        self._channel = channel
        self._renew = renew
        self._held: list[Sequence[bytes | memoryview]] = []
        self._held_bytes = 0
        self._heard = asyncio.Event()
        self._sending = asyncio.Lock()
        #: Whether it does no harm to carry the operation out twice. If not, it
        #: is repeated only where the agent ended the relay in order.
        self.idempotent = False

    @property
    def heard(self) -> bool:
        """Whether there is no going back any more."""
        return self._heard.is_set()

    async def send(self, segments: Sequence[bytes | memoryview]) -> None:
        """As `RelayChannel.send`."""
        if self._held_bytes >= _HELD_BYTES:
            await self._heard.wait()
        if self._heard.is_set():
            await self._channel.send(segments)
            return
        async with self._sending:
            if self._heard.is_set():
                await self._channel.send(segments)
                return
            self._held.append(segments)
            self._held_bytes += sum(map(len, segments))
            try:
                await self._channel.send(segments)
            except TransferError as error:
                if error.reason is not Reason.RELAY_LOST:
                    raise
                # `receive` finds out as well, and decides.

    async def receive(self) -> memoryview:
        """As `RelayChannel.receive`."""
        if self._heard.is_set():
            return await self._channel.receive()
        try:
            if data := await self._channel.receive():
                self._now_heard()
                return data
            lost = None if await self._channel.ended_in_order() else _lost()
        except TransferError as error:
            if error.reason is not Reason.RELAY_LOST:
                raise
            lost = error
        if lost is not None and not self.idempotent:
            raise lost
        await self._begin_anew()
        return await self._channel.receive()

    async def keep_pace(self, size: int) -> None:
        """As `RelayChannel.keep_pace`."""
        await self._channel.keep_pace(size)

    async def _begin_anew(self) -> None:
        # First: it ends a write that nobody takes.
        self._channel.close()
        async with self._sending:
            self._channel = await self._renew()
            for segments in self._held:
                await self._channel.send(segments)
            self._now_heard()

    def _now_heard(self) -> None:
        self._held = []
        self._held_bytes = 0
        self._heard.set()


def _lost() -> TransferError:
    return TransferError(
        Reason.RELAY_LOST, "the relay to the sandbox broke: it ended before the agent answered"
    )
