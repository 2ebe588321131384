"""Seam of the blocking flavour: it waits in the caller's thread, and receives in a second one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Final, Generic, ParamSpec, Protocol, Self, TypeVar, cast

from openshell_files._known_errors import idle_error
from openshell_files._local.byte_streams import Reading, Writing, as_bytes
from openshell_files._local.source_file import open_for_reading
from openshell_files.auth import TokenProvider
from openshell_files.errors import CredentialsError, ErrorFacts, LocalReason

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Messages received ahead of their use.
READ_AHEAD: Final = 2

Lock = threading.Lock
monotonic = time.monotonic
sleep = time.sleep

#: Returns the seconds left (None for no limit); raises if none are.
Left = Callable[[], float | None]


class SourceHandle(Protocol):
    """An open local file."""

    def read(self, size: int, /) -> bytes | None:
        """Return at most `size` bytes, none at the end."""
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
    """Return False: threads are not cancelled."""
    return False


def in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run blocking work in the caller's thread."""
    return function(*args, **kwargs)


def open_source(path: str) -> SourceHandle:
    """Open a local file for reading, without a buffer: the SDK reads whole chunks.

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
    """Event that is set once."""

    def __init__(self) -> None:
        # Not an Event: a signal can leave its lock locked.
        self._set: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Wake the waiting thread."""
        self._set.put(None)

    def wait(self, seconds: float) -> None:
        """Wait until it is set, at most `seconds`."""
        with suppress(Empty):
            self._set.get(timeout=seconds)


class BackgroundWork:
    """Threads whose result no caller awaits; `done` waits for their end.

    Python waits for such threads at its end, so the work must end by itself.
    """

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def start(self, work: Callable[[], None]) -> None:
        """Start work that ends by itself."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=work, name="openshell-files-background")
        # First, since a thread that the system refuses cannot be joined.
        thread.start()
        self._threads.append(thread)

    def done(self, seconds: float) -> None:
        """Wait for the end of all work, at most `seconds`."""
        end = monotonic() + seconds
        for thread in list(self._threads):
            thread.join(max(0.0, end - monotonic()))


def call_token(provider: TokenProvider) -> str:
    """Call a token provider.

    Raises:
        CredentialsError: it is asynchronous.
    """
    token = provider()
    if not isinstance(token, str):
        if isinstance(token, Coroutine):
            # A coroutine that never starts would warn when it is collected.
            token.close()
        raise CredentialsError(
            "the token provider returned no str",
            ErrorFacts(LocalReason.CREDENTIALS, fix="Use AsyncFilesClient, or a plain function."),
        )
    return token


def call_sink(sink: Callable[[bytes], object], data: bytes, left: Left) -> None:
    """Pass content to a caller's function. A function that blocks cannot be interrupted.

    Raises:
        DeadlineExceeded: `left` raised it.
    """
    left()
    _blocking(sink(data), "sink")


def put(writing: Writing, data: bytes, left: Left) -> None:
    """Write bytes into a caller's file object.

    Args:
        writing: the file object.
        data: the bytes.
        left: raises if no time is left. It is called between two writes; an
            object that blocks cannot be interrupted.

    Raises:
        TypeError: the file object is asynchronous.
        DeadlineExceeded: `left` raised it.
    """
    writing.begin(data)
    while not writing.done:
        _blocking(writing.put(patiently=left() is not None), "sink")


def _blocking(answer: object, argument: str) -> object:
    """Return the answer of a caller's object; refuse one that has to be awaited."""
    if hasattr(answer, "__await__"):
        if isinstance(answer, Coroutine):
            # A coroutine that never starts would warn when it is collected.
            answer.close()
        raise TypeError(f"{argument}: it is asynchronous; use AsyncFilesClient")
    return answer


def pieces_of(source: object, size: int, left: Left) -> Iterator[bytes]:
    """Yield the bytes of a caller's stream, as copies.

    Args:
        source: a binary file, or an iterable of bytes.
        size: size of one read from a file.
        left: raises if no time is left. It is called between two pieces; an
            object that blocks cannot be interrupted.

    Raises:
        TypeError: it yields something else than bytes.
        DeadlineExceeded: `left` raised it.
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
    """Read-ahead: runs an iterator in a thread, a few items ahead of its reader.

    Holds at most `READ_AHEAD` items, and the one that waits for room. Leaving
    the context unblocks the iterator and waits for the thread's end.

    Args:
        source: the iterator.
        unblock: ends a wait inside `source`.
        idle: seconds without an item after which the reader fails.
    """

    def __init__(self, source: Iterator[_T], unblock: Callable[[], object], idle: float) -> None:
        self._source = source
        self._unblock = unblock
        self._idle = idle
        # Not a Condition: a signal can leave it locked.
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
        except BaseException as error:  # noqa: BLE001 - raised in the reader's thread
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
    """No read-ahead: the reader runs the iterator, and gRPC's sending thread is ahead of it."""

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
    """Read the source while the previous piece is sent."""
    return _Direct(source)
