"""A blocking gRPC channel with the face of an asynchronous one.

The official SDK's client is blocking only, and its channel brings endpoint,
TLS and tokens. The asynchronous flavour makes its calls on that channel
through this: what may block (the owner's function for tokens, the wait for a
message) happens in threads, and nothing of it in the event loop.

Only what `_async/_calls.py` uses of `grpc.aio` is here, with its manners: a
failed call raises `AioRpcError`, a cancelled one `CancelledError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, cast

import grpc
import grpc.aio

from openshell_files._connectivity import Way, state_of
from openshell_files._core.borrowed import owners_failure

_Metadata = Sequence[tuple[str, str]]
_T = TypeVar("_T")


class BridgedChannel:
    """Makes calls on a channel that somebody else opened and will close.

    Args:
        channel: the blocking channel.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._running = set[_Call[Any]]()

    def get_state(self, *, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return whether there is a connection; one that does not tell counts as connected."""
        del try_to_connect  # that is its owner's
        return state_of(self._channel) or grpc.ChannelConnectivity.READY

    def unary_unary(self, path: str, _serialize: None, _parse: None) -> Callable[..., Awaitable[bytes]]:
        """Return a function that calls a method that takes and gives one message."""
        method = cast("Any", self._channel.unary_unary(path, None, None))

        async def call(message: bytes, *, metadata: _Metadata, timeout: float) -> bytes:  # noqa: ASYNC109 - gRPC's own
            running = _Call[bytes](lambda: method.future(message, metadata=metadata, timeout=timeout))
            self._note(running)
            try:
                return await running
            finally:
                running.cancel()

        return call

    def stream_unary(self, path: str, _serialize: None, _parse: None) -> Callable[..., BridgedUpload]:
        """Return a function that begins a call that takes many messages and gives one."""
        method = cast("Any", self._channel.stream_unary(path, None, None))

        def call(*, metadata: _Metadata, timeout: float | None) -> BridgedUpload:
            messages = _Messages(asyncio.get_running_loop(), Way(self._channel))
            upload = BridgedUpload(
                lambda: method.future(messages, metadata=metadata, timeout=timeout), messages
            )
            self._note(upload)
            return upload

        return call

    def unary_stream(self, path: str, _serialize: None, _parse: None) -> Callable[..., BridgedDownload]:
        """Return a function that begins a call that takes one message and gives many."""
        method = cast("Any", self._channel.unary_stream(path, None, None))

        def call(message: bytes, *, metadata: _Metadata, timeout: float | None) -> BridgedDownload:
            download = BridgedDownload(lambda: method(message, metadata=metadata, timeout=timeout))
            self._note(download)
            return download

        return call

    async def close(self) -> None:
        """Cancel the calls that are running; the channel stays open."""
        for call in list(self._running):
            call.cancel()

    def _note(self, call: _Call[Any]) -> None:
        self._running.add(call)
        call.add_done_callback(self._running.discard)


class _Call(Generic[_T]):
    """A call of the blocking channel, awaited in a loop.

    Args:
        begin: begins the call; it runs the interceptors, which may block.
    """

    def __init__(self, begin: Callable[[], Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._callbacks = list[Callable[[Any], object]]()
        self._call: Any = None
        self._failure: Exception | None = None
        self._cancelled = False
        self._beginning = self._loop.create_task(self._begin(begin))

    async def _begin(self, begin: Callable[[], Any]) -> None:
        try:
            self._call = await asyncio.to_thread(begin)
        except Exception as error:  # noqa: BLE001 - of the channel's owner; it is told by whoever awaits the call
            self._failure = error
            self._end()
            return
        self._call.add_done_callback(self._tell)
        if self._cancelled:
            self._call.cancel()

    def _tell(self, _call: object) -> None:
        """Take the end of the call, in a thread of gRPC's. A loop that is closed has nobody to tell."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if self._over.is_set():
            return
        self._over.set()
        for callback in self._callbacks:
            callback(self)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Have a function called with this call when it is over."""
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
        """Wait for the call's end and return its status."""
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
        """Return what `grpc.aio` would have raised."""
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
    """What gRPC's sending thread takes, one by one; each is waited for in the loop until it was taken."""

    def __init__(self, loop: asyncio.AbstractEventLoop, way: Way) -> None:
        self._loop = loop
        self._way = way
        #: Whether the message that was taken last can have left this process.
        self.newest_left = False
        self._given: SimpleQueue[tuple[bytes, asyncio.Event] | None] = SimpleQueue()
        self._closed = False

    async def put(self, message: bytes) -> None:
        taken = asyncio.Event()
        self._given.put((message, taken))
        await taken.wait()

    def end(self) -> None:
        """Say that no more comes; what waits is still taken."""
        self._given.put(None)

    def close(self) -> None:
        """Say that nothing more is taken."""
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


class BridgedUpload(_Call[bytes]):
    """A call that takes many messages and gives one."""

    def __init__(self, begin: Callable[[], Any], messages: _Messages) -> None:
        super().__init__(begin)
        self._messages = messages
        self.add_done_callback(lambda _: messages.close())

    async def wait_for_connection(self) -> None:
        """Wait until the call has begun; whether there is a connection shows when it fails."""
        await asyncio.shield(self._beginning)
        if self._over.is_set():
            await self

    async def write(self, message: bytes) -> None:
        """Send a message; returns when gRPC has taken it."""
        self._messages.newest_left = False
        await self._messages.put(message)

    @property
    def newest_left(self) -> bool:
        """Whether the message that was given last can have left this process."""
        return self._messages.newest_left

    async def done_writing(self) -> None:
        """Say that no message follows."""
        self._messages.end()


class BridgedDownload(_Call[None]):
    """A call that gives many messages. A thread of its own waits for them."""

    def __init__(self, begin: Callable[[], Any]) -> None:
        super().__init__(begin)
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
            # The thread has ended with the call, but not everything was read.
            return await asyncio.to_thread(self._next)

    def _next(self) -> object:
        try:
            return next(self._call, grpc.aio.EOF)
        except Exception as error:  # noqa: BLE001 - gRPC's, or of the channel's owner
            raise self._meaning(error) from None
