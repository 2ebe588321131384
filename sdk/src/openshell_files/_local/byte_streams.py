"""Reads and writes a caller's file objects, which may be no ordinary files.

The object may be a pipe without content at the moment, a file with another
size than `stat` reports, a writer that takes a part, or of no documented kind.
All assumptions of the SDK about such objects are in this module.
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

#: Longest wait for a descriptor, in seconds; after it a deadline or a
#: cancellation is noticed.
WAIT_SECONDS: Final = 0.1

#: Pause before another read from an object without content and without a descriptor, in seconds.
_NAP_SECONDS: Final = 0.02

#: Sizes that kernel interfaces report for files whose content they generate at the read.
_INVENTED_SIZE_STEP: Final = 4096
_INVENTED_SIZE_LIMIT: Final = 64 * 1024


def as_bytes(piece: object, argument: str = "source") -> bytes:
    """Return a piece of a source as bytes, a copy unless it is bytes already.

    A source may reuse one buffer for all pieces.

    Raises:
        TypeError: it is no bytes-like object.
    """
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, str):
        raise TypeError(f"{argument}: gives str; open it in binary mode, or encode the text")
    try:
        return memoryview(piece).tobytes()  # type: ignore[arg-type]  # the call finds out whether it has a buffer
    except TypeError:
        raise TypeError(f"{argument}: gives {type(piece).__name__} where bytes are needed") from None


def flat(data: object) -> memoryview | None:
    """Return the bytes of a buffer, as a copy only if it is not contiguous; None if the object is no buffer."""
    try:
        view = memoryview(data)  # type: ignore[arg-type]  # the call finds out whether it has a buffer
    except TypeError:
        return None
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


def seeks(source: object) -> bool:
    """Return whether a file object can seek, and its size is that of its content.

    Devices report that they can seek and have size 0; files of kernel
    interfaces report other sizes than that of their content.
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
    """Return whether a regular file may have more or less content than its size.

    procfs reports 0 or a huge size, sysfs a page, and neither has blocks.
    """
    if getattr(found, "st_blocks", 1):
        return False
    return found.st_size == 0 or (
        found.st_size % _INVENTED_SIZE_STEP == 0 and found.st_size <= _INVENTED_SIZE_LIMIT
    )


def descriptor_of(file: object) -> int | None:
    """Return a file object's descriptor; None if it has none."""
    try:
        descriptor: object = file.fileno()  # type: ignore[attr-defined]  # the call finds out whether it has one
    except (AttributeError, OSError, ValueError):
        return None
    return descriptor if isinstance(descriptor, int) else None


class Reading:
    """Reads from a binary file object until its real end.

    Args:
        file: the file object.
        size: of one read.
    """

    def __init__(self, file: object, size: int) -> None:
        self._file = file
        self._size = size
        self._descriptor = descriptor_of(file)
        # Only files without a buffer of their own: a decompressor or a TLS stream may have
        # content although its descriptor is not readable.
        raw = getattr(file, "raw", None) if type(file) is io.BufferedReader else file
        self._plain = type(raw) is io.FileIO and self._descriptor is not None
        read1 = getattr(file, "read1", None)
        self._read = read1 if self._plain and read1 is not None else getattr(file, "read")  # noqa: B009 - of any object

    def take(self) -> object:
        """Return the answer of one read: bytes, no bytes at the end, or None if there is no content yet.

        It waits for a moment only if a descriptor is not readable. The answer
        of an asynchronous file is an awaitable.
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
    """Wait a moment until a descriptor is ready; return whether it is, or cannot be polled."""
    if descriptor is None:
        return True
    poll = select.poll()
    try:
        poll.register(descriptor, event)
        return bool(poll.poll(WAIT_SECONDS * 1000))
    except (OSError, ValueError):
        # The read or write raises the error.
        return True


def _makes_wait(file: object, descriptor: int | None) -> bool:
    """Return whether a file object writes directly into a pipe, a socket or a terminal."""
    raw = getattr(file, "raw", None) if type(file) is io.BufferedWriter else file
    if type(raw) is not io.FileIO or descriptor is None:
        return False
    kind = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or stat.S_ISCHR(kind)


class Writing:
    """Writes all of the bytes into a binary file object.

    Args:
        file: the file object.
        name: of the file, for messages; empty takes its attribute `name`.

    Attributes:
        drain: coroutine function that waits until an asynchronous stream has
            room; None for other files.
        asynchronous: True if the file belongs to an event loop.
    """

    def __init__(self, file: object, name: str = "") -> None:
        self._file = file
        self._write = cast("Callable[[bytes], object]", getattr(file, "write"))  # noqa: B009 - of any object
        self._name = name or str(getattr(file, "name", "stream"))
        self._descriptor = descriptor_of(file)
        self._waits = _makes_wait(file, self._descriptor)
        self._left = b""
        self.drain: object = getattr(file, "drain", None)
        if not inspect.iscoroutinefunction(self.drain):
            self.drain = None
        self.asynchronous = self.drain is not None or inspect.iscoroutinefunction(
            getattr(file, "write", None)
        )

    def begin(self, data: bytes) -> None:
        """Set the bytes that `put` writes."""
        self._left = data

    @property
    def name(self) -> str:
        """Name for messages."""
        return self._name

    @property
    def done(self) -> bool:
        """True if all bytes are written."""
        return not self._left

    def put(self, *, patiently: bool = False) -> object:
        """Write some bytes; return the answer of `write` if it has to be awaited.

        Args:
            patiently: block for a moment at most: a pipe or a socket gets only as
                much as it takes without blocking.
        """
        data, flush = self._left, None
        if patiently and self._waits:
            if not wait_for(self._descriptor, select.POLLOUT):
                return None
            data, flush = data[: select.PIPE_BUF], getattr(self._file, "flush", None)
        try:
            answer = self._write(data)
            if flush is not None:
                # Otherwise the buffer would be written at once, later.
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
        """Take the answer of `write`.

        Raises:
            LocalFileError: the answer is no count of written bytes.
        """
        if answer is None:
            if isinstance(self._file, io.RawIOBase):
                # By the contract of RawIOBase: the write would block.
                wait_for(self._descriptor, select.POLLOUT)
            else:
                # Writers without a count (codecs, SFTP, asyncio) take all bytes.
                self._left = b""
        elif isinstance(answer, int) and answer is not True and 0 < answer <= len(self._left):
            # True means success, not one byte.
            self._left = self._left[answer:]
        else:
            raise LocalFileError(
                f"cannot write {self._name}: write answered {answer!r} for {len(self._left)} bytes",
                ErrorFacts(
                    LocalReason.LOCAL_FILE,
                    fix="Give a file object whose write returns the number of written bytes, or None for all.",
                ),
                path=self._name,
            )
