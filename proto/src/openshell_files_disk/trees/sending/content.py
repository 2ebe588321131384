"""The content of needed files, in parts that share messages (TRE-37, TRE-38, TRE-41, TRE-43)."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Generator
from typing import Final

from openshell_files_protocol.digests import HASHERS, ContentHasher, DigestAlgorithm
from openshell_files_protocol.limits import KIB, MIB
from openshell_files_protocol.pb.openshell.v1 import trees_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_disk.filesystem.errno_reasons import transfer_error
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.opening import Beneath
from openshell_files_disk.trees.sending.described import Source, shown_path

#: Content of one message. It leaves room for the headers of its parts below the limit of 1 MiB.
MESSAGE_BYTES: Final = 768 * KIB

#: Bytes that a part takes besides its content: number, offset, digest.
_PART_BYTES: Final = 64

#: Longest hole of one part, and size of the holes that end a message: hashing such zeros takes a tenth of a second.
HOLE_BYTES: Final = 256 * MIB

#: Content after which the computation of digests pauses, so that no call takes long.
DIGESTED_BYTES: Final = 64 * MIB

_BLOCK: Final = 512


class _Reading:
    """A file whose content is being sent."""

    def __init__(self, number: int, source: Source, fd: int, algorithm: DigestAlgorithm) -> None:
        self.number = number
        self.source = source
        self.fd = fd
        self.offset = 0
        self.hasher = ContentHasher(HASHERS[algorithm]())
        self.sparse = False


class Content:
    """Reads needed files, one after the other. Methods block.

    Args:
        fs: system calls.
        beneath: opens what is below the top directory.
        shown: path of the top directory, for messages.

    Attributes:
        algorithm: of the digests.
        sent_bytes: content in parts so far, without holes.
    """

    def __init__(self, fs: FileSystem, beneath: Beneath, shown: str) -> None:
        self._fs = fs
        self._beneath = beneath
        self._shown = shown
        self._reading: _Reading | None = None
        self._digested = 0
        self.algorithm = DigestAlgorithm.BLAKE3
        self.sent_bytes = 0

    @property
    def reading(self) -> bool:
        """True if the last message ended in the middle of a file."""
        return self._reading is not None

    def close(self) -> None:
        """Close the file that is read; more than once is fine."""
        if self._reading is not None:
            reading, self._reading = self._reading, None
            self._fs.close(reading.fd)

    def message(self, needed: deque[tuple[int, Source]]) -> tuple[trees_pb2.TreeContent, int]:
        """Return the next message, and the number of files that it completes.

        Args:
            needed: numbers and sources of files; those that are begun are removed.
        """
        content = trees_pb2.TreeContent()
        room, completed, zeros = MESSAGE_BYTES, 0, 0
        while room > 0 and (self._reading is not None or needed):
            if self._reading is None:
                number, source = needed.popleft()
                part = content.parts.add(entry=number)
                ended = self._begin(part, number, source, room)
            else:
                part = content.parts.add(entry=self._reading.number)
                ended = self._read_on(part, self._reading, room)
            completed += ended
            self.sent_bytes += len(part.data)
            room -= len(part.data) + (part.ByteSize() if part.reason else 0) + _PART_BYTES
            zeros += part.hole_bytes
            if zeros >= HOLE_BYTES:
                break
        return content, completed

    def digest(self, source: Source) -> Generator[None, None, trees_pb2.TreePart]:
        """Compute the digest of a file's content (TRE-8). Yields after each 64 MiB, of one or more files.

        Returns:
            A part with the digest, or with the reason why there is none.
        """
        part = trees_pb2.TreePart()
        try:
            reading = _Reading(0, source, self._beneath.open_file(source.path), self.algorithm)
        except OSError as error:
            self._fail(part, source, error)
            return part
        try:
            while not self._read_digested(part, reading):
                if self._digested >= DIGESTED_BYTES:
                    self._digested = 0
                    yield
        finally:
            self._fs.close(reading.fd)
        return part

    def _read_digested(self, part: trees_pb2.TreePart, reading: _Reading) -> bool:
        """Add the next bytes of a file to its digest; return whether it is complete."""
        part.Clear()
        try:
            if reading.offset or self._is_begun(part, reading):
                self._read(part, reading, MIB)
        except OSError as error:
            self._fail(part, reading.source, error)
        self._digested += len(part.data) + part.hole_bytes
        return part.last or bool(part.reason)

    def _is_begun(self, part: trees_pb2.TreePart, reading: _Reading) -> bool:
        """Compare an opened file with its announcement before its first byte is read (TRE-41)."""
        status = self._fs.fstat(reading.fd)
        if not reading.source.is_as_announced(status):
            self._changed(part, reading.source)
            return False
        reading.sparse = status.st_blocks * _BLOCK < status.st_size
        return True

    def _begin(self, part: trees_pb2.TreePart, number: int, source: Source, room: int) -> bool:
        """Open a file and read its first part; return whether that is its last."""
        try:
            fd = self._beneath.open_file(source.path)
        except OSError as error:
            self._fail(part, source, error)
            return True
        try:
            if source.size <= room and not self._is_sparse_file(fd, source):
                # Most files of most trees: no state is kept for them.
                self._read_whole(part, fd, source)
                self._fs.close(fd)
                return True
        except OSError as error:
            self._fs.close(fd)
            self._fail(part, source, error)
            return True
        self._reading = _Reading(number, source, fd, self.algorithm)
        return self._read_on(part, self._reading, room)

    def _read_whole(self, part: trees_pb2.TreePart, fd: int, source: Source) -> None:
        data = self._fs.pread(fd, source.size, 0) if source.size else b""
        while len(data) < source.size and (more := self._fs.pread(fd, source.size - len(data), len(data))):
            data += more
        if len(data) < source.size or not source.is_as_announced(self._fs.fstat(fd)):
            self._changed(part, source)
            return
        part.data = data
        hasher = HASHERS[self.algorithm]()
        hasher.update(data)
        part.digest = hasher.digest()
        part.last = True

    def _is_sparse_file(self, fd: int, source: Source) -> bool:
        """Compare an opened file with its announcement, and return whether it has holes.

        Raises:
            OSError: its status cannot be read.
        """
        status = self._fs.fstat(fd)
        return not source.is_as_announced(status) or status.st_blocks * _BLOCK < status.st_size

    def _read_on(self, part: trees_pb2.TreePart, reading: _Reading, room: int) -> bool:
        """Read the next part of a file; return whether it is the last."""
        try:
            if reading.offset or self._is_begun(part, reading):
                self._read(part, reading, room)
        except OSError as error:
            self._fail(part, reading.source, error)
        if part.last or part.reason:
            self.close()
            return True
        return False

    def _read(self, part: trees_pb2.TreePart, reading: _Reading, room: int) -> None:
        source, size = reading.source, reading.source.size
        part.offset = reading.offset
        end = size
        if reading.sparse and reading.offset < size:
            start = self._data_from(reading)
            if start > reading.offset:
                part.hole_bytes = min(start - reading.offset, HOLE_BYTES)
                reading.hasher.zeros(part.hole_bytes)
                reading.offset += part.hole_bytes
                self._end(part, reading)
                return
            end = min(size, self._fs.seek_hole(reading.fd, reading.offset))
        if reading.offset < size:
            data = self._fs.pread(reading.fd, min(room, end - reading.offset), reading.offset)
            if not data:
                self._changed(part, source)
                return
            part.data = data
            reading.hasher.update(data)
            reading.offset += len(data)
        self._end(part, reading)

    def _end(self, part: trees_pb2.TreePart, reading: _Reading) -> None:
        """Make the part the last if the file is complete."""
        if reading.offset < reading.source.size:
            return
        if not reading.source.is_as_announced(self._fs.fstat(reading.fd)):
            self._changed(part, reading.source)
            return
        part.digest = reading.hasher.value()
        part.last = True

    def _data_from(self, reading: _Reading) -> int:
        """Return where content begins at or after the offset; the file's size if there is none."""
        try:
            return self._fs.seek_data(reading.fd, reading.offset)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return reading.source.size
            if error.errno in {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
                # The file system does not tell where its holes are.
                reading.sparse = False
                return reading.offset
            raise

    def _changed(self, part: trees_pb2.TreePart, source: Source) -> None:
        _refuse(part, Reason.FILE_CHANGED, f"{self._at(source)} changed while the tree was read")

    def _fail(self, part: trees_pb2.TreePart, source: Source, error: OSError) -> None:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ENXIO}:
            self._changed(part, source)
            return
        refused = transfer_error(error, f"reading {self._at(source)}")
        _refuse(part, refused.reason, refused.message)

    def _at(self, source: Source) -> str:
        return shown_path(self._shown, source.path)


def _refuse(part: trees_pb2.TreePart, reason: Reason, message: str) -> None:
    """Make a part the last of a file that cannot be sent completely (TRE-42)."""
    number, offset = part.entry, part.offset
    part.Clear()
    part.entry, part.offset = number, offset
    part.reason = reason.name
    part.message = message
