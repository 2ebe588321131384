"""Adapter: a blocking gRPC channel with the interface of an asynchronous one.

The official SDK's client is blocking only, and its channel has endpoint, TLS
and tokens. The asynchronous flavour makes its calls on that channel through
this adapter. Threads run what may block: the owner's function for tokens, and
the wait for a message.

The adapter has the part of `grpc.aio` that `_async/_calls.py` uses, with the
same exceptions: a failed call raises `AioRpcError`, a cancelled call
`CancelledError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar, cast

import grpc
import grpc.aio
from openshell_files_process.tasks import TaskScope

from openshell_files._connectivity import Way, state_of
from openshell_files._core.borrowed_channel_errors import owners_failure

_Metadata = Sequence[tuple[str, str]]

#: Seconds that `close` waits for calls that have not begun: the owner's function may block.
_BEGIN_SECONDS: Final = 1.0

_T = TypeVar("_T")


class BridgedChannel:
    """Makes calls on a channel of another owner, who closes it.

    Args:
        channel: the blocking channel.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._running = set[_BridgedCall[Any]]()
        self._tasks = TaskScope()

    def get_state(self, *, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the connection's state; a channel that does not report it counts as connected."""
        return state_of(self._channel, connect=try_to_connect) or grpc.ChannelConnectivity.READY

    def unary_unary(self, path: str, _serialize: None, _parse: None) -> Callable[..., Awaitable[bytes]]:
        """Return a function that calls a unary method."""
        method = cast("Any", self._channel.unary_unary(path, None, None))

        async def call(message: bytes, *, metadata: _Metadata, timeout: float) -> bytes:  # noqa: ASYNC109 - gRPC's own
            running = _BridgedCall[bytes](
                lambda: method.future(message, metadata=metadata, timeout=timeout), self._tasks
            )
            self._note(running)
            try:
                return await running
            finally:
                running.cancel()

        return call

    def stream_unary(self, path: str, _serialize: None, _parse: None) -> Callable[..., BridgedUpload]:
        """Return a function that begins a client-streaming call."""
        method = cast("Any", self._channel.stream_unary(path, None, None))

        def call(*, metadata: _Metadata, timeout: float | None) -> BridgedUpload:
            messages = _Messages(asyncio.get_running_loop(), Way(self._channel))
            upload = BridgedUpload(
                lambda: method.future(messages, metadata=metadata, timeout=timeout), self._tasks, messages
            )
            self._note(upload)
            return upload

        return call

    def unary_stream(self, path: str, _serialize: None, _parse: None) -> Callable[..., BridgedDownload]:
        """Return a function that begins a server-streaming call."""
        method = cast("Any", self._channel.unary_stream(path, None, None))

        def call(message: bytes, *, metadata: _Metadata, timeout: float | None) -> BridgedDownload:
            download = BridgedDownload(
                lambda: method(message, metadata=metadata, timeout=timeout), self._tasks
            )
            self._note(download)
            return download

        return call

    def stream_stream(self, path: str, _serialize: None, _parse: None) -> Callable[..., BridgedStreams]:
        """Return a function that begins a call in which both sides stream."""
        method = cast("Any", self._channel.stream_stream(path, None, None))

        def call(*, metadata: _Metadata, timeout: float | None) -> BridgedStreams:
            messages = _Messages(asyncio.get_running_loop(), Way(self._channel))
            streams = BridgedStreams(
                lambda: method(messages, metadata=metadata, timeout=timeout), self._tasks, messages
            )
            self._note(streams)
            return streams

        return call

    async def close(self) -> None:
        """Cancel the running calls; the channel stays open."""
        for call in list(self._running):
            call.cancel()
        await self._tasks.wait(_BEGIN_SECONDS)

    def _note(self, call: _BridgedCall[Any]) -> None:
        self._running.add(call)
        call.add_done_callback(self._running.discard)


class _BridgedCall(Generic[_T]):
    """A call of the blocking channel, awaited in an event loop.

    Args:
        begin: begins the call; it runs the interceptors, which may block.
        tasks: owner of the task that runs `begin`.
    """

    def __init__(self, begin: Callable[[], Any], tasks: TaskScope) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._callbacks = list[Callable[[Any], object]]()
        self._call: Any = None
        self._failure: Exception | None = None
        self._cancelled = False
        self._beginning = tasks.start(self._begin(begin), "openshell-files-begin")

    async def _begin(self, begin: Callable[[], Any]) -> None:
        try:
            self._call = await asyncio.to_thread(begin)
        except Exception as error:  # noqa: BLE001 - of the channel's owner; raised where the call is awaited
            self._failure = error
            self._end()
            return
        self._call.add_done_callback(self._tell)
        if self._cancelled:
            self._call.cancel()

    def _tell(self, _call: object) -> None:
        """Report the end of the call, in a thread of gRPC. A closed loop has no task that waits."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if self._over.is_set():
            return
        self._over.set()
        for callback in self._callbacks:
            callback(self)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call a function with this call when it is over."""
        if self._over.is_set():
            callback(self)
        else:
            self._callbacks.append(callback)

    def cancel(self) -> None:
        """End the call."""
        if not self._over.is_set():
            self._cancelled = True
            if self._call is not None:
                self._call.cancel()

    async def code(self) -> grpc.StatusCode:
        """Wait for the end of the call and return its status."""
        await self._over.wait()
        try:
            await self
        except grpc.aio.AioRpcError as error:
            return error.code()
        except asyncio.CancelledError:
            return grpc.StatusCode.CANCELLED
        return grpc.StatusCode.OK

    def __await__(self) -> Generator[Any, Any, _T]:
        return self._result().__await__()

    async def _result(self) -> _T:
        await self._over.wait()
        if self._failure is not None:
            raise self._meaning(self._failure)
        try:
            return cast("_T", self._call.result())
        except Exception as error:  # noqa: BLE001 - gRPC's, or of the channel's owner
            raise self._meaning(error) from None

    def _meaning(self, error: Exception) -> BaseException:
        """Return the exception that `grpc.aio` would have raised."""
        if isinstance(error, grpc.FutureCancelledError) or (
            self._cancelled and isinstance(error, grpc.RpcError)
        ):
            return asyncio.CancelledError()
        if isinstance(error, grpc.RpcError):
            failed = cast("Any", error)
            trailing = grpc.aio.Metadata(*(failed.trailing_metadata() or ()))
            return grpc.aio.AioRpcError(failed.code(), grpc.aio.Metadata(), trailing, failed.details())
        meaning = owners_failure(error)
        meaning.__cause__ = error
        return meaning


class _Messages(Iterator[bytes]):
    """Iterator for gRPC's sending thread; `put` waits in the event loop until the thread took the message.

    Attributes:
        newest_left: True if the message that was taken last may have left this process.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, way: Way) -> None:
        self._loop = loop
        self._way = way
        self.newest_left = False
        self._given: SimpleQueue[tuple[bytes, asyncio.Event] | None] = SimpleQueue()
        self._closed = False

    async def put(self, message: bytes) -> None:
        taken = asyncio.Event()
        self._given.put((message, taken))
        await taken.wait()

    def end(self) -> None:
        """End the iteration after the messages that wait."""
        self._given.put(None)

    def close(self) -> None:
        """End the iteration at once."""
        self._closed = True
        self._given.put(None)

    def __next__(self) -> bytes:
        self._way.is_open()
        given = self._given.get()
        if given is None or self._closed:
            raise StopIteration
        self.newest_left = self._way.is_open()
        message, taken = given
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(taken.set)
        return message


class _BridgedWriting(_BridgedCall[_T]):
    """A call whose caller streams."""

    _messages: _Messages

    def _take_from(self, messages: _Messages) -> None:
        """Note the iterator from which gRPC takes what is written."""
        self._messages = messages
        self.add_done_callback(lambda _: messages.close())

    async def wait_for_connection(self) -> None:
        """Wait until the call has begun; without a connection it then fails."""
        await asyncio.shield(self._beginning)
        if self._over.is_set():
            await self

    async def write(self, message: bytes) -> None:
        """Send a message; return when gRPC has taken it."""
        self._messages.newest_left = False
        await self._messages.put(message)

    @property
    def newest_left(self) -> bool:
        """True if the message that was passed last may have left this process."""
        return self._messages.newest_left

    async def done_writing(self) -> None:
        """Half-close: no message follows."""
        self._messages.end()


class BridgedUpload(_BridgedWriting[bytes]):
    """Client-streaming call."""

    def __init__(self, begin: Callable[[], Any], tasks: TaskScope, messages: _Messages) -> None:
        super().__init__(begin, tasks)
        self._take_from(messages)


class BridgedDownload(_BridgedCall[None]):
    """Server-streaming call. Its own thread waits for the messages."""

    def __init__(self, begin: Callable[[], Any], tasks: TaskScope) -> None:
        super().__init__(begin, tasks)
        self._thread = ThreadPoolExecutor(1, "openshell-files-receive")
        self.add_done_callback(lambda _: self._thread.shutdown(wait=False))

    async def read(self) -> object:
        """Return the next message; `grpc.aio.EOF` at the end."""
        await asyncio.shield(self._beginning)
        if self._failure is not None:
            raise self._meaning(self._failure)
        try:
            return await self._loop.run_in_executor(self._thread, self._next)
        except RuntimeError:
            # The thread ended with the call, but messages are left.
            return await asyncio.to_thread(self._next)

    def _next(self) -> object:
        try:
            return next(self._call, grpc.aio.EOF)
        except Exception as error:  # noqa: BLE001 - gRPC's, or of the channel's owner
            raise self._meaning(error) from None


class BridgedStreams(BridgedDownload, _BridgedWriting[None]):
    """Call in which both sides stream."""

    def __init__(self, begin: Callable[[], Any], tasks: TaskScope, messages: _Messages) -> None:
        super().__init__(begin, tasks)
        self._take_from(messages)
