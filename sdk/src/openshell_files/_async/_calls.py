# ruff: noqa: ASYNC109 - a deadline that gRPC and every attempt know, not a cancellation from outside
"""gRPC calls of the asynchronous flavour: messages as bytes, failures as `FilesError`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, cast

import grpc
import grpc.aio
from openshell_files_process.tasks import first_of

from openshell_files._async._failures import closed_or_cancelled, mapped
from openshell_files._async._io import Ahead
from openshell_files._connectivity import CONNECTING
from openshell_files._core.upload.lane_choice import MOST_LANES
from openshell_files._known_errors import idle_error
from openshell_files.errors import FilesError

Metadata = Sequence[tuple[str, str]]


class CallEndedError(Exception):
    """The server ended the call before everything was sent; `response` returns or raises its answer."""


class Connection:
    """A channel that the first call opens, and one for each further lane of an upload.

    Args:
        target: of gRPC.
        credentials: None for plaintext.
        options: channel options.
    """

    #: Most streams of an upload.
    most_lanes = MOST_LANES

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None,
        options: Sequence[tuple[str, int | str]],
    ) -> None:
        self._target = target
        self._credentials = credentials
        self._options = options
        self._channel: grpc.aio.Channel | None = None
        self._lanes: dict[int, grpc.aio.Channel] = {}
        self._closed = False

    @property
    def ready(self) -> bool:
        """True if a call would be sent at once."""
        return self._channel is not None and self._channel.get_state() is grpc.ChannelConnectivity.READY

    def connecting(self) -> bool:
        """Begin to connect, unless there is a connection; return whether one may follow soon."""
        return self._opened().get_state(try_to_connect=True) in CONNECTING

    def _opened(self) -> grpc.aio.Channel:
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._channel is None:
            self._channel = self._new_channel()
        return self._channel

    def _lane(self, index: int) -> grpc.aio.Channel:
        """Return the channel of a lane. Streams of one connection would share its window (LAN-11)."""
        channel = self._opened()
        if index == 0:
            return channel
        if index not in self._lanes:
            self._lanes[index] = self._new_channel()
        return self._lanes[index]

    def _new_channel(self) -> grpc.aio.Channel:
        # At the first call, because grpc.aio binds the channel to the running event loop.
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._target, list(self._options))
        return grpc.aio.secure_channel(self._target, self._credentials, list(self._options))

    def _open_lanes(self) -> None:
        """Begin to connect all lanes, so that an upload finds them connected."""
        if not self._closed:
            for index in range(1, self.most_lanes):
                self._lane(index).get_state(try_to_connect=True)

    async def unary(
        self,
        path: str,
        message: bytes,
        metadata: Metadata,
        timeout: float,
        lanes_after: float | None = None,
    ) -> bytes:
        """Call a unary method.

        Args:
            path: of the method.
            message: the request.
            metadata: of the call.
            timeout: in seconds.
            lanes_after: connect lanes if no answer came within this many
                seconds, which means a long round trip; None never does.

        Raises:
            FilesError: the call failed.
        """
        method = cast(
            "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]", self._opened().unary_unary(path, None, None)
        )
        timer = None
        if lanes_after is not None:
            timer = asyncio.get_running_loop().call_later(lanes_after, self._open_lanes)
        try:
            return await method(message, metadata=tuple(metadata), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise mapped(error) from error
        finally:
            if timer is not None:
                timer.cancel()

    def upload(
        self, path: str, metadata: Metadata, idle: float, timeout: float | None, lane: int = 0
    ) -> UploadCall:
        """Begin a client-streaming call on the connection of a lane."""
        method = cast(
            "grpc.aio.StreamUnaryMultiCallable[bytes, bytes]", self._lane(lane).stream_unary(path, None, None)
        )
        return UploadCall(method(metadata=tuple(metadata), timeout=timeout), idle)

    def download(
        self, path: str, message: bytes, metadata: Metadata, idle: float, timeout: float | None
    ) -> DownloadCall:
        """Begin a server-streaming call."""
        method = cast(
            "grpc.aio.UnaryStreamMultiCallable[bytes, bytes]", self._opened().unary_stream(path, None, None)
        )
        return DownloadCall(method(message, metadata=tuple(metadata), timeout=timeout), idle)

    def both_ways(self, path: str) -> grpc.aio.StreamStreamMultiCallable[bytes, bytes]:
        """Return a method in which both sides stream."""
        return cast(
            "grpc.aio.StreamStreamMultiCallable[bytes, bytes]", self._opened().stream_stream(path, None, None)
        )

    async def close(self) -> None:
        """Close the channels; running calls are cancelled."""
        self._closed = True
        channels = list(self._lanes.values())
        if self._channel is not None:
            channels.append(self._channel)
        self._channel = None
        self._lanes.clear()
        for channel in channels:
            await channel.close()


class UploadCall:
    """Client-streaming call: many messages, one answer.

    Leaving the context cancels the call unless it is over.
    """

    def __init__(self, call: grpc.aio.StreamUnaryCall[bytes, bytes], idle: float) -> None:
        self._call = call
        self._idle = idle
        self._opened = False
        self._over = asyncio.Event()
        self._finish_given = False
        call.add_done_callback(lambda _: self._over.set())

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

    @property
    def finish_left(self) -> bool:
        """True if the finish may have left this process: a connection may have taken it."""
        # A bridged call begins without a connection, and knows which message it held back.
        return self._finish_given and bool(getattr(self._call, "newest_left", True))

    async def _open(self) -> None:
        """Wait until there is a connection."""
        try:
            async with asyncio.timeout(self._idle):
                await self._call.wait_for_connection()
        except TimeoutError:
            raise idle_error(self._idle, "answered") from None
        except grpc.aio.AioRpcError:
            raise CallEndedError from None
        self._opened = True

    async def _send(self, message: bytes) -> None:
        """Send a message without `StreamUnaryCall.write`.

        If a server answers early, the pending write fails. The public method
        then replaces the server's status by "Internal error from Core". The
        layer below keeps the status.
        """
        below = getattr(self._call, "_cython_call", None)
        if below is None:
            await self._call.write(message)
        else:
            await below.send_serialized_message(message)

    async def write(self, message: bytes, *, last: bool = False) -> None:
        """Send a message; return when the connection has taken it.

        Args:
            message: serialized.
            last: the message is the finish, which `finish_left` reports.

        Raises:
            CallEndedError: the call is over (UPL-13).
            DeadlineExceeded: the connection took nothing for the idle timeout.
        """
        if not self._opened:
            await self._open()
        if self._over.is_set():
            raise CallEndedError
        # There is a connection, so from here on the message may be sent.
        self._finish_given = last
        # A server may end the call without reading the rest. Some do not reset
        # the stream then, so the write alone might wait for ever.
        try:
            async with asyncio.timeout(self._idle):
                writing = await first_of(self._send(message), self._over.wait())
        except TimeoutError:
            raise idle_error(self._idle, "sent") from None
        if writing.cancelled() or writing.exception() is not None or self._over.is_set():
            # The call's status is more precise than the error of the write.
            raise CallEndedError

    async def finish(self, message: bytes) -> None:
        """Send the last message and half-close."""
        await self.write(message, last=True)
        await self.half_close()

    async def half_close(self) -> None:
        """Half-close: no message follows.

        Raises:
            CallEndedError: the call is over.
        """
        try:
            await self._call.done_writing()
        except grpc.aio.InternalError:
            raise CallEndedError from None

    async def ends_within(self, seconds: float) -> bool:
        """Wait for the end of the call, at most `seconds`; return whether it is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()
        return self._over.is_set()

    async def failure(self) -> FilesError | None:
        """Return the error of a failed call; None if it runs or succeeded."""
        if not self._over.is_set() or await self._call.code() is grpc.StatusCode.OK:
            return None
        try:
            await self.response()
        except FilesError as error:
            return error
        return None

    async def response(self) -> bytes:
        """Return the answer.

        Raises:
            FilesError: the call failed.
        """
        try:
            async with asyncio.timeout(self._idle):
                return await self._call
        except TimeoutError:
            raise idle_error(self._idle, "answered") from None
        except asyncio.CancelledError:
            raise closed_or_cancelled() from None
        except grpc.aio.AioRpcError as error:
            raise mapped(error) from error


class DownloadCall:
    """Server-streaming call: one request, many messages. Leaving the context cancels it unless it is over."""

    def __init__(self, call: grpc.aio.UnaryStreamCall[bytes, bytes], idle: float) -> None:
        self._call = call
        self._idle = idle
        self._over = asyncio.Event()
        call.add_done_callback(lambda _: self._over.set())

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

    async def messages(self) -> AsyncIterator[bytes]:
        """Yield the messages.

        Raises:
            FilesError: the call failed.
        """
        while True:
            try:
                async with asyncio.timeout(self._idle):
                    message: Any = await self._call.read()
            except TimeoutError:
                raise idle_error(self._idle, "received") from None
            except asyncio.CancelledError:
                raise closed_or_cancelled() from None
            except grpc.aio.AioRpcError as error:
                raise mapped(error) from error
            if message is grpc.aio.EOF:
                return
            yield message


def received_ahead(call: DownloadCall) -> Ahead[bytes]:
    """Receive while the previous message is checked and written."""
    return Ahead(call.messages(), unblock=call.cancel)
