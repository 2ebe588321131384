"""The supervisor's end of one relay: the agent's byte stream over RelayStream."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final, cast

import grpc
from openshell_files_process.tasks import TaskScope
from openshell_files_protocol.framing import FramingError, decode_relay_data, encode_relay_data
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2

StreamCall = grpc.aio.StreamStreamCall[bytes, bytes]

#: How long the gateway may take to read the last messages and end the call.
CLOSING_SECONDS: Final = 30.0


def open_stream(channel: grpc.aio.Channel, path: str, metadata: tuple[tuple[str, str], ...]) -> StreamCall:
    """Start a call in which both sides send serialized messages."""
    return cast("StreamCall", channel.stream_stream(path)(metadata=metadata))


class RelayLostError(ConnectionError):
    """The RelayStream call has ended."""


class RelayByteStream:
    """Implements the agent's ByteStream on a RelayStream call.

    grpc.aio cancels the whole call when a task that waits in `read` is
    cancelled. The agent stops waiting for input as soon as it has its result,
    so a separate task reads, which outlives a cancelled `receive` and serves the next one. It
    always reads one message ahead, so that content has arrived when the disk is ready for it.
    """

    def __init__(self, call: StreamCall) -> None:
        self._call = call
        self._tasks = TaskScope()
        self._reading: asyncio.Task[bytes | memoryview] | None = None
        #: True if the gateway ended the relay in order.
        self.ended = False

    async def claim(self, channel_id: str) -> None:
        """Send the init frame and wait until the gateway accepted it (RLY-2).

        Raises:
            RelayLostError: the gateway refused, or is gone.
        """
        frame = openshell_pb2.RelayFrame(init=openshell_pb2.RelayInit(channel_id=channel_id))
        try:
            await self._call.write(frame.SerializeToString())
            await self._call.initial_metadata()
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            raise RelayLostError(await self._why(error)) from error

    async def receive(self) -> bytes | memoryview:
        """Return the next bytes; empty when the gateway ended the relay.

        May be cancelled without loss.

        Raises:
            RelayLostError: the call broke.
        """
        reading = self._reading or self._read_on()
        data = await asyncio.shield(reading)
        self._reading = None
        if data:
            self._read_on()
        return data

    async def send(self, *segments: bytes | memoryview) -> None:
        """Send bytes; waits while the gateway accepts none.

        A cancellation of it cancels the relay.

        Raises:
            RelayLostError: the call broke.
        """
        try:
            for message in encode_relay_data(segments):
                await self._call.write(message)
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            raise RelayLostError(await self._why(error)) from error

    async def end_sending(self) -> None:
        """Half-close: end sending, while receiving continues."""
        # If the call has ended, `receive` raises it.
        with suppress(grpc.RpcError, asyncio.InvalidStateError):
            await self._call.done_writing()

    async def close(self) -> None:
        """End the stream, and let the gateway read the last messages.

        To cancel at once would discard messages on their way. Messages of the gateway are
        discarded.
        """
        try:
            async with asyncio.timeout(CLOSING_SECONDS):
                await self._call.done_writing()
                while len(await self.receive()):
                    pass
        except (grpc.RpcError, asyncio.InvalidStateError, RelayLostError, TimeoutError):
            pass
        finally:
            await self.cancel()

    async def cancel(self) -> None:
        """Cancel the call unless it has ended, and end the reading task."""
        self._call.cancel()
        await self._tasks.end()

    def _read_on(self) -> asyncio.Task[bytes | memoryview]:
        self._reading = self._tasks.start(self._read(), "relay-read")
        # The result of a task that no `receive` awaits counts as retrieved.
        self._reading.add_done_callback(lambda reading: reading.cancelled() or reading.exception())
        return self._reading

    async def _read(self) -> bytes | memoryview:
        while True:
            try:
                message = await self._call.read()
            except (grpc.RpcError, asyncio.InvalidStateError) as error:
                raise RelayLostError(await self._why(error)) from error
            if not isinstance(message, bytes):  # grpc.aio.EOF
                self.ended = True
                return b""
            try:
                data = decode_relay_data(message)
            except FramingError as error:
                raise RelayLostError(str(error)) from error
            if data is None:
                raise RelayLostError("the gateway sent a frame without data")
            if len(data):
                return data

    async def _why(self, error: BaseException) -> str:
        if self._call.done():
            return f"{(await self._call.code()).name}: {await self._call.details()}"
        return str(error)
