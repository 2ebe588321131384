"""One claimed relay: a byte stream to a sandbox and back.

The bytes travel inside the supervisor's RelayStream call, but whoever opened
the relay reads and writes it directly, without a task or a queue between.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import grpc
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.framing import FramingError, decode_relay_data, encode_relay_data
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.concurrency.tasks import BackgroundTasks
from openshell_files_gateway.relay.paces import floods
from openshell_files_gateway.server.core.pace import LEAST_PAUSE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openshell_files_gateway.server.core.pace import Pace

    RelayContext = grpc.aio.ServicerContext[Any, bytes]

#: Messages and frames of a relay that are not counted: what a short operation
#: has, of which there may be many.
_FREE_PIECES: Final = 16

#: Content that pays for a message or frame. What carries less is mostly work
#: for the gateway; a sparse file has a short frame for a hole, and at least
#: four times as much content before the next one.
_CONTENT_PER_PIECE: Final = 1024


class RelayChannel:
    """The gateway's end of a RelayStream call (RLY-2, RLY-3).

    Two parties share it: the servicer of RelayStream waits in `wait_closed`
    and reports the supervisor's death by `lose`; the requester sends,
    receives and finally closes.

    Args:
        channel_id: as in RelayOpen.
        context: the RelayStream call; its first message was read.
        pace: of all relays of the sandbox; None if nobody counts.
    """

    def __init__(self, channel_id: str, context: RelayContext, pace: Pace | None = None) -> None:
        self.channel_id: Final = channel_id
        self._context = context
        self._pace = pace
        self._free = _FREE_PIECES
        self._closed = asyncio.Event()
        self._lost = ""
        self._tasks = BackgroundTasks()
        #: Started when the relay became idle, and not awaited yet.
        self._reading: asyncio.Task[Any] | None = None
        self._idle = False
        self.bytes_sent = 0
        self.bytes_received = 0

    def __repr__(self) -> str:
        state = self._lost or ("closed" if self._closed.is_set() else "open")
        return f"<RelayChannel {self.channel_id}, {state}, {self.bytes_sent} sent, {self.bytes_received} received>"

    async def send(self, segments: Sequence[bytes | memoryview]) -> None:
        """Send bytes to the sandbox; waits while the supervisor takes none.

        Raises:
            TransferError: RELAY_LOST.
        """
        for message in encode_relay_data(segments):
            if self._closed.is_set():
                raise self._error()
            try:
                await self._context.write(message)
            except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
                raise self._error() from error
            self.bytes_sent += len(message)

    async def receive(self) -> memoryview:
        """Return the next bytes from the sandbox; empty when the relay is over.

        Raises:
            TransferError: RELAY_LOST if the supervisor is known to be dead,
                AGENT_PROTOCOL_ERROR if it sent something that is no relay data,
                SUPERVISOR_FLOODS if it sends hardly more than headers (RLY-10).
        """
        while True:
            if self._closed.is_set():
                raise self._error()
            reading, self._reading = self._reading, None
            try:
                message = await (self._context.read() if reading is None else self._result_of(reading))
            except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
                raise self._error() from error
            if not isinstance(message, bytes):  # grpc.aio.EOF
                return memoryview(b"")
            self.bytes_received += len(message)
            try:
                data = decode_relay_data(message)
            except FramingError as error:
                raise TransferError(Reason.AGENT_PROTOCOL_ERROR, f"relay: {error}") from error
            if data is None:
                raise TransferError(Reason.AGENT_PROTOCOL_ERROR, "relay: the supervisor sent a second init")
            await self.keep_pace(len(data))
            if len(data):  # upstream allows empty data frames, they mean nothing
                return data

    async def keep_pace(self, size: int) -> None:
        """Wait with a sandbox that sends its content in pieces so small that others would feel it.

        Args:
            size: bytes in a message or frame that came.

        Raises:
            TransferError: SUPERVISOR_FLOODS if it goes on like that.
        """
        if self._pace is None:
            return
        if self._free and size < _CONTENT_PER_PIECE:
            self._free -= 1
            return
        now = asyncio.get_running_loop().time()
        pause = self._pace.take(now, 1 - size / _CONTENT_PER_PIECE)
        if self._pace.flooding(now):
            raise floods(self._pace.banned(now))
        if pause >= LEAST_PAUSE_SECONDS:
            await asyncio.sleep(pause)

    @property
    def closed(self) -> bool:
        """Whether it is over, as far as is known."""
        return self._closed.is_set()

    def begin_idle(self) -> None:
        """Wait for another operation; whatever comes before `end_idle` ends the relay.

        Only after an operation that received its answer: a stream has one
        reader at a time.
        """
        self._free = _FREE_PIECES
        self._idle = True
        self._reading = self._tasks.start(self._read(), "relay-idle")
        self._reading.add_done_callback(self._disturbed)

    async def _read(self) -> Any:  # noqa: ANN401 - a message, or grpc.aio.EOF
        return await self._context.read()

    def end_idle(self) -> bool:
        """Begin another operation; False if the relay ended meanwhile."""
        self._idle = False
        return not self._closed.is_set() and self._reading is not None and not self._reading.done()

    async def _result_of(self, reading: asyncio.Task[Any]) -> Any:  # noqa: ANN401 - as `_read`
        # `aclose` cancels it, which must not look like a cancellation of the reader.
        await asyncio.wait({reading})
        if reading.cancelled():
            raise self._error()
        return reading.result()

    def _disturbed(self, _: asyncio.Task[Any]) -> None:
        if self._idle:
            self.close()

    def close(self) -> None:
        """Let the RelayStream call end. May be called more than once."""
        self._closed.set()

    def lose(self, why: str) -> None:
        """Note that the RelayStream call is over although nobody closed it."""
        if not self._closed.is_set():
            self._lost = why
            self._closed.set()

    async def aclose(self) -> None:
        """Cancel a read of the idle relay; the RelayStream call is over."""
        await self._tasks.end()

    async def wait_closed(self) -> None:
        """Wait until the requester is done with the channel."""
        await self._closed.wait()

    def _error(self) -> TransferError:
        return TransferError(
            Reason.RELAY_LOST, f"the relay to the sandbox broke: {self._lost or 'the supervisor ended it'}"
        )
