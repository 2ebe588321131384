"""Files of a sandbox as file objects, asynchronous. By hand, like its blocking twin."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from io import SEEK_SET
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from openshell_files_protocol.limits import MIB

from openshell_files._core.download.read_windows import LEAST_WINDOW, ReadWindows
from openshell_files.results import FileInfo, UploadResult

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_PIECE_BYTES: Final = MIB
_PIECES: Final = 2

#: Uploads what it is given; `AsyncSandboxFiles.upload` with all else filled in.
Uploading = Callable[["bytes | AsyncIterator[bytes]"], Awaitable[UploadResult]]

#: Fetches a part of one version of the file (version, offset, length), and says how large the file is.
Fetching = Callable[[str, int, int], Awaitable[tuple[bytes, int]]]


class AsyncRemoteWriter:
    """A file in a sandbox that is being written. Made by `AsyncSandboxFiles.open`.

    `await close()` publishes it, whole, under its name, and raises if that
    fails; so does the end of an `async with` block. An exception in the block,
    a cancellation, `abort`, and a writer that is forgotten publish nothing.
    What one has sent that is open when the event loop ends is freed by the end
    of the client, or expires if that is forgotten, too.

    More than 1 MiB is sent while it is written; if the connection breaks then,
    the bytes cannot be had again, and the next call fails with
    `SourceNotReplayable`.
    """

    def __init__(self, uploading: Uploading, name: str, mode: str) -> None:
        self.name = name
        self.mode = mode
        #: What was published; None before `close`.
        self.result: UploadResult | None = None
        self.closed = False
        self._uploading = uploading
        self._held = bytearray()
        self._position = 0
        self._broken = False
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_PIECES)
        self._task: asyncio.Future[UploadResult] | None = None

    def tell(self) -> int:
        """Return how many bytes were written."""
        self._check_open()
        return self._position

    async def write(self, data: ReadableBuffer, /) -> int:
        """Take bytes; all of them, always.

        Raises:
            FilesError: the upload has failed already.
            ValueError: the file is closed.
            TypeError: it is not bytes.
        """
        self._check_open()
        if isinstance(data, str):
            raise TypeError("data: give bytes, not str")
        view = memoryview(data)
        self._held += view
        self._position += view.nbytes
        while len(self._held) > _PIECE_BYTES:
            piece = bytes(self._held[:_PIECE_BYTES])
            del self._held[:_PIECE_BYTES]
            await self._send(piece)
        return view.nbytes

    async def close(self) -> None:
        """Publish the file. A second call does nothing.

        Raises:
            FilesError: it was not published, as `AsyncSandboxFiles.upload`.
        """
        if self.closed:
            return
        self.closed = True
        try:
            if self._task is None:
                self.result = await self._uploading(bytes(self._held))
                return
            if self._held:
                await self._send(bytes(self._held))
            await self._send(None)
            self.result = await self._task
        finally:
            self._held.clear()
            await self._end()

    async def abort(self) -> None:
        """Publish nothing, and free what was sent. After `close` it does nothing."""
        self.closed = True
        self._held.clear()
        await self._end()

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:
            await self.abort()

    def __del__(self) -> None:
        if not self.closed:
            if self._task is not None:
                # The loop may be gone, and is another thread's where a collection happens in one.
                with suppress(RuntimeError):
                    self._task.get_loop().call_soon_threadsafe(self._task.cancel)
            warnings.warn(
                f"{self.name!r} was not closed, so it is not published",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")

    async def _send(self, piece: bytes | None) -> None:
        """Give the upload a piece, or the end; raise what it raised if it is over."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._uploading(_pieces(self._pieces)))
        if self._broken:
            raise ValueError("a write was interrupted, so nothing is published")
        putting = asyncio.ensure_future(self._pieces.put(piece))
        both: list[asyncio.Future[Any]] = [putting, self._task]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            # Nobody knows whether the piece is on its way: what followed would have a gap.
            self._broken = True
            raise
        finally:
            putting.cancel()
        if self._task.done():
            self._task.result()

    async def _end(self) -> None:
        """End the upload unless it is over, and wait for that."""
        task = self._task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task})
        if task is not None and not task.cancelled():
            # Marks it as seen.
            task.exception()


async def _pieces(queue: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
    """Give the upload what comes. Knows no writer, so that one may be forgotten."""
    while (piece := await queue.get()) is not None:
        yield piece


class AsyncRemoteReader:
    """A file in a sandbox that is read, from any position. Made by `AsyncSandboxFiles.open`.

    Each part is verified before it is handed out. All of them are of the
    version that was there at the first use, or when the `async with` block
    began; if the file changes, reading fails with `FileChanged`. If the
    sandbox tells two sizes of one version, with `IntegrityError`.
    """

    def __init__(self, look: Callable[[], Awaitable[FileInfo]], fetching: Fetching, name: str) -> None:
        self.name = name
        self.mode = "rb"
        self.closed = False
        #: The file when it was opened; None before the first use.
        self.info: FileInfo | None = None
        self._look = look
        self._fetching = fetching
        self._windows: ReadWindows | None = None

    async def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, fewer only at the end of the file; all that is left if it is negative.

        Raises:
            FileNotFound: there is no such file.
            FileChanged: it is not the one any more that was opened.
            IntegrityError: what came was damaged, or its size is not the one that was told.
            FilesError: anything else, by the error table.
            ValueError: the file is closed.
        """
        windows = await self._opened()
        parts = list[bytes]()
        left = max(LEAST_WINDOW, windows.size - windows.position) if size < 0 else size
        while left and (data := await self._part(windows, left)):
            parts.append(data)
            left -= len(data)
        return b"".join(parts)

    async def seek(self, offset: int, whence: int = SEEK_SET, /) -> int:
        """Move, as a file's `seek`; behind the end is allowed, and reads nothing.

        Raises:
            ValueError: it would be before the beginning, or the file is closed.
        """
        return (await self._opened()).seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return 0 if self._windows is None else self._windows.position

    async def close(self) -> None:
        """Forget what was read."""
        self.closed = True
        self._windows = None

    async def __aenter__(self) -> Self:
        await self._opened()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the rest of the file in parts."""
        return self._parts()

    async def _parts(self) -> AsyncIterator[bytes]:
        while data := await self._part(await self._opened(), LEAST_WINDOW):
            yield data

    async def _opened(self) -> ReadWindows:
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        if self._windows is None:
            self.info = await self._look()
            self._windows = ReadWindows(self.info.size, self.name)
        return self._windows

    async def _part(self, windows: ReadWindows, most: int) -> bytes:
        if data := windows.here(most):
            return data
        if not most or (wanted := windows.wanted(most)) is None:
            return b""
        version = "" if self.info is None else self.info.version
        data, size = await self._fetching(version, *wanted)
        windows.fetched(wanted[0], data, size)
        return windows.here(most)


def reader(look: Callable[[], Awaitable[FileInfo]], fetch: Fetching, name: str) -> AsyncRemoteReader:
    """Open a file for reading; it is looked at when the first byte is wanted."""
    return AsyncRemoteReader(look, fetch, name)


def writer(uploading: Uploading, name: str, mode: str) -> AsyncRemoteWriter:
    """Open a file for writing; nothing is sent yet."""
    return AsyncRemoteWriter(uploading, name, mode)
