"""How the asynchronous flavour waits: threads, files, locks, read-ahead."""

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
import httpx

from openshell_files._local.byte_streams import Reading, Writing, as_bytes
from openshell_files._local.source_file import open_for_reading
from openshell_files.auth import TokenProvider

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Chunks that are ready before they are needed, in each direction.
READ_AHEAD: Final = 2

Lock = asyncio.Lock
HttpClient = httpx.AsyncClient
monotonic = time.monotonic

#: Pieces of an iterable that are taken together at most.
_MOST_PIECES: Final = 1024

#: Says how many seconds are left (None: no limit), and raises when none are.
Left = Callable[[], float | None]


class SourceHandle(Protocol):
    """An open local file."""

    async def read(self, size: int, /) -> bytes | None:
        """Return at most `size` bytes; none at the end."""
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
    """Return whether somebody cancelled the task that raises it."""
    return isinstance(error, asyncio.CancelledError)


async def settled(work: Awaitable[_T]) -> _T:
    """Wait for work in a thread, and for its end when cancelled.

    A thread cannot be interrupted. Leaving it behind would let it use a file
    that was closed, or a hash that the next attempt goes on with.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _until_done(task)
        if not task.cancelled():
            # Marks it as seen: the cancellation is what the caller hears of.
            task.exception()
        raise


async def _until_done(task: asyncio.Future[_T]) -> bool:
    """Wait for a task's end whatever happens; return whether somebody cancelled the wait."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    return cancelled


async def in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run blocking work off the event loop; see `settled`."""
    return await settled(asyncio.to_thread(function, *args, **kwargs))


async def open_source(path: str) -> SourceHandle:
    """Open a local file for reading. It is not buffered: whole chunks are read.

    Raises:
        OSError: it cannot be opened.
    """
    opening = asyncio.ensure_future(_open(path))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        await _until_done(opening)
        if opening.exception() is None:
            await opening.result().close()
        raise


async def _open(path: str) -> SourceHandle:
    handle = await aiofiles.open(path, "rb", buffering=0, opener=open_for_reading)
    return cast("SourceHandle", handle)


async def read(handle: SourceHandle, size: int) -> bytes:
    """Read exactly `size` bytes, fewer only at the end of the file."""
    data = await settled(handle.read(size)) or b""
    if len(data) == size or not data:
        return data
    parts = [data]
    missing = size - len(data)
    while missing and (more := await settled(handle.read(missing))):
        parts.append(more)
        missing -= len(more)
    return b"".join(parts)


async def seek(handle: SourceHandle, offset: int) -> None:
    """Move to `offset`."""
    await settled(handle.seek(offset))


async def close(handle: SourceHandle) -> None:
    """Close a local file."""
    await settled(handle.close())


#: Nothing else runs between two waits of an event loop.
Guard = nullcontext

#: Set while a progress callback runs.
REPORTING: Final = ContextVar("openshell-files-reporting", default=False)


class Flag:
    """Something that one waits for and another one sets, once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Let whoever waits go on."""
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Wait until it is set, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()


class Errands:
    """What goes on without anybody who waits for it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, errand: Callable[[], Awaitable[None]]) -> None:
        """Begin an errand; it must end by itself, and may be begun twice."""

        async def run() -> None:
            try:
                await errand()
            except asyncio.CancelledError:
                # Only the end of the event loop cancels one, and waits for what it cancels.
                if (task := asyncio.current_task()) is not None:
                    task.uncancel()
                await errand()

        task = asyncio.get_running_loop().create_task(run(), name="openshell-files-errand")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def done(self, seconds: float) -> None:
        """Wait until all have ended, at most so long."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)


async def call_token(provider: TokenProvider) -> str:
    """Ask a token provider."""
    if inspect.iscoroutinefunction(provider):
        return await cast("Callable[[], Awaitable[str]]", provider)()
    answer = await in_thread(cast("Callable[[], str | Awaitable[str]]", provider))
    return await answer if inspect.isawaitable(answer) else answer


async def call_sink(sink: Callable[[bytes], object], data: bytes, left: Left) -> None:
    """Hand content to a caller's function, which may be a coroutine function.

    Raises:
        DeadlineExceeded: by `left`.
    """
    left()
    answer = sink(data)
    if inspect.isawaitable(answer):
        await _in_time(left, answer)


async def put(writing: Writing, data: bytes, left: Left) -> None:
    """Write bytes into a caller's file object, which may be an asynchronous one.

    Raises:
        DeadlineExceeded: by `left`.
    """
    writing.begin(data)
    while not writing.done:
        limited = left() is not None
        if writing.asynchronous:
            # A stream of the event loop belongs to its thread.
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
    """Yield what a stream of any kind gives, as bytes of our own.

    Args:
        source: a binary file, or an iterable of bytes.
        size: how much to read from a file at once.
        left: says how many seconds are left, and raises when none are.

    Raises:
        TypeError: it gives something else.
        DeadlineExceeded: by `left`.
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
        # It was never started, and would complain when it is collected.
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
    """Run a caller's own code that may wait for ever, such as a generator, in a thread.

    When cancelled the thread is left behind: it uses nothing but the caller's object.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def work() -> None:
        try:
            settle = partial(future.set_result, function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            settle = partial(future.set_exception, error)

        def deliver() -> None:
            if not future.done():
                settle()

        # The loop may be closed by now; then nobody waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(deliver)

    threading.Thread(target=work, name="openshell-files-source", daemon=True).start()
    return await future


def _take(iterator: Iterator[bytes], size: int) -> list[bytes]:
    """Return pieces of at least `size` bytes together, so that small ones do not cost a thread each."""
    taken: list[bytes] = []
    held = 0
    for given in iterator:
        # A copy, before the iterator can fill the same buffer anew.
        taken.append(as_bytes(given))
        held += len(taken[-1])
        if held >= size or len(taken) >= _MOST_PIECES:
            break
    return taken


class Ahead(Generic[_T]):
    """Runs an iterator a few items ahead of its reader, in a task of its own.

    Holds at most `READ_AHEAD` items, and one more on its way. Leaving the
    context cancels the task and waits for it.
    """

    def __init__(self, source: AsyncIterator[_T], unblock: Callable[[], object] | None = None) -> None:
        self._source = source
        self._unblock = unblock
        self._queue: asyncio.Queue[_T] = asyncio.Queue(READ_AHEAD)
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(lambda _: self._changed.set())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task = self._task
        if task is None:
            return
        if not task.done():
            if self._unblock is not None:
                self._unblock()
            task.cancel()
        cancelled = await _until_done(task)
        if not task.cancelled():
            # The reader has either raised it, or left because of an error of its own.
            task.exception()
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()
        if cancelled:
            raise asyncio.CancelledError

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
    """Prepare what is sent while the piece before is on its way."""
    return Ahead(source)
