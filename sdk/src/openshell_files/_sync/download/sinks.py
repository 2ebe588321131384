# Written by sdk/unasync.py from _async/download/sinks.py. Change that file instead.
"""Where downloaded content goes."""

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

#: Holes are written out in pieces of this size where the sink has no holes.
_ZEROS = bytes(1024 * 1024)


#: How often it is tried to open a FIFO that nobody reads.
_LOOK_FOR_READER_SECONDS: Final = 0.05


class Sink(Protocol):
    """Takes verified content in order."""

    #: Whether content can be taken back when a transfer starts over.
    restartable: bool

    def write(self, piece: Piece) -> None:
        """Take content."""
        ...

    def restart(self) -> None:
        """Drop everything taken so far."""
        ...


def open_special(path: str, deadline: Deadline) -> io.FileIO:
    """Open a device or FIFO, when somebody reads the latter.

    Raises:
        LocalFileError: it cannot be opened.
        DeadlineExceeded: nobody reads.
    """
    while (file := _io.in_thread(open_for_writing, path)) is None:
        _io.sleep(deadline.cap(_LOOK_FOR_READER_SECONDS))
    return file


class FileSink:
    """A local file that appears when it is whole."""

    restartable = True

    def __init__(self, target: TargetFile) -> None:
        self._target = target

    def write(self, piece: Piece) -> None:
        """Write content; a hole stays one."""
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
        """Forget everything."""
        self._content.clear()

    def content(self) -> bytes:
        """Return everything."""
        return bytes(self._content)


class StreamSink:
    """A binary file object, or a function that takes bytes. What it got, it keeps.

    Args:
        target: the object or function.
        deadline: when to give up waiting for it.
        name: of the target, for messages; empty takes what it says itself.
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
        """Hand content on; a hole as the zeros it stands for."""
        left = piece.hole_bytes
        while left:
            zeros = _ZEROS[: min(left, len(_ZEROS))]
            self._put(zeros)
            left -= len(zeros)
        if len(piece.data):
            self._put(bytes(piece.data))

    def restart(self) -> None:
        """Never asked for."""
        raise AssertionError("a stream cannot start over")

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
