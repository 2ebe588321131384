"""Content of a caller's object: bytes, a file object that can seek, or a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from typing import BinaryIO, ParamSpec, TypeVar, cast

from openshell_files._async import _io
from openshell_files._async.deadline import Deadline
from openshell_files._async.upload.content import Content, SourceFailedError
from openshell_files._core.upload.outgoing import Rechunker, Span
from openshell_files._local import source_file
from openshell_files._local.byte_streams import Reading, as_bytes, flat, seeks
from openshell_files.errors import DeadlineExceeded

_P = ParamSpec("_P")
_T = TypeVar("_T")


class BytesContent:
    """Bytes in memory.

    Args:
        data: the caller does not change them during the upload.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self.name = "bytes"
        self._data = memoryview(data)
        self.size: int | None = len(self._data)

    @property
    def spent(self) -> bool:
        """False: bytes can be read again."""
        return False

    async def spans(self, start: int, chunk_bytes: int) -> AsyncGenerator[Span, None]:
        """Yield everything from `start` on."""
        for position in range(start, len(self._data), chunk_bytes):
            yield Span(self._data[position : position + chunk_bytes])

    async def check_unchanged(self) -> None:
        """Check nothing: the caller does not change the bytes."""


class SeekableContent:
    """A binary file object that can seek, from its position at the call to its end.

    Args:
        file: the file object.
        origin: its position at the call.
        size: bytes from there to the end.
    """

    def __init__(self, file: BinaryIO, origin: int, size: int) -> None:
        self.name = str(getattr(file, "name", "file object"))
        self.size: int | None = size
        self._file = file
        self._origin = origin

    @property
    def spent(self) -> bool:
        """False: the file object can seek back."""
        return False

    async def spans(self, start: int, chunk_bytes: int) -> AsyncGenerator[Span, None]:
        """Yield everything from `start` on."""
        left = (self.size or 0) - start
        await self._calling(self._file.seek, self._origin + start)
        while left:
            asked = min(left, chunk_bytes)
            data = await self._read(asked)
            if not data:
                raise source_file.changed(self.name)
            if len(data) > asked:
                raise SourceFailedError from ValueError(
                    f"source: read({asked}) returned {len(data)} bytes, more than it was asked for"
                )
            left -= len(data)
            yield Span(data)

    async def check_unchanged(self) -> None:
        """Check that the file object still ends where it did."""
        end = self._origin + (self.size or 0)
        if await self._calling(_seek_end, self._file) != end:
            raise source_file.changed(self.name)
        await self._calling(self._file.seek, end)
        if await self._read(1):
            raise source_file.changed(self.name)

    async def _read(self, size: int) -> bytes:
        """Read some bytes, none at the end. A file object that answers None is asked again."""
        reading = Reading(self._file, size)
        while True:
            answer = await self._calling(reading.take)
            if answer is not None:
                return await self._calling(as_bytes, answer)

    async def _calling(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await _io.in_thread(function, *args, **kwargs)
        except (OSError, TypeError, ValueError) as error:
            # A file object that was closed meanwhile raises ValueError.
            raise SourceFailedError from error


class StreamContent:
    """Bytes that can be read once; sending them again is possible only until the first was read.

    Args:
        held: bytes that were read already.
        source: yields the bytes that follow.
        name: for messages.
    """

    def __init__(self, held: list[bytes], source: AsyncIterator[bytes], name: str = "stream") -> None:
        self.name = name
        self.size: int | None = None
        self._held = held
        self._source = source
        self._taken = False

    @property
    def spent(self) -> bool:
        """True once bytes were read."""
        return self._taken

    async def spans(self, start: int, chunk_bytes: int) -> AsyncGenerator[Span, None]:
        """Yield everything, once."""
        if self._taken or start:
            raise source_file.not_replayable(self.name)
        self._taken = True
        chunks = Rechunker(chunk_bytes)
        for piece in self._held:
            for chunk in chunks.feed(piece):
                yield Span(chunk)
        self._held = []
        async for piece in self._pieces():
            for chunk in chunks.feed(piece):
                yield Span(chunk)
        if rest := chunks.flush():
            yield Span(rest)

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield from the caller's stream; wrap its exceptions, to tell them from those of the connection."""
        while True:
            try:
                piece = await anext(self._source, None)
            except DeadlineExceeded:
                raise
            except GeneratorExit:
                # It may be this generator that is closed.
                raise
            except BaseException as error:
                if _io.is_cancellation(error):
                    raise
                # A KeyboardInterrupt or SystemExit of the caller's generator would end the event
                # loop if a task raised it.
                raise SourceFailedError from error
            if piece is None:
                return
            yield piece

    async def check_unchanged(self) -> None:
        """Check nothing: a stream was read to its end."""


async def content_of(
    source: bytes | bytearray | memoryview | BinaryIO | Iterable[bytes] | AsyncIterable[bytes],
    small: int,
    deadline: Deadline,
) -> Content:
    """Return a caller's object as content.

    Args:
        source: bytes, a binary file object, or an iterable of bytes.
        small: a stream that ends within this many bytes is read into memory,
            so that it can be sent again.
        deadline: end of the caller's time.

    Raises:
        TypeError: a stream yields something else than bytes.
        DeadlineExceeded: a stream yielded nothing in time.
    """
    if not hasattr(source, "read") and (data := flat(source)) is not None:
        return BytesContent(data)
    if (seekable := await _seekable(source)) is not None:
        return seekable
    stream = _io.pieces_of(source, small, deadline.left)
    held: list[bytes] = []
    size = 0
    async for piece in stream:
        held.append(piece)
        size += len(piece)
        if size > small:
            return StreamContent(held, stream)
    return BytesContent(b"".join(held))


async def _seekable(source: object) -> SeekableContent | None:
    """Return a file object as content that can be read again; None if it cannot seek."""
    try:
        if not await _io.in_thread(seeks, source):
            return None
        file = cast("BinaryIO", source)
        origin = await _io.in_thread(file.tell)
        end = await _io.in_thread(_seek_end, file)
        await _io.in_thread(file.seek, origin)
    except OSError:
        # `seekable()` was wrong: the object is read once, from its position on.
        return None
    # A position past the end reads as no bytes.
    return SeekableContent(file, min(origin, end), max(0, end - origin))


def _seek_end(file: BinaryIO) -> int:
    """Seek to a file's end and return its position; some `seek` methods do not return it."""
    file.seek(0, 2)
    return file.tell()
