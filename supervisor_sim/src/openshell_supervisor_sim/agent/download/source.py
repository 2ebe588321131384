"""The file of a download, read in pieces and with its holes (DWN-5, DWN-7)."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass

from openshell_files_disk.filesystem.errno_reasons import mapped
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.digests import DigestHasher
from openshell_files_protocol.pb.openshell.v1 import files_pb2

from openshell_supervisor_sim.agent.core.digest_choice import choose
from openshell_supervisor_sim.agent.core.download import (
    Span,
    changed_error,
    check_version,
    next_piece,
    piece_bytes,
    span,
)
from openshell_supervisor_sim.agent.core.limits import Limits
from openshell_supervisor_sim.agent.core.requests import DownloadRequest
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt, describe, same_file, version
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot
from openshell_supervisor_sim.agent.trace_points import Trace, TracePoint


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes of the file.

    Attributes:
        offset: of the first.
        data: no other code changes it.
        crc32c: of `data`; 0 for an unchecked download.
    """

    offset: int
    data: memoryview
    crc32c: int


@dataclass(frozen=True, slots=True)
class Hole:
    """Zero bytes that need no storage."""

    offset: int
    length: int


class DownloadSource:
    """An open file that a download reads. Methods block; close it after use.

    Args:
        root: the sandbox's root.
        request: of the caller.
        limits: of this operation.
        fs: system calls.
        trace: hook, see `TracePoint`.
        interrupt: stops long computations.

    Raises:
        TransferError: the file cannot be sent.
    """

    def __init__(
        self,
        root: SandboxRoot,
        request: DownloadRequest,
        limits: Limits,
        fs: FileSystem,
        trace: Trace,
        interrupt: Interrupt,
    ) -> None:
        self._fs = fs
        self._request = request
        self._trace = trace
        self._piece_bytes = piece_bytes(request, limits)
        self.interrupt = interrupt
        self._pieces = 0
        # An unchecked download carries no digest (DIG-20).
        self._hasher: DigestHasher | None = None
        if request.checked:
            self._hasher = DigestHasher(choose("accepted_digests", request.digests, limits.digests))
        self._data_from = self._data_to = 0
        with root.locate(request.path, "remote_path", follow=request.follow_link) as location:
            self.path = location.path
            self._fd = root.open_regular(location)
        try:
            with mapped(f"looking at {self.path}"):
                self._opened = fs.fstat(self._fd)
            check_version(request, version(self._opened))
            self._span: Span = span(request, self._opened.st_size)
            trace(TracePoint.DOWNLOAD_OPENED)
        except BaseException:
            self.close()
            raise
        self._position = self._span.start
        self._end = self._span.end
        self._sparse = self._opened.st_blocks * 512 < self._opened.st_size

    def close(self) -> None:
        """Close the file; more than once is fine."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._fs.close(fd)

    @property
    def closed(self) -> bool:
        """True if the file is closed."""
        return self._fd < 0

    @property
    def exhausted(self) -> bool:
        """True if everything was read."""
        return self._position >= self._end

    @property
    def bytes_sent(self) -> int:
        """Bytes of the file that `read` returned."""
        return self._position - self._span.start

    def header(self) -> files_pb2.DownloadFileHeader:
        """Return the first message (DWN-1)."""
        info = describe(self._opened, self.path)
        header = files_pb2.DownloadFileHeader(
            size_bytes=info.size_bytes, mode=info.mode, file=info, start_offset=self._span.start
        )
        if self._hasher is not None:
            header.digest_algorithm = self._hasher.algorithm.wire
        return header

    def read(self, budget: int) -> Sequence[Content | Hole]:
        """Return the next pieces, about `budget` bytes; none at the end.

        Raises:
            TransferError: FILE_CHANGED, IO_ERROR.
        """
        pieces: list[Content | Hole] = []
        while budget > 0 and self._position < self._end:
            piece = self._read_piece()
            if piece is None:
                break
            if not self._pieces:
                self._trace(TracePoint.DOWNLOAD_FIRST_CHUNK)
            self._pieces += 1
            self._trace(TracePoint.DOWNLOAD_CHUNK)
            pieces.append(piece)
            if isinstance(piece, Hole):
                # Its zeros take long to hash, so this small frame goes out before more is read.
                break
            budget -= len(piece.data)
        return pieces

    def _read_piece(self) -> Content | Hole | None:
        offset = self._position
        data_at = self._data_at(offset) if self._sparse and self._hasher is not None else offset
        piece = next_piece(offset, self._end, data_at, self._piece_bytes)
        if piece.hole and self._hasher is not None:
            if self._fs.fstat(self._fd).st_size < offset + piece.length:
                # A hole up to the old end of the file may mean that the file was shortened.
                self._cut_short()
                return None
            self._hasher.zeros(piece.length, self.interrupt.check)
            self._position += piece.length
            return Hole(offset, piece.length)
        buffer = memoryview(bytearray(piece.length))
        filled = 0
        with mapped(f"reading {self.path}"):
            while filled < piece.length:
                count = self._fs.preadv(self._fd, buffer[filled:], offset + filled)
                if not count:
                    break
                filled += count
        if filled < piece.length:
            self._cut_short()
            self._end = offset + filled
            if not filled:
                return None
        data = buffer[:filled].toreadonly()
        self._position += filled
        if self._hasher is None:
            return Content(offset, data, 0)
        self._hasher.update(data)
        return Content(offset, data, crc32c(data))

    def _cut_short(self) -> None:
        """Handle a file that ends too early."""
        if not (self._request.allow_change and self._request.checked):
            raise changed_error(self.path)
        self._end = self._position

    def _data_at(self, offset: int) -> int:
        """Return where content begins at or after `offset`."""
        if self._data_from <= offset and offset + self._piece_bytes <= self._data_to:
            return offset
        if offset < self._data_from:
            return self._data_from
        with mapped(f"reading {self.path}"):
            try:
                self._data_from = self._fs.seek_data(self._fd, offset)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    self._sparse = False
                    return offset
                if error.errno != errno.ENXIO:
                    raise
                self._data_from = self._data_to = self._end
            else:
                self._data_to = self._fs.seek_hole(self._fd, self._data_from)
        return self._data_from

    def trailer(self) -> files_pb2.DownloadTrailer:
        """Check that the file did not change, and return the last message (DWN-9, DWN-14, DWN-15).

        Raises:
            TransferError: FILE_CHANGED.
        """
        self._trace(TracePoint.DOWNLOAD_BEFORE_TRAILER)
        with mapped(f"looking at {self.path}"):
            now: os.stat_result = self._fs.fstat(self._fd)
        changed = not same_file(self._opened, now)
        if changed and not self._request.allow_change:
            raise changed_error(self.path)
        whole = self._span.start == 0 and self._position == now.st_size
        digest = None if self._hasher is None else self._hasher.digest()
        return files_pb2.DownloadTrailer(
            end_offset=self._position,
            digest=digest.message if digest is not None else None,
            whole_file=whole,
            changed=changed,
            file=describe(now, self.path, digest if whole and not changed else None),
        )
