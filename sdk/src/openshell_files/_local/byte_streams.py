"""The rule for sources and sinks that are not ordinary files.

A caller's object may be a pipe that has nothing yet, a file whose size is not
what `stat` says, a writer that takes a part, or none of the kinds that are
documented. Everything that the SDK assumes of such an object is decided here.
"""

from __future__ import annotations

import inspect
import io
import os
import select
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

from openshell_files.errors import ErrorFacts, LocalFileError, LocalReason

#: How long one wait for a descriptor lasts at most, in seconds: so soon a
#: deadline or a cancellation is noticed.
WAIT_SECONDS: Final = 0.1

#: How long to wait for an object that has nothing now, and no descriptor to wait for.
_NAP_SECONDS: Final = 0.02

#: Sizes that kernel interfaces give for files whose content they make when it is read.
_INVENTED_SIZE_STEP: Final = 4096
_INVENTED_SIZE_LIMIT: Final = 64 * 1024


def as_bytes(piece: object, argument: str = "source") -> bytes:
    """Return a piece of a source as bytes that nobody else can change.

    Whoever gives pieces may use one buffer for all of them.

    Raises:
        TypeError: it is no bytes-like object.
    """
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, str):
        raise TypeError(f"{argument}: gives str; open it in binary mode, or encode what it gives")
    try:
        return memoryview(piece).tobytes()  # type: ignore[arg-type]  # whether it has a buffer is the question
    except TypeError:
        raise TypeError(f"{argument}: gives {type(piece).__name__} where bytes are needed") from None


def flat(data: object) -> memoryview | None:
    """Return the bytes of a buffer, a copy only if they are not in one row; None if it is no buffer."""
    try:
        view = memoryview(data)  # type: ignore[arg-type]  # whether it has a buffer is the question
    except TypeError:
        return None
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


def seeks(source: object) -> bool:
    """Return whether a file object can go back, and its end is where its size says.

    Devices say that they can seek and have size 0; files of kernel interfaces
    have sizes that are not those of their content.
    """
    seekable = getattr(source, "seekable", None)
    if seekable is None or getattr(source, "tell", None) is None or inspect.iscoroutinefunction(seekable):
        return False
    if seekable() is not True:
        return False
    descriptor = descriptor_of(source)
    if descriptor is None:
        return True
    found = os.fstat(descriptor)
    return stat.S_ISREG(found.st_mode) and not size_may_be_invented(found)


def size_may_be_invented(found: os.stat_result) -> bool:
    """Return whether a regular file may have more or less content than its size says.

    procfs says 0 or a huge size, sysfs a page, and neither has blocks.
    """
    if getattr(found, "st_blocks", 1):
        return False
    return found.st_size == 0 or (
        found.st_size % _INVENTED_SIZE_STEP == 0 and found.st_size <= _INVENTED_SIZE_LIMIT
    )


def descriptor_of(file: object) -> int | None:
    """Return a file object's descriptor; None if it has none."""
    try:
        descriptor: object = file.fileno()  # type: ignore[attr-defined]  # whether it has one is the question
    except (AttributeError, OSError, ValueError):
        return None
    return descriptor if isinstance(descriptor, int) else None


class Reading:
    """Reads from a binary file object until its real end.

    Args:
        file: the file object.
        size: how much to ask for at once.
    """

    def __init__(self, file: object, size: int) -> None:
        self._file = file
        self._size = size
        self._descriptor = descriptor_of(file)
        # Only what is known not to hold bytes back that the descriptor does not tell of: a
        # decompressor or a TLS stream may have content while its descriptor is not readable.
        raw = getattr(file, "raw", None) if type(file) is io.BufferedReader else file
        self._plain = type(raw) is io.FileIO and self._descriptor is not None
        read1 = getattr(file, "read1", None)
        self._read = read1 if self._plain and read1 is not None else getattr(file, "read")  # noqa: B009 - of any object

    def take(self) -> object:
        """Return what the file gives: bytes, none at the end, or None if it has nothing yet.

        Waits for a moment only where a descriptor says that there is nothing. An
        answer that is no bytes may be awaitable.
        """
        if self._plain and not self._ready():
            return None
        try:
            answer: object = self._read(self._size)
        except BlockingIOError:
            answer = None
        if answer is None and not (self._descriptor is not None and self._ready()):
            time.sleep(_NAP_SECONDS)
        return answer

    def _ready(self) -> bool:
        return wait_for(self._descriptor, select.POLLIN)


def wait_for(descriptor: int | None, event: int) -> bool:
    """Wait a moment until a descriptor is ready, or cannot tell; return whether it is."""
    if descriptor is None:
        return True
    poll = select.poll()
    try:
        poll.register(descriptor, event)
        return bool(poll.poll(WAIT_SECONDS * 1000))
    except (OSError, ValueError):
        # Whoever reads or writes finds out.
        return True


def _makes_wait(file: object, descriptor: int | None) -> bool:
    """Return whether a file object writes into a pipe, a socket or a terminal, and nothing is between."""
    raw = getattr(file, "raw", None) if type(file) is io.BufferedWriter else file
    if type(raw) is not io.FileIO or descriptor is None:
        return False
    kind = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or stat.S_ISCHR(kind)


class Writing:
    """Writes bytes into a binary file object, all of them.

    Args:
        file: the file object.
        name: of it, for messages; empty takes what it says itself.
    """

    def __init__(self, file: object, name: str = "") -> None:
        self._file = file
        self._write = cast("Callable[[bytes], object]", getattr(file, "write"))  # noqa: B009 - of any object
        self._name = name or str(getattr(file, "name", "stream"))
        self._descriptor = descriptor_of(file)
        self._waits = _makes_wait(file, self._descriptor)
        self._left = b""
        #: What waits until an asynchronous stream has room, if it has that.
        self.drain: object = getattr(file, "drain", None)
        if not inspect.iscoroutinefunction(self.drain):
            self.drain = None
        #: Whether the file belongs to an event loop.
        self.asynchronous = self.drain is not None or inspect.iscoroutinefunction(
            getattr(file, "write", None)
        )

    def begin(self, data: bytes) -> None:
        """Take the bytes that are written by `put`."""
        self._left = data

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self._name

    @property
    def done(self) -> bool:
        """Whether all is written."""
        return not self._left

    def put(self, *, patiently: bool = False) -> object:
        """Write some; return what `write` answered if that is to be awaited first.

        Args:
            patiently: wait for a moment at most where that can be known: of a pipe or a
                socket, only as much is written as it takes without waiting.
        """
        data, flush = self._left, None
        if patiently and self._waits:
            if not wait_for(self._descriptor, select.POLLOUT):
                return None
            data, flush = data[: select.PIPE_BUF], getattr(self._file, "flush", None)
        try:
            answer = self._write(data)
            if flush is not None:
                # Otherwise more would be written at once, later.
                with suppress(BlockingIOError):
                    flush()
        except BlockingIOError as error:
            self._left = self._left[error.characters_written :]
            wait_for(self._descriptor, select.POLLOUT)
            return None
        if hasattr(answer, "__await__"):
            return answer
        self.took(answer)
        return None

    def took(self, answer: object) -> None:
        """Take what `write` answered.

        Raises:
            LocalFileError: the file takes nothing, or says that it took what there was not.
        """
        if answer is None:
            if isinstance(self._file, io.RawIOBase):
                # By its contract: nothing could be written without waiting.
                wait_for(self._descriptor, select.POLLOUT)
            else:
                # Writers without a count (codecs, SFTP, asyncio) take everything.
                self._left = b""
        elif isinstance(answer, int) and answer is not True and 0 < answer <= len(self._left):
            # Whoever answers True means that all is well, and not that one byte was taken.
            self._left = self._left[answer:]
        else:
            raise LocalFileError(
                f"cannot write {self._name}: write answered {answer!r} for {len(self._left)} bytes",
                ErrorFacts(
                    LocalReason.LOCAL_FILE,
                    fix="Give a file object whose write returns how many bytes it took, or None for all.",
                ),
                path=self._name,
            )
