"""How the asynchronous flavour waits: threads, files, locks, read-ahead."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from types import TracebackType
from typing import BinaryIO, Final, Generic, ParamSpec, Protocol, Self, TypeVar, cast

import aiofiles
import httpx

from openshell_files._local.source_file import open_for_reading
from openshell_files.auth import TokenProvider

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Chunks that are ready before they are needed, in each direction.
READ_AHEAD: Final = 2

Lock = asyncio.Lock
HttpClient = httpx.AsyncClient
monotonic = time.monotonic


class SourceHandle(Protocol):
    """An open local file."""

    async def read(self, size: int, /) -> bytes:
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
    data = await settled(handle.read(size))
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


async def call_token(provider: TokenProvider) -> str:
    """Ask a token provider."""
    if inspect.iscoroutinefunction(provider):
        return await cast("Callable[[], Awaitable[str]]", provider)()
    answer = await in_thread(cast("Callable[[], str | Awaitable[str]]", provider))
    return await answer if inspect.isawaitable(answer) else answer


async def call_sink(sink: Callable[[bytes], object], data: bytes) -> None:
    """Hand content to a caller's function, which may be a coroutine function."""
    answer = sink(data)
    if inspect.isawaitable(answer):
        await answer


async def pieces_of(
    source: BinaryIO | Iterable[bytes] | AsyncIterable[bytes], size: int
) -> AsyncIterator[bytes]:
    """Yield what a stream of any kind gives.

    Args:
        source: a binary file, or an iterable of bytes.
        size: how much to read from a file at once.
    """
    if isinstance(source, AsyncIterable):
        async for piece in source:
            yield piece
        return
    if hasattr(source, "read"):
        file = cast("BinaryIO", source)
        while data := await in_thread(file.read, size):
            yield data
        return
    iterator = iter(source)
    while pieces := await in_thread(_take, iterator, size):
        for piece in pieces:
            yield piece


def _take(iterator: Iterator[bytes], size: int) -> list[bytes]:
    """Return pieces of at least `size` bytes together, so that small ones do not cost a thread each."""
    taken: list[bytes] = []
    held = 0
    for piece in iterator:
        taken.append(piece)
        held += len(piece)
        if held >= size:
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
