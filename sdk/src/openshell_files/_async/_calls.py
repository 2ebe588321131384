# ruff: noqa: ASYNC109 - a deadline that gRPC and every attempt know, not a cancellation from outside
"""One gRPC call, asynchronous: messages in and out as bytes, failures as `FilesError`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Final, Self, cast

import grpc
import grpc.aio

from openshell_files._async._io import Ahead
from openshell_files._core.error_mapping import error_from_status, idle_error
from openshell_files.errors import FilesError

Metadata = Sequence[tuple[str, str]]

_CANCELLED: Final = 1


class CallEndedError(Exception):
    """The server has answered although not everything was sent; `response` tells its words."""


class Connection:
    """A channel that is opened by the first call.

    Args:
        target: as gRPC takes it.
        credentials: None for plaintext.
        options: channel options.
    """

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
        self._closed = False

    def _opened(self) -> grpc.aio.Channel:
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._channel is None:
            # Not earlier: the channel belongs to the event loop that runs now.
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self._target, list(self._options))
            else:
                self._channel = grpc.aio.secure_channel(self._target, self._credentials, list(self._options))
        return self._channel

    async def unary(self, path: str, message: bytes, metadata: Metadata, timeout: float) -> bytes:
        """Call a method that takes and gives one message.

        Raises:
            FilesError: the call failed.
        """
        method = cast(
            "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]", self._opened().unary_unary(path, None, None)
        )
        try:
            return await method(message, metadata=tuple(metadata), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise _mapped(error) from error

    def upload(self, path: str, metadata: Metadata, idle: float, timeout: float | None) -> UploadCall:
        """Begin a call that takes many messages and gives one."""
        method = cast(
            "grpc.aio.StreamUnaryMultiCallable[bytes, bytes]", self._opened().stream_unary(path, None, None)
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
        channel, self._channel = self._channel, None
        if channel is not None:
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
        call.add_done_callback(lambda _: self._over.set())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.cancel()
        await self._over.wait()

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

    async def write(self, message: bytes) -> None:
        """Send a message; returns when the connection has taken it.

        Raises:
            CallEndedError: the call is over already (UPL-13).
            DeadlineExceeded: nothing moved for the idle time.
        """
        if not self._opened:
            await self._open()
        if self._over.is_set():
            raise CallEndedError
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
        await self.write(message)
        try:
            await self._call.done_writing()
        except grpc.aio.InternalError:
            raise CallEndedError from None

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
