# Written by sdk/unasync.py from _async/download/sinks.py. Change that file instead.
"""Receivers of downloaded content: a local file, memory, or an object of the caller."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO, Final, Protocol, cast

from openshell_files._core.download.events import Piece
from openshell_files._local.byte_streams import Writing
from openshell_files._local.special_file import open_for_writing
from openshell_files._local.target_file import TargetFile
from openshell_files._sync import _io
from openshell_files._sync.deadline import Deadline
from openshell_files.errors import FilesError, local_file_error

#: A sink without holes gets them as pieces of this many zeros.
_ZEROS = bytes(1024 * 1024)


#: Pause between two tries to open a FIFO without a reader.
_LOOK_FOR_READER_SECONDS: Final = 0.05


class Sink(Protocol):
    """Takes verified content in order."""

    #: True if the sink can drop its content when a transfer restarts.
    restartable: bool

    def write(self, piece: Piece) -> None:
        """Take content."""
        ...

    def restart(self) -> None:
        """Drop everything taken so far."""
        ...


def open_special(path: str, deadline: Deadline) -> io.FileIO:
    """Open a device, or a FIFO after it has a reader.

    Raises:
        LocalFileError: it cannot be opened.
        DeadlineExceeded: the FIFO has no reader.
    """
    while (file := _io.in_thread(open_for_writing, path)) is None:
        _io.sleep(deadline.cap(_LOOK_FOR_READER_SECONDS))
    return file


class FileSink:
    """A local file that appears under its name when it is complete."""

    restartable = True

    def __init__(self, target: TargetFile) -> None:
        self._target = target

    def write(self, piece: Piece) -> None:
        """Write content; a hole stays a hole."""
        if not piece.hole_bytes:
            _io.in_thread(self._target.write, piece.position, piece.data)

    def restart(self) -> None:
        """Empty the file."""
        _io.in_thread(self._target.restart)


class MemorySink:
    """Bytes in memory; `max_bytes` of the download bounds them."""

    restartable = True

    def __init__(self) -> None:
        self._content = bytearray()

    def write(self, piece: Piece) -> None:
        """Append content."""
        self._content += bytes(piece.hole_bytes) if piece.hole_bytes else piece.data

    def restart(self) -> None:
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
        target: BinaryIO | Callable[[bytes], object],
        deadline: Deadline,
        name: str = "",
    ) -> None:
        self._target = target
        self._deadline = deadline
        self._writing = Writing(target, name) if hasattr(target, "write") else None

    def write(self, piece: Piece) -> None:
        """Pass content on, and holes as zeros."""
        left = piece.hole_bytes
        while left:
            zeros = _ZEROS[: min(left, len(_ZEROS))]
            self._put(zeros)
            left -= len(zeros)
        if len(piece.data):
            self._put(bytes(piece.data))

    def restart(self) -> None:
        """Fail: the download does not restart such a sink."""
        raise AssertionError("a stream cannot restart")

    def _put(self, data: bytes) -> None:
        if self._writing is None:
            _io.call_sink(cast("Callable[[bytes], object]", self._target), data, self._deadline.left)
            return
        try:
            _io.put(self._writing, data, self._deadline.left)
        except OSError as error:
            if isinstance(error, FilesError):
                raise
            raise local_file_error(error, self._writing.name, "cannot write") from error
