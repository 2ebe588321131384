"""File objects of the blocking flavour. Written by hand, as is the asynchronous module."""

from __future__ import annotations

import atexit
import io
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self, cast

from openshell_files_protocol.limits import MIB

from openshell_files._core.download.read_windows import LEAST_WINDOW, ReadWindows
from openshell_files._core.upload.cleanup import BACKGROUND_SECONDS
from openshell_files.results import FileInfo, UploadResult

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

#: Size of a piece for the upload, and most pieces in the queue.
_PIECE_BYTES: Final = MIB
_PIECES: Final = 2

#: `SandboxFiles.upload` with all arguments but the source.
Uploading = Callable[["bytes | Iterable[bytes]"], UploadResult]

#: Fetches a part of the file (offset, length); returns it and the size of the file.
Fetching = Callable[[int, int], tuple[bytes, int]]


class _AbandonedError(Exception):
    """The writer publishes nothing; no caller sees this."""


class _Feed(Iterator[bytes]):
    """Queue of pieces from the writer's thread to the upload's.

    It does not refer to the writer, so that the writer can be collected.

    Attributes:
        thread: runs the upload.
    """

    def __init__(self, uploading: Uploading) -> None:
        self.thread = threading.Thread(
            target=self.run, args=(uploading,), name="openshell-files-write", daemon=True
        )
        self._pieces: SimpleQueue[bytes | None] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        self._abandoned = False
        self.over = False
        self.failure: BaseException | None = None
        self.result: UploadResult | None = None
        for _ in range(_PIECES):
            self._room.put(None)

    def run(self, uploading: Uploading) -> None:
        """Run the upload."""
        try:
            self.result = uploading(self)
        except BaseException as error:  # noqa: BLE001 - raised in the writer's thread
            self.failure = error
        finally:
            self.over = True
            # Wake a writer that waits for room.
            self._room.put(None)

    def put(self, piece: bytes) -> None:
        """Wait for room and add a piece; the caller then checks `over`."""
        self._room.get()
        self._pieces.put(piece)

    def end(self, *, abandon: bool = False) -> None:
        """End the queue; with `abandon` the upload publishes nothing."""
        self._abandoned = abandon
        self._pieces.put(None)

    def __next__(self) -> bytes:
        piece = self._pieces.get()
        if self._abandoned:
            raise _AbandonedError
        if piece is None:
            raise StopIteration
        self._room.put(None)
        return piece


#: Feeds whose thread was started.
_FLOWING: Final[weakref.WeakSet[_Feed]] = weakref.WeakSet()


class RemoteWriter(io.BufferedIOBase):
    """A file in a sandbox that is being written. Made by `SandboxFiles.open`.

    `close` publishes the whole file under its name, and raises if that fails;
    so does the end of a `with` block. An exception in the block, `abort`, and a
    writer that is never closed publish nothing. The end of the interpreter
    aborts an open writer; if the gateway cannot be reached any more, the upload
    expires.

    A file of more than 1 MiB is sent while it is written; if the connection
    breaks then, the bytes cannot be sent again, and the next call fails with
    `SourceNotReplayable`.

    Attributes:
        result: the published file; None before `close`.
    """

    def __init__(self, uploading: Uploading, name: str, mode: Literal["wb", "xb"]) -> None:
        super().__init__()
        self.name = name
        self.mode = mode
        self.result: UploadResult | None = None
        self._uploading = uploading
        self._held = bytearray()
        self._position = 0
        self._feed: _Feed | None = None

    def writable(self) -> bool:
        """Return True."""
        return not self._checked_open()

    def tell(self) -> int:
        """Return the number of written bytes."""
        self._checked_open()
        return self._position

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of the bytes.

        Raises:
            FilesError: the upload has failed already.
            ValueError: the file is closed.
            TypeError: `data` is not bytes.
        """
        self._checked_open()
        if isinstance(data, str):
            raise TypeError("data: give bytes, not str; for text use io.TextIOWrapper(file)")
        view = memoryview(data)
        self._held += view
        self._position += view.nbytes
        while len(self._held) > _PIECE_BYTES:
            piece = bytes(self._held[:_PIECE_BYTES])
            del self._held[:_PIECE_BYTES]
            self._send(piece)
        return view.nbytes

    def flush(self) -> None:
        """Do nothing: only `close` publishes.

        Raises:
            ValueError: the file is closed.
        """
        self._checked_open()

    def close(self) -> None:
        """Publish the file. A second call does nothing.

        Raises:
            FilesError: it was not published; as in `SandboxFiles.upload`.
        """
        if self.closed:
            return
        try:
            if self._feed is None:
                self.result = self._uploading(bytes(self._held))
                return
            if self._held and not self._feed.over:
                self._feed.put(bytes(self._held))
            self._feed.end()
            self._join()
            self.result = self._feed.result
        except BaseException:
            self._abandon()
            raise
        finally:
            self._held.clear()
            super().close()

    def abort(self) -> None:
        """Publish nothing, and free the sent bytes. After `close` it does nothing."""
        if self.closed:
            return
        try:
            self._abandon()
            if self._feed is not None:
                self._feed.thread.join()
        finally:
            self._held.clear()
            super().close()

    def __enter__(self) -> Self:
        self._checked_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        # The base class would call `close`, and half a file would be published.
        if not self.closed:
            self._abandon()
            super().close()
            warnings.warn(
                f"{self.name!r} was not closed, so it was not published",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def _checked_open(self) -> bool:
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        return False

    def _send(self, piece: bytes) -> None:
        if self._feed is None:
            self._feed = _Feed(self._uploading)
            _FLOWING.add(self._feed)
            self._feed.thread.start()
        try:
            self._feed.put(piece)
        except BaseException:
            # Interrupted: the queue may or may not have the piece, so a later piece could leave a gap.
            self._abandon()
            raise
        if self._feed.over:
            self._join()

    def _join(self) -> None:
        """Wait for the upload's end and raise its error."""
        assert self._feed is not None  # noqa: S101 - checked by the callers
        self._feed.thread.join()
        if isinstance(self._feed.failure, _AbandonedError):
            raise ValueError("a write was interrupted, so nothing is published")  # noqa: TRY004 - it is no type
        if self._feed.failure is not None:
            raise self._feed.failure

    def _abandon(self) -> None:
        if self._feed is not None:
            self._feed.end(abandon=True)


def _abandon_all() -> None:
    """Free the sent bytes of writers that are open at the end of the interpreter, within a few seconds (RSM-10)."""
    flowing = [feed for feed in _FLOWING if not feed.over]
    for feed in flowing:
        feed.end(abandon=True)
    for feed in flowing:
        feed.thread.join(BACKGROUND_SECONDS)


atexit.register(_abandon_all)


class _RawReader(io.RawIOBase):
    """Reads one version of a file in verified windows."""

    def __init__(self, fetching: Fetching, size: int, name: str) -> None:
        super().__init__()
        self.name = name
        self.mode = "rb"
        self._fetching = fetching
        self._windows = ReadWindows(size, name)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._windows.position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._windows.seek(offset, whence)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._read(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        windows, parts = self._windows, list[bytes]()
        while data := self._read(max(LEAST_WINDOW, windows.size - windows.position)):
            parts.append(data)
        return b"".join(parts)

    def _read(self, most: int) -> bytes:
        windows = self._windows
        if most and (data := windows.here(most)):
            return data
        if not most or (wanted := windows.wanted(most)) is None:
            return b""
        data, size = self._fetching(*wanted)
        windows.fetched(wanted[0], data, size)
        return windows.here(most)


class RemoteReader(io.BufferedReader):
    """A file in a sandbox that is read, from any position. Made by `SandboxFiles.open`.

    Each part is verified before `read` returns it. All parts are of the version
    at the time of `open`; if the file changes, reading fails with
    `FileChanged`. If the sandbox reports two sizes of one version, reading fails
    with `IntegrityError`.

    Attributes:
        info: description of the file at the time of `open`.
    """

    def __init__(self, fetching: Fetching, info: FileInfo, name: str) -> None:
        super().__init__(_RawReader(fetching, info.size, name), LEAST_WINDOW)
        self.info = info


def reader(
    look: Callable[[], FileInfo], fetch: Callable[[str, int, int], tuple[bytes, int]], name: str
) -> RemoteReader:
    """Return a file object for reading. It calls `look` at once, so that a missing file raises here."""
    info = look()
    return RemoteReader(lambda offset, length: fetch(info.version, offset, length), info, name)


def writer(uploading: Uploading, name: str, mode: str) -> RemoteWriter:
    """Return a file object for writing; nothing is sent yet."""
    return RemoteWriter(uploading, name, cast("Literal['wb', 'xb']", mode))
