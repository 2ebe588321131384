"""Seam of the asynchronous flavour: threads, local files, locks, background work, read-ahead."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from contextvars import ContextVar
from functools import partial
from types import TracebackType
from typing import Final, Generic, ParamSpec, Protocol, Self, TypeVar, cast

import aiofiles
from openshell_files_process.tasks import TaskScope, to_the_end

from openshell_files._local.byte_streams import Reading, Writing, as_bytes
from openshell_files._local.source_file import open_for_reading
from openshell_files.auth import TokenProvider

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Chunks read or received ahead of their use.
READ_AHEAD: Final = 2

Lock = asyncio.Lock
monotonic = time.monotonic

#: Most pieces of an iterable that one thread takes.
_MOST_PIECES: Final = 1024

#: Returns the seconds left (None for no limit); raises if none are.
Left = Callable[[], float | None]


class SourceHandle(Protocol):
    """An open local file."""

    async def read(self, size: int, /) -> bytes | None:
        """Return at most `size` bytes, none at the end."""
        ...

    async def seek(self, offset: int, /) -> int:
        """Move to `offset`."""
        ...

    async def close(self) -> None:
        """Close the file."""
        ...

    def fileno(self) -> int:
        """Return the descriptor."""
        ...


async def sleep(seconds: float) -> None:
    """Wait."""
    await asyncio.sleep(seconds)


def is_cancellation(error: BaseException) -> bool:
    """Return whether an error is the cancellation of a task."""
    return isinstance(error, asyncio.CancelledError)


async def in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run blocking work off the event loop; a cancelled caller waits for its end.

    A thread cannot be interrupted. Left alone, it would use a file after its
    close, or a hash together with the next attempt.
    """
    return await to_the_end(asyncio.to_thread(function, *args, **kwargs))


async def open_source(path: str) -> SourceHandle:
    """Open a local file for reading, without a buffer: the SDK reads whole chunks.

    Raises:
        OSError: it cannot be opened.
    """
    opened: list[SourceHandle] = []

    async def opening() -> None:
        handle = await aiofiles.open(path, "rb", buffering=0, opener=open_for_reading)
        opened.append(cast("SourceHandle", handle))

    try:
        await to_the_end(opening())
    except asyncio.CancelledError:
        for handle in opened:
            await handle.close()
        raise
    return opened[0]


async def read(handle: SourceHandle, size: int) -> bytes:
    """Read exactly `size` bytes, fewer only at the end of the file."""
    data = await to_the_end(handle.read(size)) or b""
    if len(data) == size or not data:
        return data
    parts = [data]
    missing = size - len(data)
    while missing and (more := await to_the_end(handle.read(missing))):
        parts.append(more)
        missing -= len(more)
    return b"".join(parts)


async def seek(handle: SourceHandle, offset: int) -> None:
    """Move to `offset`."""
    await to_the_end(handle.seek(offset))


async def close(handle: SourceHandle) -> None:
    """Close a local file."""
    await to_the_end(handle.close())


#: No lock: between two `await`s no other task of the event loop runs.
Guard = nullcontext

#: Set while a progress callback runs.
REPORTING: Final = ContextVar("openshell-files-reporting", default=False)


class Flag:
    """Event that is set once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the waiting task."""
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Wait until it is set, at most `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()


class BackgroundWork:
    """Tasks whose result no caller awaits; `done` waits for their end."""

    def __init__(self) -> None:
        self._tasks = TaskScope()

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Start work that ends by itself, and that may be started twice."""

        async def run() -> None:
            try:
                await work()
            except asyncio.CancelledError:
                # Only the end of the event loop cancels this task, and awaits it.
                if (task := asyncio.current_task()) is not None:
                    task.uncancel()
                await work()

        self._tasks.start(run(), "openshell-files-background")

    async def done(self, seconds: float) -> None:
        """Wait for the end of all work, at most `seconds`."""
        await self._tasks.wait(seconds)


async def call_token(provider: TokenProvider) -> str:
    """Call a token provider."""
    if inspect.iscoroutinefunction(provider):
        return await cast("Callable[[], Awaitable[str]]", provider)()
    answer = await in_thread(cast("Callable[[], str | Awaitable[str]]", provider))
    return await answer if inspect.isawaitable(answer) else answer


async def call_sink(sink: Callable[[bytes], object], data: bytes, left: Left) -> None:
    """Pass content to a caller's function, which may be a coroutine function.

    Raises:
        DeadlineExceeded: `left` raised it.
    """
    left()
    answer = sink(data)
    if inspect.isawaitable(answer):
        await _in_time(left, answer)


async def put(writing: Writing, data: bytes, left: Left) -> None:
    """Write bytes into a caller's file object, which may be asynchronous.

    Raises:
        DeadlineExceeded: `left` raised it.
    """
    writing.begin(data)
    while not writing.done:
        limited = left() is not None
        if writing.asynchronous:
            # A stream of the event loop is not thread-safe.
            answer = writing.put()
        elif limited:
            answer = await _in_time(left, pulled(partial(writing.put, patiently=True)))
        else:
            answer = await in_thread(writing.put)
        if inspect.isawaitable(answer):
            writing.took(await _in_time(left, answer))
        if writing.drain is not None:
            await _in_time(left, cast("Callable[[], Awaitable[object]]", writing.drain)())


async def pieces_of(source: object, size: int, left: Left) -> AsyncIterator[bytes]:
    """Yield the bytes of a caller's stream, as copies.

    Args:
        source: a binary file, or an iterable of bytes.
        size: size of one read from a file.
        left: returns the seconds left; raises if none are.

    Raises:
        TypeError: it yields something else than bytes.
        DeadlineExceeded: `left` raised it.
    """
    if hasattr(source, "read"):
        reading = Reading(source, size)
        while True:
            answer = await _in_time(left, pulled(reading.take))
            if inspect.isawaitable(answer):
                answer = await _in_time(left, answer)
            if answer is None:
                continue
            if not (piece := as_bytes(answer)):
                return
            yield piece
    elif isinstance(source, AsyncIterable):
        iterator = aiter(cast("AsyncIterable[bytes]", source))
        while (given := await _in_time(left, anext(iterator, _END))) is not _END:
            yield as_bytes(given)
    else:
        pieces = iter(cast("Iterable[bytes]", source))
        while taken := await _in_time(left, pulled(_take, pieces, size)):
            for piece in taken:
                yield piece


_END: Final = object()


async def _in_time(left: Left, work: Awaitable[_T]) -> _T:
    try:
        limit = asyncio.timeout(left())
    except BaseException:
        # A coroutine that never starts would warn when it is collected.
        close = getattr(work, "close", None) or getattr(work, "cancel", None)
        if close is not None:
            close()
        raise
    try:
        async with limit:
            return await work
    except TimeoutError:
        if limit.expired():
            left()
        raise


async def pulled(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run a caller's code that may block without limit, such as a generator, in a thread.

    A cancellation leaves the thread behind: it uses the caller's object only.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def work() -> None:
        try:
            settle = partial(future.set_result, function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
            settle = partial(future.set_exception, error)

        def deliver() -> None:
            if not future.done():
                settle()

        # A closed loop has no task that waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(deliver)

    threading.Thread(target=work, name="openshell-files-source", daemon=True).start()
    return await future


def _take(iterator: Iterator[bytes], size: int) -> list[bytes]:
    """Return pieces of at least `size` bytes together, so that small pieces share a thread."""
    taken: list[bytes] = []
    held = 0
    for given in iterator:
        # A copy, before the iterator can reuse its buffer.
        taken.append(as_bytes(given))
        held += len(taken[-1])
        if held >= size or len(taken) >= _MOST_PIECES:
            break
    return taken


class Ahead(Generic[_T]):
    """Read-ahead: runs an iterator in a task, a few items ahead of its reader.

    Holds at most `READ_AHEAD` items, and the one that waits for room. Leaving
    the context cancels the task and waits for its end.

    Args:
        source: the iterator.
        unblock: ends a wait inside `source`.
    """

    def __init__(self, source: AsyncIterator[_T], unblock: Callable[[], object] | None = None) -> None:
        self._source = source
        self._unblock = unblock
        self._queue: asyncio.Queue[_T] = asyncio.Queue(READ_AHEAD)
        self._changed = asyncio.Event()
        self._tasks = TaskScope()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = self._tasks.start(self._run(), "openshell-files-read-ahead")
        self._task.add_done_callback(lambda _: self._changed.set())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._unblock is not None and len(self._tasks):
            self._unblock()
        try:
            await self._tasks.end()
        finally:
            if self._task is not None and self._task.done() and not self._task.cancelled():
                # The reader left for another reason: this error would be reported as unnoticed.
                self._task.exception()
            close = getattr(self._source, "aclose", None)
            if close is not None:
                await close()

    async def _run(self) -> None:
        async for item in self._source:
            await self._queue.put(item)
            self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T:
        if self._task is None:
            raise RuntimeError("enter the context first")
        while self._queue.empty():
            if self._task.done():
                self._task.result()
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._queue.get_nowait()


def produced_ahead(source: AsyncIterator[_T]) -> Ahead[_T]:
    """Read the source while the previous piece is sent."""
    return Ahead(source)
