"""File objects of the asynchronous flavour. Written by hand, as is the blocking module."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from io import SEEK_SET
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from openshell_files_process.tasks import TaskScope, end_tasks, first_of
from openshell_files_protocol.limits import MIB

from openshell_files._core.download.read_windows import LEAST_WINDOW, ReadWindows
from openshell_files.results import FileInfo, UploadResult

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_PIECE_BYTES: Final = MIB
_PIECES: Final = 2

#: `AsyncSandboxFiles.upload` with all arguments but the source.
Uploading = Callable[["bytes | AsyncIterator[bytes]"], Coroutine[Any, Any, UploadResult]]

#: Fetches a part of one version of the file (version, offset, length); returns it and the size of the file.
Fetching = Callable[[str, int, int], Awaitable[tuple[bytes, int]]]


class AsyncRemoteWriter:
    """A file in a sandbox that is being written. Made by `AsyncSandboxFiles.open`.

    `await close()` publishes the whole file under its name, and raises if that
    fails; so does the end of an `async with` block. An exception in the block,
    a cancellation, `abort`, and a writer that is never closed publish nothing.
    If the event loop ends before the writer is closed, closing the client frees
    the sent bytes; without that they expire.

    A file of more than 1 MiB is sent while it is written; if the connection
    breaks then, the bytes cannot be sent again, and the next call fails with
    `SourceNotReplayable`.

    Attributes:
        result: the published file; None before `close`.
    """

    def __init__(self, uploading: Uploading, name: str, mode: str) -> None:
        self.name = name
        self.mode = mode
        self.result: UploadResult | None = None
        self.closed = False
        self._uploading = uploading
        self._held = bytearray()
        self._position = 0
        self._broken = False
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_PIECES)
        self._tasks = TaskScope()
        self._task: asyncio.Task[UploadResult] | None = None

    def tell(self) -> int:
        """Return the number of written bytes."""
        self._check_open()
        return self._position

    async def write(self, data: ReadableBuffer, /) -> int:
        """Write all of the bytes.

        Raises:
            FilesError: the upload has failed already.
            ValueError: the file is closed.
            TypeError: `data` is not bytes.
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
            FilesError: it was not published; as in `AsyncSandboxFiles.upload`.
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
        """Publish nothing, and free the sent bytes. After `close` it does nothing."""
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
                # The loop may be closed; a garbage collection may run in another thread.
                with suppress(RuntimeError):
                    self._task.get_loop().call_soon_threadsafe(self._task.cancel)
            warnings.warn(
                f"{self.name!r} was not closed, so it was not published",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")

    async def _send(self, piece: bytes | None) -> None:
        """Pass a piece, or the end, to the upload; raise its error if it failed."""
        if self._task is None:
            self._task = self._tasks.start(self._uploading(_pieces(self._pieces)), "openshell-files-writer")
        if self._broken:
            raise ValueError("a write was interrupted, so nothing is published")
        try:
            await first_of(self._pieces.put(piece), asyncio.wait({self._task}))
        except BaseException:
            # The upload may or may not have the piece: a piece after it could leave a gap.
            self._broken = True
            raise
        if self._task.done():
            self._task.result()

    async def _end(self) -> None:
        """Cancel the upload unless it is over, and wait for its end."""
        if self._task is not None:
            await end_tasks(self._task)


async def _pieces(queue: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
    """Yield pieces to the upload. It does not refer to the writer, so that the writer can be collected."""
    while (piece := await queue.get()) is not None:
        yield piece


class AsyncRemoteReader:
    """A file in a sandbox that is read, from any position. Made by `AsyncSandboxFiles.open`.

    Each part is verified before `read` returns it. All parts are of the version
    at the first use, or at the beginning of the `async with` block; if the
    file changes, reading fails with `FileChanged`. If the sandbox reports two
    sizes of one version, reading fails with `IntegrityError`.

    Attributes:
        info: description of the file at the first use; None before.
    """

    def __init__(self, look: Callable[[], Awaitable[FileInfo]], fetching: Fetching, name: str) -> None:
        self.name = name
        self.mode = "rb"
        self.closed = False
        self.info: FileInfo | None = None
        self._look = look
        self._fetching = fetching
        self._windows: ReadWindows | None = None

    async def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, fewer only at the end of the file; the rest of the file if `size` is negative.

        Raises:
            FileNotFound: the file does not exist.
            FileChanged: the file is another version than at the first use.
            IntegrityError: the content was damaged, or its size is not the reported one.
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
        """Move, as a file's `seek`; past the end `read` returns no bytes.

        Raises:
            ValueError: the position is before the beginning, or the file is closed.
        """
        return (await self._opened()).seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return 0 if self._windows is None else self._windows.position

    async def close(self) -> None:
        """Release the buffer."""
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
    """Return a file object for reading; `look` is called at the first read."""
    return AsyncRemoteReader(look, fetch, name)


def writer(uploading: Uploading, name: str, mode: str) -> AsyncRemoteWriter:
    """Return a file object for writing; nothing is sent yet."""
    return AsyncRemoteWriter(uploading, name, mode)
