"""Files of a sandbox as file objects of Python, blocking. By hand, like its asynchronous twin."""

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

#: What is handed to the upload at once, and how many of them may wait.
_PIECE_BYTES: Final = MIB
_PIECES: Final = 2

#: Uploads what it is given; `SandboxFiles.upload` with all else filled in.
Uploading = Callable[["bytes | Iterable[bytes]"], UploadResult]

#: Fetches a part of the file (offset, length), and says how large the file is.
Fetching = Callable[[int, int], tuple[bytes, int]]


class _AbandonedError(Exception):
    """The writer was given up; nobody sees this."""


class _Feed(Iterator[bytes]):
    """Carries pieces from the writer's thread to the upload's. Knows no writer, so that one may be forgotten."""

    def __init__(self, uploading: Uploading) -> None:
        #: In which it is uploaded.
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
        """Upload everything that comes, in a thread of its own."""
        try:
            self.result = uploading(self)
        except BaseException as error:  # noqa: BLE001 - it is raised in the writer's thread
            self.failure = error
        finally:
            self.over = True
            # A writer that waits for room hears of it.
            self._room.put(None)

    def put(self, piece: bytes) -> None:
        """Wait for room and add a piece; whether the upload runs still is for the caller to see."""
        self._room.get()
        self._pieces.put(piece)

    def end(self, *, abandon: bool = False) -> None:
        """Say that nothing follows, or that nothing of it is wanted."""
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


#: Those that were begun.
_FLOWING: Final[weakref.WeakSet[_Feed]] = weakref.WeakSet()


class RemoteWriter(io.BufferedIOBase):
    """A file in a sandbox that is being written. Made by `SandboxFiles.open`.

    `close` publishes it, whole, under its name, and raises if that fails; so
    does the end of a `with` block. An exception in the block, `abort`, and a
    writer that is forgotten publish nothing. What is written can be read under
    its name only after `close`. One that is open when the interpreter ends is
    given up; if the gateway cannot be told any more, the upload expires.

    More than 1 MiB is sent while it is written; if the connection breaks then,
    the bytes cannot be had again, and the next call fails with
    `SourceNotReplayable`.
    """

    def __init__(self, uploading: Uploading, name: str, mode: Literal["wb", "xb"]) -> None:
        super().__init__()
        self.name = name
        self.mode = mode
        #: What was published; None before `close`.
        self.result: UploadResult | None = None
        self._uploading = uploading
        self._held = bytearray()
        self._position = 0
        self._feed: _Feed | None = None

    def writable(self) -> bool:
        """Return True."""
        return not self._checked_open()

    def tell(self) -> int:
        """Return how many bytes were written."""
        self._checked_open()
        return self._position

    def write(self, data: ReadableBuffer, /) -> int:
        """Take bytes; all of them, always.

        Raises:
            FilesError: the upload has failed already.
            ValueError: the file is closed.
            TypeError: it is not bytes.
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
        """Do nothing: only `close` makes anything visible.

        Raises:
            ValueError: the file is closed.
        """
        self._checked_open()

    def close(self) -> None:
        """Publish the file. A second call does nothing.

        Raises:
            FilesError: it was not published, as `SandboxFiles.upload`.
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
            self._give_up()
            raise
        finally:
            self._held.clear()
            super().close()

    def abort(self) -> None:
        """Publish nothing, and free what was sent. After `close` it does nothing."""
        if self.closed:
            return
        try:
            self._give_up()
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
            self._give_up()
            super().close()
            warnings.warn(
                f"{self.name!r} was not closed, so it is not published",
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
            # Interrupted: nobody knows whether the piece is on its way, and what followed would have a gap.
            self._give_up()
            raise
        if self._feed.over:
            self._join()

    def _join(self) -> None:
        """Wait for the upload's end and raise what it raised."""
        assert self._feed is not None  # noqa: S101 - checked by the callers
        self._feed.thread.join()
        if isinstance(self._feed.failure, _AbandonedError):
            raise ValueError("a write was interrupted, so nothing is published")  # noqa: TRY004 - it is no type
        if self._feed.failure is not None:
            raise self._feed.failure

    def _give_up(self) -> None:
        if self._feed is not None:
            self._feed.end(abandon=True)


def _give_all_up() -> None:
    """Free what writers have sent that are open when the interpreter ends, as far as a moment allows (RSM-10)."""
    flowing = [feed for feed in _FLOWING if not feed.over]
    for feed in flowing:
        feed.end(abandon=True)
    for feed in flowing:
        feed.thread.join(BACKGROUND_SECONDS)


atexit.register(_give_all_up)


class _RawReader(io.RawIOBase):
    """Reads a file of one version, in windows that are verified before they are handed out."""

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

    Each part is verified before it is handed out. All of them are of the
    version that was there when it was opened; if the file changes, reading
    fails with `FileChanged`. If the sandbox tells two sizes of one version,
    with `IntegrityError`.
    """

    def __init__(self, fetching: Fetching, info: FileInfo, name: str) -> None:
        super().__init__(_RawReader(fetching, info.size, name), LEAST_WINDOW)
        #: The file when it was opened.
        self.info = info


def reader(
    look: Callable[[], FileInfo], fetch: Callable[[str, int, int], tuple[bytes, int]], name: str
) -> RemoteReader:
    """Open a file for reading: it is looked at now, so a file that is missing is missed at once."""
    info = look()
    return RemoteReader(lambda offset, length: fetch(info.version, offset, length), info, name)


def writer(uploading: Uploading, name: str, mode: str) -> RemoteWriter:
    """Open a file for writing; nothing is sent yet."""
    return RemoteWriter(uploading, name, cast("Literal['wb', 'xb']", mode))
