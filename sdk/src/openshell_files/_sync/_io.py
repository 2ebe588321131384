"""How the blocking flavour waits: directly, and in one thread for what is received."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Final, Generic, ParamSpec, Protocol, Self, TypeVar, cast

import httpx

from openshell_files._error_mapping import idle_error
from openshell_files._local.byte_streams import Reading, Writing, as_bytes
from openshell_files._local.source_file import open_for_reading
from openshell_files.auth import TokenProvider
from openshell_files.errors import CredentialsError, ErrorFacts, LocalReason

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Messages that are received before they are needed.
READ_AHEAD: Final = 2

Lock = threading.Lock
HttpClient = httpx.Client
monotonic = time.monotonic
sleep = time.sleep

#: Says how many seconds are left (None: no limit), and raises when none are.
Left = Callable[[], float | None]


class SourceHandle(Protocol):
    """An open local file."""

    def read(self, size: int, /) -> bytes | None:
        """Return at most `size` bytes; none at the end."""
        ...

    def seek(self, offset: int, /) -> int:
        """Move to `offset`."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...

    def fileno(self) -> int:
        """Return the descriptor."""
        ...


def is_cancellation(_error: BaseException) -> bool:
    """Never: nobody cancels a thread."""
    return False


def in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run blocking work; here in the caller's own thread."""
    return function(*args, **kwargs)


def open_source(path: str) -> SourceHandle:
    """Open a local file for reading. It is not buffered: whole chunks are read.

    Raises:
        OSError: it cannot be opened.
    """
    return open(path, "rb", buffering=0, opener=open_for_reading)


def read(handle: SourceHandle, size: int) -> bytes:
    """Read exactly `size` bytes, fewer only at the end of the file."""
    data = handle.read(size) or b""
    if len(data) == size or not data:
        return data
    parts = [data]
    missing = size - len(data)
    while missing and (more := handle.read(missing)):
        parts.append(more)
        missing -= len(more)
    return b"".join(parts)


def seek(handle: SourceHandle, offset: int) -> None:
    """Move to `offset`."""
    handle.seek(offset)


def close(handle: SourceHandle) -> None:
    """Close a local file."""
    handle.close()


Guard = threading.Lock

#: Set while a progress callback runs.
REPORTING: Final = ContextVar("openshell-files-reporting", default=False)


class Flag:
    """Something that one waits for and another one sets, once."""

    def __init__(self) -> None:
        # A signal cannot leave it locked, as it can an Event.
        self._set: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Let whoever waits go on."""
        self._set.put(None)

    def wait(self, seconds: float) -> None:
        """Wait until it is set, at most so long."""
        with suppress(Empty):
            self._set.get(timeout=seconds)


class Errands:
    """What goes on without anybody who waits for it, each in a thread of its own.

    Python waits for such threads at its end, so an errand must end by itself.
    """

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def start(self, errand: Callable[[], None]) -> None:
        """Begin an errand."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=errand, name="openshell-files-errand")
        self._threads.append(thread)
        thread.start()

    def done(self, seconds: float) -> None:
        """Wait until all have ended, at most so long."""
        end = monotonic() + seconds
        for thread in list(self._threads):
            thread.join(max(0.0, end - monotonic()))


def call_token(provider: TokenProvider) -> str:
    """Ask a token provider.

    Raises:
        CredentialsError: it is asynchronous.
    """
    token = provider()
    if not isinstance(token, str):
        if isinstance(token, Coroutine):
            # It was never started, and would complain when it is collected.
            token.close()
        raise CredentialsError(
            "the token provider returned no str",
            ErrorFacts(LocalReason.CREDENTIALS, fix="Use AsyncFilesClient, or a plain function."),
        )
    return token


def call_sink(sink: Callable[[bytes], object], data: bytes, left: Left) -> None:
    """Hand content to a caller's function. Nothing interrupts one that blocks.

    Raises:
        DeadlineExceeded: by `left`.
    """
    left()
    _blocking(sink(data), "sink")


def put(writing: Writing, data: bytes, left: Left) -> None:
    """Write bytes into a caller's file object.

    Args:
        writing: the file object.
        data: the bytes.
        left: raises when no time is left. It is looked at between two writes:
            nothing interrupts a caller's object that blocks.

    Raises:
        TypeError: it is asynchronous.
        DeadlineExceeded: by `left`.
    """
    writing.begin(data)
    while not writing.done:
        _blocking(writing.put(patiently=left() is not None), "sink")


def _blocking(answer: object, argument: str) -> object:
    """Return what a caller's object answered, unless that has to be awaited."""
    if hasattr(answer, "__await__"):
        if isinstance(answer, Coroutine):
            # It was never started, and would complain when it is collected.
            answer.close()
        raise TypeError(f"{argument}: it is asynchronous; use AsyncFilesClient")
    return answer


def pieces_of(source: object, size: int, left: Left) -> Iterator[bytes]:
    """Yield what a stream of any kind gives, as bytes of our own.

    Args:
        source: a binary file, or an iterable of bytes.
        size: how much to read from a file at once.
        left: raises when no time is left. It is looked at between two pieces:
            nothing interrupts a caller's object that blocks.

    Raises:
        TypeError: it gives something else.
        DeadlineExceeded: by `left`.
    """
    if hasattr(source, "read"):
        reading = Reading(source, size)
        while True:
            left()
            answer = _blocking(reading.take(), "source")
            if answer is None:
                continue
            if not (piece := as_bytes(answer)):
                return
            yield piece
    else:
        for given in cast("Iterable[bytes]", source):
            left()
            yield as_bytes(given)


class Ahead(Generic[_T]):
    """Runs an iterator a few items ahead of its reader, in a thread of its own.

    Holds at most `READ_AHEAD` items, and one more on its way. Leaving the
    context unblocks the iterator, and waits for the thread.

    Args:
        source: what is iterated.
        unblock: ends a wait of `source`.
        idle: seconds without an item after which the reader gives up.
    """

    def __init__(self, source: Iterator[_T], unblock: Callable[[], object], idle: float) -> None:
        self._source = source
        self._unblock = unblock
        self._idle = idle
        # Signals cannot leave these locked, as they can a Condition.
        self._items: SimpleQueue[tuple[_T] | None] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        self._left = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="openshell-files-receive", daemon=True)
        for _ in range(READ_AHEAD):
            self._room.put(None)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left = True
        self._room.put(None)
        if self._thread.is_alive():
            self._unblock()
        self._thread.join()

    def _run(self) -> None:
        try:
            for item in self._source:
                self._room.get()
                if self._left:
                    return
                self._items.put((item,))
        except BaseException as error:  # noqa: BLE001 - it is raised in the reader's thread
            self._error = error
        finally:
            self._items.put(None)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _T:
        try:
            item = self._items.get(timeout=self._idle)
        except Empty:
            raise idle_error(self._idle, "received") from None
        if item is not None:
            self._room.put(None)
            return item[0]
        if self._error is not None:
            raise self._error
        raise StopIteration


class _Direct(Generic[_T]):
    """The reader runs the iterator itself: gRPC's sending thread is ahead already."""

    def __init__(self, source: Iterator[_T]) -> None:
        self._source = source

    def __enter__(self) -> Iterator[_T]:
        return self._source

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        close = getattr(self._source, "close", None)
        if close is not None:
            close()


def produced_ahead(source: Iterator[_T]) -> _Direct[_T]:
    """Prepare what is sent while the piece before is on its way."""
    return _Direct(source)
