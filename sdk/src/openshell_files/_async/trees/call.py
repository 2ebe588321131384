"""A call in which both sides stream messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from openshell_files_process.tasks import first_of

from openshell_files._async import _io
from openshell_files._async._calls import CallEndedError, Connection, Metadata
from openshell_files._async._failures import closed_or_cancelled, mapped
from openshell_files._known_errors import idle_error


class TreeCall:
    """A call in which both sides stream. Leaving the context cancels it unless it is over.

    One task writes, and one reads.

    Args:
        connection: the channel.
        path: of the method.
        metadata: of the call.
        idle: seconds without a message of either side after which the call fails.
        timeout: seconds until gRPC ends the call; None for no limit.
    """

    def __init__(
        self, connection: Connection, path: str, metadata: Metadata, idle: float, timeout: float | None
    ) -> None:
        self._idle = idle
        self._moved = _io.monotonic()
        self._opened = False
        self._over = asyncio.Event()
        self._call = connection.both_ways(path)(metadata=tuple(metadata), timeout=timeout)
        self._call.add_done_callback(lambda _: self._over.set())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.cancel()
        await self._over.wait()

    def cancel(self) -> None:
        """End the call."""
        self._call.cancel()

    def idle_left(self) -> float:
        """Return the seconds until the call is idle for too long.

        Raises:
            DeadlineExceeded: it is.
        """
        left = self._moved + self._idle - _io.monotonic()
        if left <= 0:
            raise idle_error(self._idle, "sent or received")
        return left

    async def write(self, message: bytes) -> None:
        """Send a message; return when the connection has taken it.

        Raises:
            CallEndedError: the call is over; `messages` raises its status.
            DeadlineExceeded: the connection took nothing for the idle timeout.
        """
        try:
            async with asyncio.timeout(self._idle):
                if not self._opened:
                    await self._call.wait_for_connection()
                    self._opened = True
                writing = await first_of(self._send(message), self._over.wait())
        except TimeoutError:
            raise idle_error(self._idle, "sent") from None
        except grpc.aio.AioRpcError:
            raise CallEndedError from None
        except asyncio.CancelledError:
            # The client was closed, or this task is cancelled.
            if self._over.is_set() and not isinstance(closed_or_cancelled(), asyncio.CancelledError):
                raise CallEndedError from None
            raise
        if writing.cancelled() or writing.exception() is not None or self._over.is_set():
            # The call's status is more precise than the error of the write.
            raise CallEndedError
        self._moved = _io.monotonic()

    async def _send(self, message: bytes) -> None:
        """Send a message by the layer below, which keeps the status of a server that answers early."""
        below = getattr(self._call, "_cython_call", None)
        if below is None:
            await self._call.write(message)
        else:
            await below.send_serialized_message(message)

    async def half_close(self) -> None:
        """Half-close: no message follows. Does nothing if the call is over, whose status `messages` raises."""
        try:
            await self._call.done_writing()
        except (grpc.aio.InternalError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return

    async def messages(self) -> AsyncIterator[bytes]:
        """Yield the messages. Another reader than `received` has to watch `idle_left`.

        Raises:
            FilesError: the call failed.
        """
        while True:
            try:
                message: Any = await self._call.read()
            except asyncio.CancelledError:
                raise closed_or_cancelled() from None
            except grpc.aio.AioRpcError as error:
                raise mapped(error) from error
            if message is grpc.aio.EOF:
                return
            self._moved = _io.monotonic()
            yield message


class ReceivedAhead(_io.Ahead[bytes]):
    """Receives while the previous message is taken.

    Args:
        call: the call.
        idle: seconds that the reader waits for a message before it fails.
    """

    def __init__(self, call: TreeCall, idle: float) -> None:
        super().__init__(call.messages(), unblock=call.cancel)
        self._idle = idle

    async def __anext__(self) -> bytes:
        try:
            async with asyncio.timeout(self._idle):
                return await super().__anext__()
        except TimeoutError:
            raise idle_error(self._idle, "received") from None
