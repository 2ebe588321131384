# Written by sdk/unasync.py from _async/upload/file_content.py. Change that file instead.
"""Content of a local file, with its holes."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass

from openshell_files._core.upload.outgoing import Span
from openshell_files._local import source_file
from openshell_files._local.source_file import SourceFile
from openshell_files._sync import _io
from openshell_files._sync.deadline import Deadline
from openshell_files._sync.upload.caller_content import BytesContent, StreamContent
from openshell_files._sync.upload.content import Content


class FileContent:
    """An open local regular file.

    Args:
        path: for messages.
        handle: the open file.
        file: its metadata when it was opened.
    """

    def __init__(self, path: str, handle: _io.SourceHandle, file: SourceFile) -> None:
        self.name = path
        self.size: int | None = file.size
        self._file = file
        self._handle = handle

    @property
    def spent(self) -> bool:
        """False: a file can be read again."""
        return False

    def spans(self, start: int, chunk_bytes: int) -> Generator[Span, None, None]:
        """Yield everything from `start` on."""
        descriptor = self._handle.fileno()
        extents = source_file.extents(descriptor, start, self._file)
        while (extent := self._next(extents)) is not None:
            if extent.hole:
                yield Span(hole_bytes=extent.size)
                continue
            self._seek(extent.offset)
            left = extent.size
            while left:
                data = self._read(min(left, chunk_bytes))
                if len(data) < min(left, chunk_bytes):
                    # The file shrank, so the bytes that follow cannot be right.
                    raise source_file.changed(self.name)
                left -= len(data)
                yield Span(data)

    def check_unchanged(self) -> None:
        """Compare size and modification time with those when the file was opened."""
        with source_file.reading(self.name):
            _io.in_thread(source_file.check_unchanged, self._handle.fileno(), self.name, self._file)

    def _next(self, extents: Iterator[source_file.Extent]) -> source_file.Extent | None:
        with source_file.reading(self.name):
            return _io.in_thread(next, extents, None)

    def _seek(self, offset: int) -> None:
        with source_file.reading(self.name):
            _io.seek(self._handle, offset)

    def _read(self, size: int) -> bytes:
        with source_file.reading(self.name):
            return _io.read(self._handle, size)


@dataclass(frozen=True, slots=True)
class OpenFile:
    """An open local file and its content.

    Attributes:
        content: its bytes.
        file: its metadata when it was opened.
        handle: the open file.
    """

    content: Content
    file: SourceFile
    handle: _io.SourceHandle

    def close(self) -> None:
        """Close the file. It was only read, so a failure changes nothing, and hides no other error."""
        with suppress(OSError):
            _io.close(self.handle)


def open_file(path: str, small: int, deadline: Deadline) -> OpenFile:
    """Open a local file as content.

    Args:
        path: of the file.
        small: a file whose size a kernel interface invented is read into
            memory if it ends within this many bytes.
        deadline: end of the caller's time.

    Raises:
        LocalFileError: it cannot be opened, or is not a regular file.
    """
    with source_file.reading(path):
        handle = _io.open_source(path)
    try:
        with source_file.reading(path):
            file = _io.in_thread(source_file.inspect, handle.fileno(), path)
            if file.size_may_be_invented:
                return OpenFile(_real_content(path, handle, file, small, deadline), file, handle)
    except BaseException:
        _io.close(handle)
        raise
    return OpenFile(FileContent(path, handle, file), file, handle)


def _real_content(
    path: str, handle: _io.SourceHandle, file: SourceFile, small: int, deadline: Deadline
) -> Content:
    """Return the content of a file whose size cannot be trusted, read to its real end."""
    held = _io.read(handle, small + 1)
    if len(held) == file.size:
        _io.seek(handle, 0)
        return FileContent(path, handle, file)
    if len(held) <= small:
        return BytesContent(held)
    return StreamContent([held], _errors_with_path(path, _io.pieces_of(handle, small, deadline.left)), path)


def _errors_with_path(path: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    with source_file.reading(path):
        yield from pieces
