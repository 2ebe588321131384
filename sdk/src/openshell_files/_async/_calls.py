# ruff: noqa: ASYNC109 - a deadline that gRPC and every attempt know, not a cancellation from outside
"""One gRPC call, asynchronous: messages in and out as bytes, failures as `FilesError`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, cast

import grpc
import grpc.aio

from openshell_files._async._io import Ahead
from openshell_files._core.upload.lanes import MOST_LANES
from openshell_files._error_mapping import error_from_status, idle_error
from openshell_files.errors import FilesError

Metadata = Sequence[tuple[str, str]]

_CANCELLED: Final = 1


class CallEndedError(Exception):
    """The server has answered although not everything was sent; `response` tells its words."""


class Connection:
    """A channel that is opened by the first call, and one for each further lane of an upload.

    Args:
        target: as gRPC takes it.
        credentials: None for plaintext.
        options: channel options.
    """

    #: Over how many streams an upload may travel here.
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
        """Whether a call would be sent at once."""
        return self._channel is not None and self._channel.get_state() is grpc.ChannelConnectivity.READY

    def _opened(self) -> grpc.aio.Channel:
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._channel is None:
            self._channel = self._new_channel()
        return self._channel

    def _lane(self, index: int) -> grpc.aio.Channel:
        """Return the channel of a lane. All streams of one connection would share its window (LAN-1)."""
        channel = self._opened()
        if index == 0:
            return channel
        if index not in self._lanes:
            self._lanes[index] = self._new_channel()
        return self._lanes[index]

    def _new_channel(self) -> grpc.aio.Channel:
        # Not earlier: the channel belongs to the event loop that runs now.
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._target, list(self._options))
        return grpc.aio.secure_channel(self._target, self._credentials, list(self._options))

    def _open_lanes(self) -> None:
        """Begin to connect all lanes, so that they are there when an upload wants them."""
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
        """Call a method that takes and gives one message.

        Args:
            path: of the method.
            message: the request.
            metadata: of the call.
            timeout: in seconds.
            lanes_after: connects lanes if no answer came for so long, in
                seconds: it comes from afar. None for none.

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
            raise _mapped(error) from error
        finally:
            if timer is not None:
                timer.cancel()

    def upload(
        self, path: str, metadata: Metadata, idle: float, timeout: float | None, lane: int = 0
    ) -> UploadCall:
        """Begin a call that takes many messages and gives one, on the connection of a lane."""
        method = cast(
            "grpc.aio.StreamUnaryMultiCallable[bytes, bytes]", self._lane(lane).stream_unary(path, None, None)
        )
        return UploadCall(method(metadata=tuple(metadata), timeout=timeout), idle)

    def download(
        self, path: str, message: bytes, metadata: Metadata, idle: float, timeout: float | None
    ) -> DownloadCall:
        """Begin a call that takes one message and gives many."""
        method = cast(
            "grpc.aio.UnaryStreamMultiCallable[bytes, bytes]", self._opened().unary_stream(path, None, None)
        )
        return DownloadCall(method(message, metadata=tuple(metadata), timeout=timeout), idle)

    async def close(self) -> None:
        """Close the channel; calls that are running are cancelled."""
        self._closed = True
        channels = list(self._lanes.values())
        if self._channel is not None:
            channels.append(self._channel)
        self._channel = None
        self._lanes.clear()
        for channel in channels:
            await channel.close()


class UploadCall:
    """A call that takes many messages and gives one.

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
        """Whether the last message can have left this process: a connection may have taken it."""
        # A call that begins without a connection says itself what it kept.
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

        When a server answers early, the pending write fails. The public
        method then replaces the call's status, the server's words, by
        "Internal error from Core". The layer below leaves the status alone.
        """
        below = getattr(self._call, "_cython_call", None)
        if below is None:
            await self._call.write(message)
        else:
            await below.send_serialized_message(message)

    async def write(self, message: bytes, *, last: bool = False) -> None:
        """Send a message; returns when the connection has taken it.

        Args:
            message: serialized.
            last: it is the finish, and `finish_left` depends on it.

        Raises:
            CallEndedError: the call is over already (UPL-13).
            DeadlineExceeded: nothing moved for the idle time.
        """
        if not self._opened:
            await self._open()
        if self._over.is_set():
            raise CallEndedError
        # There is a connection, so from here on it can be on its way.
        self._finish_given = last
        # Servers end a call without reading on. Not all of them reset the
        # stream then, so the write alone might wait for ever.
        writing = asyncio.ensure_future(self._send(message))
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait({writing, over}, timeout=self._idle, return_when=asyncio.FIRST_COMPLETED)
            if not writing.done() and not over.done():
                raise idle_error(self._idle, "sent")
        finally:
            over.cancel()
            if not writing.done():
                writing.cancel()
            await asyncio.wait({writing, over})
        if writing.cancelled() or writing.exception() is not None or self._over.is_set():
            # Whatever the write says, the call's status says it better.
            raise CallEndedError

    async def finish(self, message: bytes) -> None:
        """Send the last message and half-close."""
        await self.write(message, last=True)
        await self.half_close()

    async def half_close(self) -> None:
        """Say that no message follows.

        Raises:
            CallEndedError: the call is over already.
        """
        try:
            await self._call.done_writing()
        except grpc.aio.InternalError:
            raise CallEndedError from None

    async def ends_within(self, seconds: float) -> bool:
        """Wait until the call is over, at most so long; whether it is."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()
        return self._over.is_set()

    async def failure(self) -> FilesError | None:
        """Return why the call failed; None if it runs, or ended in order."""
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
            raise _closed_or_cancelled() from None
        except grpc.aio.AioRpcError as error:
            raise _mapped(error) from error


class DownloadCall:
    """A call that gives many messages; leaving the context cancels it unless it is over."""

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
                raise _closed_or_cancelled() from None
            except grpc.aio.AioRpcError as error:
                raise _mapped(error) from error
            if message is grpc.aio.EOF:
                return
            yield message


def received_ahead(call: DownloadCall) -> Ahead[bytes]:
    """Receive while the message before is checked and written."""
    return Ahead(call.messages(), unblock=call.cancel)


def _closed_or_cancelled() -> BaseException:
    """Return what a call's CancelledError means: the task was cancelled, or only the call was."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return asyncio.CancelledError()
    return error_from_status(_CANCELLED, "the client was closed", ())


def _mapped(error: grpc.aio.AioRpcError) -> FilesError:
    trailing = [(str(key), value) for key, value in error.trailing_metadata() or ()]
    return error_from_status(error.code().value[0], error.details() or "", trailing)
