"""Decompresses an archive while it arrives, in bounded memory (ARC-3, ARC-4, ARC-16).

The format is told by its first bytes. Decompressed bytes go on in pieces: a few bytes of zstd can
become gigabytes, which no caller of this module ever gets at once.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import IO, Final, Protocol, cast

import zstandard
from openshell_files_protocol.limits import KIB

from openshell_files_disk.archives.limits import (
    MAX_ZSTD_WINDOW_BYTES,
    RATIO_FREE_BYTES,
    ArchiveLimits,
    invalid_archive,
    too_large,
)

Sink = Callable[[memoryview], None]

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_MAGIC_BYTES: Final = 4

#: Parameter of zlib for a gzip member with a window of any size.
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS

#: Size of a decompressed piece.
_PIECE_BYTES: Final = 256 * KIB

#: Content of the frame that tells whether the frame before it was complete.
_PROBE: Final = b"openshell-files: the frame before this one was complete"


class Format(Protocol):
    """A compression format; passes decompressed bytes on."""

    def feed(self, data: memoryview) -> None:
        """Take compressed bytes. Raises ARCHIVE_INVALID."""
        ...

    def finish(self) -> None:
        """Check that the compressed bytes were complete. Raises ARCHIVE_INVALID."""
        ...


class Decompression:
    """Passes the plain bytes of an archive on, and counts them.

    Args:
        sink: takes plain bytes; a view is only valid during the call. It may raise.
        limits: on the plain bytes.
    """

    def __init__(self, sink: Sink, limits: ArchiveLimits) -> None:
        self._sink = sink
        self._limits = limits
        self._format: Format | None = None
        self._first = b""
        self._received = 0
        self._passed = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the archive.

        Raises:
            TransferError: ARCHIVE_INVALID, ARCHIVE_TOO_LARGE, or an error of the sink.
        """
        self._received += len(data)
        if self._format is not None:
            self._format.feed(memoryview(data))
            return
        self._first += data
        if len(self._first) >= _MAGIC_BYTES:
            self._begin()

    def finish(self) -> None:
        """Take the end of the archive.

        Raises:
            TransferError: as `feed`.
        """
        if self._format is None:
            self._begin()
        cast("Format", self._format).finish()

    def _begin(self) -> None:
        if self._first.startswith(_GZIP):
            self._format = _Gzip(self._pass)
        elif self._first.startswith(_ZSTD):
            self._format = _Zstd(self._pass)
        else:
            self._format = _Plain(self._pass)
        first, self._first = self._first, b""
        self._format.feed(memoryview(first))

    def _pass(self, plain: memoryview) -> None:
        self._passed += len(plain)
        limits = self._limits
        if self._passed > limits.max_bytes:
            raise too_large(
                f"it becomes more than {limits.max_bytes} bytes", "max_extracted_bytes", limits.max_bytes
            )
        if self._passed > max(RATIO_FREE_BYTES, limits.max_ratio * self._received):
            raise too_large(
                f"it becomes more than {limits.max_ratio} times as large as it was sent",
                "max_expansion_ratio",
                limits.max_ratio,
            )
        self._sink(plain)


class _Plain:
    """No compression."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def feed(self, data: memoryview) -> None:
        self._sink(data)

    def finish(self) -> None:
        pass


class _Gzip:
    """One or more gzip members. Zero bytes may follow them: tapes are padded."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._member = zlib.decompressobj(_GZIP_WINDOW)
        #: The current member has begun.
        self._begun = False
        self._padding = False

    def feed(self, data: memoryview) -> None:
        left = bytes(data)
        while left:
            if not self._begun:
                left = self._at_member(left)
                continue
            try:
                plain = self._member.decompress(left, _PIECE_BYTES)
            except zlib.error as error:
                raise invalid_archive(f"gzip: {error}") from error
            left = self._member.unconsumed_tail
            if plain:
                self._sink(memoryview(plain))
            if self._member.eof:
                left = self._member.unused_data
                self._member, self._begun = zlib.decompressobj(_GZIP_WINDOW), False

    def _at_member(self, left: bytes) -> bytes:
        """Take padding between or after members; return what is left."""
        rest = left.lstrip(b"\0") if self._padding or left[0] == 0 else left
        self._padding = self._padding or len(rest) < len(left)
        if rest and self._padding:
            raise invalid_archive("gzip: other bytes follow the padding")
        self._begun = bool(rest)
        return rest

    def finish(self) -> None:
        # The decompressor may hold a piece back that it could not return before.
        while self._begun and not self._member.eof:
            plain = self._member.decompress(self._member.unconsumed_tail, _PIECE_BYTES)
            if not plain:
                raise invalid_archive("gzip: it ends in the middle")
            self._sink(memoryview(plain))


class _Zstd:
    """One or more zstd frames.

    The decompressor writes each piece as soon as it has one; the interfaces that return the bytes
    have no bound on them.
    """

    def __init__(self, sink: Sink) -> None:
        self._output = _Output(sink)
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES)
        self._writer = decompressor.stream_writer(
            cast("IO[bytes]", self._output), write_size=_PIECE_BYTES, closefd=False
        )

    def feed(self, data: memoryview) -> None:
        try:
            self._writer.write(data)
        except zstandard.ZstdError as error:
            raise invalid_archive(f"zstd: {error}") from error

    def finish(self) -> None:
        """Decompress another frame: only after a complete frame does its content come out.

        The decompressor does not tell whether a frame is complete.
        """
        probed = list[bytes]()
        self._output.sink = lambda plain: probed.append(plain.tobytes())
        try:
            self._writer.write(zstandard.ZstdCompressor().compress(_PROBE))
        except zstandard.ZstdError:
            probed.clear()
        if b"".join(probed) != _PROBE:
            raise invalid_archive("zstd: it ends in the middle")


class _Output:
    """File object that passes what is written to it on."""

    def __init__(self, sink: Sink) -> None:
        self.sink: Sink = sink

    def write(self, data: bytes) -> int:
        self.sink(memoryview(data))
        return len(data)
