"""Local source of an upload: its metadata, its holes, and the check that it did not change."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from openshell_files._local.byte_streams import size_may_be_invented
from openshell_files.errors import (
    ErrorFacts,
    FilesError,
    LocalFileChanged,
    LocalFileError,
    LocalReason,
    SourceNotReplayable,
    local_file_error,
)

#: Smaller holes are sent as zeros, because a message costs more.
MIN_HOLE_BYTES: Final = 256 * 1024

#: Longest hole in one message. With SHA-256 the sandbox hashes its zeros, which
#: has to end well before the idle timeout.
MAX_HOLE_BYTES: Final = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SourceFile:
    """Metadata of a file when it was opened.

    Attributes:
        size: in bytes.
        mode: permission bits.
        modified_ns: nanoseconds since the epoch.
        hole_bytes: size of the file less its blocks.
        size_may_be_invented: a kernel interface may have invented the size.
    """

    size: int
    mode: int
    modified_ns: int
    hole_bytes: int
    size_may_be_invented: bool = False

    @property
    def sparse(self) -> bool:
        """True if the file has fewer blocks than its size needs."""
        return self.hole_bytes > 0


@dataclass(frozen=True, slots=True)
class Extent:
    """A part of a file: content or a hole."""

    offset: int
    size: int
    hole: bool


@contextmanager
def reading(path: str) -> Generator[None]:
    """Convert an `OSError` of the block to the error that names the file.

    Raises:
        LocalFileError: an operation failed.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, FilesError):
            raise
        raise local_file_error(error, path, "cannot read") from error


def open_for_reading(path: str, flags: int) -> int:
    """Opener for `open(..., opener=)` that does not wait for the writer of a FIFO."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def inspect(descriptor: int, path: str) -> SourceFile:
    """Return the metadata of an open file.

    Raises:
        LocalFileError: it is not a regular file.
    """
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise LocalFileError(
            f"{path} is not a regular file",
            ErrorFacts(LocalReason.LOCAL_FILE, fix="Give a regular file, or `-` to read standard input."),
            path=path,
        )
    return SourceFile(
        size=found.st_size,
        mode=stat.S_IMODE(found.st_mode) & 0o777,
        modified_ns=found.st_mtime_ns,
        hole_bytes=max(0, found.st_size - getattr(found, "st_blocks", found.st_size) * 512),
        size_may_be_invented=size_may_be_invented(found),
    )


def check_unchanged(descriptor: int, path: str, before: SourceFile) -> None:
    """Check that a file did not change since it was opened.

    Raises:
        LocalFileChanged: size or modification time changed.
    """
    now = os.fstat(descriptor)
    # Some file systems report another size than that of the content.
    more = os.pread(descriptor, 1, before.size)
    if more or (now.st_size, now.st_mtime_ns) != (before.size, before.modified_ns):
        raise changed(path)


def changed(path: str) -> LocalFileChanged:
    """Return the error for a file that changed during its upload."""
    return LocalFileChanged(
        f"{path} changed while it was sent; nothing was published",
        ErrorFacts(LocalReason.LOCAL_FILE_CHANGED, fix="Upload it again when no program writes to it."),
        path=path,
    )


def not_replayable(name: str) -> SourceNotReplayable:
    """Return the error for a stream that would have to be sent again."""
    return SourceNotReplayable(
        "the connection broke, and the stream cannot be read again",
        not_replayable_facts(),
        path=name,
    )


def not_replayable_facts() -> ErrorFacts:
    """Return the facts of the error for a stream that cannot be read again."""
    return ErrorFacts(
        LocalReason.SOURCE_NOT_REPLAYABLE,
        fix="Upload a file or bytes instead, or begin the stream again.",
    )


def extents(descriptor: int, start: int, source: SourceFile) -> Iterator[Extent]:
    """Yield content and holes from `start` to the end, in order and without gaps.

    It moves the descriptor's position, so the reader has to seek.
    """
    position = start
    while position < source.size:
        data = _next_data(descriptor, position, source) if source.sparse else position
        if data - position >= MIN_HOLE_BYTES or data == source.size != position:
            while position < data:
                size = min(data - position, MAX_HOLE_BYTES)
                yield Extent(position, size, hole=True)
                position += size
            continue
        end = _next_hole(descriptor, data, source) if source.sparse else source.size
        yield Extent(position, end - position, hole=False)
        position = end


def _next_data(descriptor: int, position: int, source: SourceFile) -> int:
    try:
        return min(os.lseek(descriptor, position, os.SEEK_DATA), source.size)
    except OSError as error:
        # ENXIO: a hole up to the end. Any other error: the file system does not
        # report holes, so all of it is content.
        return source.size if error.errno == errno.ENXIO else position


def _next_hole(descriptor: int, position: int, source: SourceFile) -> int:
    """Return the end of the content: the next hole that is worth a message."""
    while position < source.size:
        try:
            hole = min(os.lseek(descriptor, position, os.SEEK_HOLE), source.size)
        except OSError:
            return source.size
        data = _next_data(descriptor, hole, source)
        if hole == source.size or data - hole >= MIN_HOLE_BYTES or data == source.size:
            return hole
        position = data
    return source.size
