# Written by sdk/unasync.py from _async/content.py. Change that file instead.
"""What is uploaded: a local file, bytes, a file object or a stream."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import BinaryIO, ParamSpec, Protocol, TypeVar, cast

from openshell_files._core.digests import ContentDigest
from openshell_files._core.upload.outgoing import Rechunker, Sealed, Span, seal
from openshell_files._local import source_file
from openshell_files._local.byte_streams import Reading, as_bytes, flat, seeks
from openshell_files._local.source_file import SourceFile
from openshell_files._sync import _io
from openshell_files._sync.deadline import Deadline
from openshell_files.errors import DeadlineExceeded

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: How much is read at once where only a digest is wanted.
_HASH_READ_BYTES = 1024 * 1024


class Content(Protocol):
    """Bytes that can be read from a position on."""

    #: In messages: a path, or what kind of thing it is.
    name: str
    #: None for a stream whose end is not known.
    size: int | None

    @property
    def spent(self) -> bool:
        """Whether bytes were taken that cannot be given again."""
        ...

    def spans(self, start: int, chunk_bytes: int) -> Generator[Span, None, None]:
        """Yield everything from `start` on, in chunks and holes.

        Raises:
            SourceNotReplayable: the bytes at `start` are gone.
            LocalFileError: it cannot be read.
        """
        ...

    def check_unchanged(self) -> None:
        """Check that what was read is still what is there.

        Raises:
            LocalFileChanged: it is not.
        """
        ...


class FileContent:
    """A local regular file, open.

    Args:
        path: for messages.
        handle: the open file.
        file: what its descriptor said.
    """

    def __init__(self, path: str, handle: _io.SourceHandle, file: SourceFile) -> None:
        self.name = path
        self.size: int | None = file.size
        self._file = file
        self._handle = handle

    @property
    def spent(self) -> bool:
        """Never: a file can be read again."""
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
                    # Shorter than it was: nothing that follows could be right.
                    raise source_file.changed(self.name)
                left -= len(data)
                yield Span(data)

    def check_unchanged(self) -> None:
        """Check size and modification time of the descriptor."""
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
    """A local file that is open, and what is uploaded of it.

    Attributes:
        content: its bytes.
        file: what its descriptor said.
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
        small: a file whose size is invented and that ends within so many bytes
            is taken as bytes.
        deadline: when to give up.

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
    """Return what a file has whose size cannot be trusted: it is read to its real end."""
    held = _io.read(handle, small + 1)
    if len(held) == file.size:
        _io.seek(handle, 0)
        return FileContent(path, handle, file)
    if len(held) <= small:
        return BytesContent(held)
    return StreamContent([held], _of_path(path, _io.pieces_of(handle, small, deadline.left)), path)


def _of_path(path: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    with source_file.reading(path):
        yield from pieces


class BytesContent:
    """Bytes in memory.

    Args:
        data: they must not change while they are sent.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self.name = "bytes"
        self._data = memoryview(data)
        self.size: int | None = len(self._data)

    @property
    def spent(self) -> bool:
        """Never: bytes stay."""
        return False

    def spans(self, start: int, chunk_bytes: int) -> Generator[Span, None, None]:
        """Yield everything from `start` on."""
        for position in range(start, len(self._data), chunk_bytes):
            yield Span(self._data[position : position + chunk_bytes])

    def check_unchanged(self) -> None:
        """Nothing to compare with: the caller promised."""


class SeekableContent:
    """A binary file object that can go back, from its current position to its end.

    Args:
        file: the file object.
        origin: the position where the content begins.
        size: bytes from there to the end.
    """

    def __init__(self, file: BinaryIO, origin: int, size: int) -> None:
        self.name = str(getattr(file, "name", "file object"))
        self.size: int | None = size
        self._file = file
        self._origin = origin

    @property
    def spent(self) -> bool:
        """Never: it can go back."""
        return False

    def spans(self, start: int, chunk_bytes: int) -> Generator[Span, None, None]:
        """Yield everything from `start` on."""
        left = (self.size or 0) - start
        self._calling(self._file.seek, self._origin + start)
        while left:
            asked = min(left, chunk_bytes)
            data = self._read(asked)
            if not data:
                raise source_file.changed(self.name)
            if len(data) > asked:
                raise SourceFailedError from ValueError(
                    f"source: read({asked}) returned {len(data)} bytes, more than it was asked for"
                )
            left -= len(data)
            yield Span(data)

    def check_unchanged(self) -> None:
        """Check that the file object still ends where it did."""
        end = self._origin + (self.size or 0)
        if self._calling(_seek_end, self._file) != end:
            raise source_file.changed(self.name)
        self._calling(self._file.seek, end)
        if self._read(1):
            raise source_file.changed(self.name)

    def _read(self, size: int) -> bytes:
        """Read some bytes; none at the end. A file that has nothing yet is waited for."""
        reading = Reading(self._file, size)
        while True:
            answer = self._calling(reading.take)
            if answer is not None:
                return self._calling(as_bytes, answer)

    def _calling(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return _io.in_thread(function, *args, **kwargs)
        except (OSError, TypeError, ValueError) as error:
            # A file object says ValueError when it was closed meanwhile.
            raise SourceFailedError from error


class SourceFailedError(Exception):
    """What is uploaded could not be read on; the cause is what its owner raised."""


class StreamContent:
    """Bytes that come once.

    They can be sent again only as long as none was taken.

    Args:
        held: what was taken before.
        source: gives what follows.
        name: for messages.
    """

    def __init__(self, held: list[bytes], source: Iterator[bytes], name: str = "stream") -> None:
        self.name = name
        self.size: int | None = None
        self._held = held
        self._source = source
        self._taken = False

    @property
    def spent(self) -> bool:
        """Whether anything was taken."""
        return self._taken

    def spans(self, start: int, chunk_bytes: int) -> Generator[Span, None, None]:
        """Yield everything, once."""
        if self._taken or start:
            raise source_file.not_replayable(self.name)
        self._taken = True
        chunks = Rechunker(chunk_bytes)
        for piece in self._held:
            for chunk in chunks.feed(piece):
                yield Span(chunk)
        self._held = []
        for piece in self._pieces():
            for chunk in chunks.feed(piece):
                yield Span(chunk)
        if rest := chunks.flush():
            yield Span(rest)

    def _pieces(self) -> Generator[bytes, None, None]:
        """Yield from the caller's stream, and tell its failures from the connection's."""
        while True:
            try:
                piece = next(self._source, None)
            except DeadlineExceeded:
                raise
            except GeneratorExit:
                # It may be this generator that is closed.
                raise
            except BaseException as error:
                if _io.is_cancellation(error):
                    raise
                # Of a generator's own; in a task of the event loop some would end the loop.
                raise SourceFailedError from error
            if piece is None:
                return
            yield piece

    def check_unchanged(self) -> None:
        """A stream has ended when it has ended."""


def content_of(
    source: bytes | bytearray | memoryview | BinaryIO | Iterable[bytes],
    small: int,
    deadline: Deadline,
) -> Content:
    """Return the content that a caller's object stands for.

    Args:
        source: bytes, a binary file object, or an iterable of bytes.
        small: a stream that ends within so many bytes is taken as bytes, and
            can then be sent again.
        deadline: when to give up.

    Raises:
        TypeError: a stream gives something else than bytes.
        DeadlineExceeded: a stream gave nothing until then.
    """
    if not hasattr(source, "read") and (data := flat(source)) is not None:
        return BytesContent(data)
    if (seekable := _seekable(source)) is not None:
        return seekable
    stream = _io.pieces_of(source, small, deadline.left)
    held: list[bytes] = []
    size = 0
    for piece in stream:
        held.append(piece)
        size += len(piece)
        if size > small:
            return StreamContent(held, stream)
    return BytesContent(b"".join(held))


def _seekable(source: object) -> SeekableContent | None:
    """Return a file object as content that can be read again; None if it cannot."""
    try:
        if not _io.in_thread(seeks, source):
            return None
        file = cast("BinaryIO", source)
        origin = _io.in_thread(file.tell)
        end = _io.in_thread(_seek_end, file)
        _io.in_thread(file.seek, origin)
    except OSError:
        # It says that it can, and cannot: it is read once, from where it is.
        return None
    # Behind its end there is nothing, and reading there gives nothing.
    return SeekableContent(file, min(origin, end), max(0, end - origin))


def _seek_end(file: BinaryIO) -> int:
    """Go to a file's end and return where that is; not every `seek` does."""
    file.seek(0, 2)
    return file.tell()


def sealed(
    content: Content, digest: ContentDigest, start: int, chunk_bytes: int, deadline: Deadline
) -> Generator[Sealed, None, None]:
    """Yield the messages that carry the content from `start` on.

    Args:
        content: what is sent.
        digest: of what comes before; it is brought to `start` first.
        start: first byte.
        chunk_bytes: largest content of a message.
        deadline: when to give up.
    """
    if not digest.rewind(start):
        hash_up_to(content, digest, start, deadline)
    if digest.position != start:
        raise source_file.changed(content.name)
    with closing(content.spans(start, chunk_bytes)) as spans:
        for span in spans:
            deadline.left()
            yield _io.in_thread(seal, digest, span)


def hash_up_to(content: Content, digest: ContentDigest, end: int, deadline: Deadline) -> None:
    """Hash the content from where the digest is to `end`, or to the content's end if that comes first.

    Raises:
        DeadlineExceeded: the caller's time is used up.
    """
    if digest.position >= end:
        return
    with closing(content.spans(digest.position, _HASH_READ_BYTES)) as spans:
        for span in spans:
            deadline.left()
            left = end - digest.position
            if span.hole_bytes:
                _io.in_thread(digest.update_zeros, min(left, span.hole_bytes))
            else:
                _io.in_thread(digest.update, span.data[:left])
            if digest.position == end:
                return
