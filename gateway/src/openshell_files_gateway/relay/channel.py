"""One claimed relay as a byte stream to a sandbox and back.

The bytes travel in the supervisor's RelayStream call. The requester of the
relay reads and writes that call directly, without a task or a queue between.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import grpc
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.framing import FramingError, decode_relay_data, encode_relay_data
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.concurrency.stream_reads import StreamReads
from openshell_files_gateway.concurrency.tasks import BackgroundTasks
from openshell_files_gateway.relay.paces import floods
from openshell_files_gateway.server.core.pace import LEAST_PAUSE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openshell_files_gateway.server.core.pace import Pace

    RelayContext = grpc.aio.ServicerContext[Any, bytes]

#: Small messages and frames of each operation that are free: as many as a short
#: operation has, since a caller may run many of those.
_FREE_PIECES: Final = 16

#: Content in bytes that pays for one message or frame. Pieces with less content
#: are mostly work for the gateway. A sparse file has a short frame for each
#: hole, and at least four times this much content before the next hole.
_CONTENT_PER_PIECE: Final = 1024


#: Interval of retries while gRPC carries out a cancelled write.
_WRITE_RETRY_SECONDS: Final = 0.005


class RelayChannel:
    """The gateway's end of a RelayStream call (RLY-2, RLY-3).

    Two parties share it: the RelayStream method waits in `wait_closed` and
    reports the supervisor's death with `lose`; the requester sends, receives
    and finally closes.

    Args:
        channel_id: id from RelayOpen.
        context: the RelayStream call, after its first message.
        pace: rate limit of all relays of the sandbox; None for no limit.
    """

    def __init__(self, channel_id: str, context: RelayContext, pace: Pace | None = None) -> None:
        self.channel_id: Final = channel_id
        self._context = context
        self._reads = StreamReads(self._read_message)
        self._pace = pace
        self._free = _FREE_PIECES
        self._closed = asyncio.Event()
        self._lost = ""
        #: True after a cancelled write, which gRPC may still carry out.
        self._write_pending = False
        self._tasks = BackgroundTasks()
        #: Started when the relay became idle, and not awaited yet.
        self._reading: asyncio.Task[Any] | None = None
        self._idle = False
        self.bytes_sent = 0
        self.bytes_received = 0

    async def _read_message(self) -> object:
        return await self._context.read()

    def __repr__(self) -> str:
        state = self._lost or ("closed" if self._closed.is_set() else "open")
        return f"<RelayChannel {self.channel_id}, {state}, {self.bytes_sent} sent, {self.bytes_received} received>"

    async def send(self, segments: Sequence[bytes | memoryview]) -> None:
        """Send bytes to the sandbox; wait while the HTTP/2 window is full.

        Raises:
            TransferError: RELAY_LOST.
        """
        for message in encode_relay_data(segments):
            if self._closed.is_set():
                raise self._error()
            try:
                await self._write(message)
            except asyncio.CancelledError:
                self._write_pending = True
                raise
            except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
                raise self._error() from error
            self.bytes_sent += len(message)

    async def _write(self, message: bytes) -> None:
        """Write a message, after a cancelled write that gRPC still carries out: it refuses two writes at once."""
        while self._write_pending and not self._closed.is_set():
            try:
                await self._context.write(message)
            except grpc.aio.BaseError:
                await asyncio.sleep(_WRITE_RETRY_SECONDS)
            else:
                self._write_pending = False
                return
        await self._context.write(message)

    async def receive(self) -> memoryview:
        """Return the next bytes from the sandbox; empty bytes at the end of the relay.

        Raises:
            TransferError: RELAY_LOST if the supervisor's call broke,
                AGENT_PROTOCOL_ERROR for a message without relay data,
                SUPERVISOR_FLOODS for a flood of pieces with little content (RLY-25).
        """
        while True:
            if self._closed.is_set():
                raise self._error()
            reading, self._reading = self._reading, None
            try:
                message = await (self._reads.next() if reading is None else self._result_of(reading))
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
            if len(data):  # upstream allows empty data frames without a meaning
                return data

    async def keep_pace(self, size: int) -> None:
        """Delay a sandbox that sends its content in many small pieces.

        Args:
            size: bytes of the received message or frame.

        Raises:
            TransferError: SUPERVISOR_FLOODS if it stays above the rate.
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
        """True once the requester closed the channel or the supervisor's call ended."""
        return self._closed.is_set()

    def begin_idle(self) -> None:
        """Go idle between two operations: any byte or end before `end_idle` closes the relay.

        Only after an operation that received its answer, since a stream has
        one reader at a time.
        """
        self._free = _FREE_PIECES
        self._idle = True
        self._reading = self._tasks.start(self._read(), "relay-idle")
        self._reading.add_done_callback(self._disturbed)

    async def _read(self) -> Any:  # noqa: ANN401 - a message, or grpc.aio.EOF
        return await self._reads.next()

    def end_idle(self) -> bool:
        """Leave idle for the next operation; return False if the relay ended meanwhile."""
        self._idle = False
        return not self._closed.is_set() and self._reading is not None and not self._reading.done()

    async def _result_of(self, reading: asyncio.Task[Any]) -> Any:  # noqa: ANN401 - as `_read`
        # Not awaited directly: a cancellation by `aclose` must not look like one of the caller.
        await asyncio.wait({reading})
        if reading.cancelled():
            raise self._error()
        return reading.result()

    def _disturbed(self, _: asyncio.Task[Any]) -> None:
        if self._idle:
            self.close()

    def close(self) -> None:
        """Let the RelayStream call end; idempotent."""
        self._closed.set()

    def lose(self, why: str) -> None:
        """Close the channel because the RelayStream call ended before `close`.

        Args:
            why: cause, for the error message.
        """
        if not self._closed.is_set():
            self._lost = why
            self._closed.set()

    async def aclose(self) -> None:
        """Cancel the read of an idle relay, at the end of the RelayStream call."""
        await self._tasks.end()

    async def wait_closed(self) -> None:
        """Wait until the requester closes the channel."""
        await self._closed.wait()

    def _error(self) -> TransferError:
        return TransferError(
            Reason.RELAY_LOST, f"the relay to the sandbox broke: {self._lost or 'the supervisor ended it'}"
        )
