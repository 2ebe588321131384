"""Receivers of downloaded content: a local file, memory, or an object of the caller."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from typing import BinaryIO, Final, Protocol, cast

from openshell_files._async import _io
from openshell_files._async.deadline import Deadline
from openshell_files._core.download.events import Piece
from openshell_files._local.byte_streams import Writing
from openshell_files._local.special_file import open_for_writing
from openshell_files._local.target_file import TargetFile
from openshell_files.errors import FilesError, local_file_error

#: A sink without holes gets them as pieces of this many zeros.
_ZEROS = bytes(1024 * 1024)


#: Pause between two tries to open a FIFO without a reader.
_LOOK_FOR_READER_SECONDS: Final = 0.05


class Sink(Protocol):
    """Takes verified content in order."""

    #: True if the sink can drop its content when a transfer restarts.
    restartable: bool

    async def write(self, piece: Piece) -> None:
        """Take content."""
        ...

    async def restart(self) -> None:
        """Drop everything taken so far."""
        ...


async def open_special(path: str, deadline: Deadline) -> io.FileIO:
    """Open a device, or a FIFO after it has a reader.

    Raises:
        LocalFileError: it cannot be opened.
        DeadlineExceeded: the FIFO has no reader.
    """
    while (file := await _io.in_thread(open_for_writing, path)) is None:
        await _io.sleep(deadline.cap(_LOOK_FOR_READER_SECONDS))
    return file


class FileSink:
    """A local file that appears under its name when it is complete."""

    restartable = True

    def __init__(self, target: TargetFile) -> None:
        self._target = target

    async def write(self, piece: Piece) -> None:
        """Write content; a hole stays a hole."""
        if not piece.hole_bytes:
            await _io.in_thread(self._target.write, piece.position, piece.data)

    async def restart(self) -> None:
        """Empty the file."""
        await _io.in_thread(self._target.restart)


class MemorySink:
    """Bytes in memory; `max_bytes` of the download bounds them."""

    restartable = True

    def __init__(self) -> None:
        self._content = bytearray()

    async def write(self, piece: Piece) -> None:
        """Append content."""
        self._content += bytes(piece.hole_bytes) if piece.hole_bytes else piece.data

    async def restart(self) -> None:
        """Drop everything."""
        self._content.clear()

    def content(self) -> bytes:
        """Return the content."""
        return bytes(self._content)


class StreamSink:
    """A binary file object, or a function that takes bytes; neither can drop content.

    Args:
        target: the object or function.
        deadline: end of the caller's time.
        name: of the target, for messages; empty takes its attribute `name`.
    """

    restartable = False

    def __init__(
        self,
        target: BinaryIO | Callable[[bytes], object | Awaitable[object]],
        deadline: Deadline,
        name: str = "",
    ) -> None:
        self._target = target
        self._deadline = deadline
        self._writing = Writing(target, name) if hasattr(target, "write") else None

    async def write(self, piece: Piece) -> None:
        """Pass content on, and holes as zeros."""
        left = piece.hole_bytes
        while left:
            zeros = _ZEROS[: min(left, len(_ZEROS))]
            await self._put(zeros)
            left -= len(zeros)
        if len(piece.data):
            await self._put(bytes(piece.data))

    async def restart(self) -> None:
        """Fail: the download does not restart such a sink."""
        raise AssertionError("a stream cannot restart")

    async def _put(self, data: bytes) -> None:
        if self._writing is None:
            await _io.call_sink(cast("Callable[[bytes], object]", self._target), data, self._deadline.left)
            return
        try:
            await _io.put(self._writing, data, self._deadline.left)
        except OSError as error:
            if isinstance(error, FilesError):
                raise
            raise local_file_error(error, self._writing.name, "cannot write") from error
