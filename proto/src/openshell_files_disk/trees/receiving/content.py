"""Content of needed files: staged, compared with its digest, put in place (TRE-37 to TRE-43, TRE-45)."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from typing import Final

from openshell_files_protocol.digests import HASHERS, ContentHasher
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.limits import DIGEST_BYTES, MAX_OPEN_ENTRIES
from openshell_files_protocol.pb.openshell.v1 import trees_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.receiving.directories import Directory
from openshell_files_disk.trees.receiving.errors import EntryError
from openshell_files_disk.trees.receiving.reception import Reception

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW

#: What is repeated of a sender's reason.
_REASON_CHARACTERS: Final = 64
_MESSAGE_CHARACTERS: Final = 1024

#: A file system that refuses a time keeps its own; see docs/adr/0032.
_REFUSED_TIME: Final = frozenset({errno.EINVAL, errno.EOVERFLOW, errno.ERANGE})


class NeededFile:
    """A file whose content is needed.

    Attributes:
        number: of the entry.
        path: of the file.
        directory: that it is in.
        size: announced size.
        mode: permission bits.
        modified_ns: modified time.
        fd: descriptor of the staged file; -1 before the first and after the last part.
        offset: bytes that came, holes included.
        hasher: of these bytes.
        problem: why the file will not be in place; what comes of it is dropped.
        replaced: a later entry has its name; it is dropped, and that is no problem.
        waiting: called when it is in place, or not.
    """

    __slots__ = (
        "directory",
        "fd",
        "hasher",
        "mode",
        "modified_ns",
        "number",
        "offset",
        "path",
        "problem",
        "replaced",
        "size",
        "waiting",
    )

    def __init__(
        self, number: int, path: bytes, directory: Directory, size: int, mode: int, modified_ns: int
    ) -> None:
        self.number = number
        self.path = path
        self.directory = directory
        self.size = size
        self.mode = mode
        self.modified_ns = modified_ns
        self.fd = -1
        self.offset = 0
        self.hasher: ContentHasher | None = None
        self.problem: OSError | EntryError | None = None
        self.replaced = False
        self.waiting: list[Callable[[], None]] | None = None


def set_times(fs: FileSystem, fd: int, accessed_ns: int, modified_ns: int) -> None:
    """Set the times of a file as far as its file system has them.

    Raises:
        OSError: the times cannot be set at all.
    """
    try:
        fs.set_times(fd, accessed_ns, modified_ns)
    except OverflowError:
        return
    except OSError as error:
        if error.errno not in _REFUSED_TIME:
            raise


class Contents:
    """The files whose content is needed, in the order in which it comes.

    Args:
        reception: of the tree.
        release: called with the directory of a file that is complete.
    """

    def __init__(self, reception: Reception, release: Callable[[Directory], None]) -> None:
        self._reception = reception
        self._release = release
        self._queue: deque[NeededFile] = deque()
        self._by_path: dict[bytes, NeededFile] = {}
        self._hasher = HASHERS[reception.algorithm]

    def need(self, file: NeededFile) -> None:
        """Ask for the content of a file.

        Raises:
            TransferError: INVALID_REQUEST, the sender does not wait for decisions (TRE-5).
        """
        queue = self._queue
        if len(queue) >= MAX_OPEN_ENTRIES:
            raise invalid(
                "manifest.entries",
                f"entry {file.number} was announced while {len(queue)} entries are open, at most "
                f"{MAX_OPEN_ENTRIES} are allowed (TRE-5)",
            )
        queue.append(file)
        self._by_path[file.path] = file
        file.directory.pending += 1
        self._reception.reply.needed.append(file.number)

    def at(self, path: bytes) -> NeededFile | None:
        """Return the file with a path whose content is still to come."""
        return self._by_path.get(path)

    @property
    def missing(self) -> int | None:
        """Number of the first entry whose content is not complete."""
        return self._queue[0].number if self._queue else None

    def take(self, content: trees_pb2.TreeContent) -> None:
        """Take parts of content.

        Raises:
            TransferError: INVALID_REQUEST for a violation; DISK_FULL and others of TRE-59.
        """
        queue = self._queue
        for part in content.parts:
            number = part.entry
            if not queue or queue[0].number != number:
                raise self._unexpected(number)
            file = queue[0]
            if part.offset != file.offset:
                raise _violation(
                    number, f"has a part at offset {part.offset}, and {file.offset} bytes came (TRE-37)"
                )
            reason = part.reason
            if reason:
                self._drop(file)
                self._complete(file, reason[:_REASON_CHARACTERS], part.message[:_MESSAGE_CHARACTERS])
                continue
            data, hole, last = part.data, part.hole_bytes, part.last
            end = file.offset + len(data) + hole
            if end > file.size:
                raise _violation(
                    number, f"has content of at least {end} bytes, and {file.size} were announced (TRE-39)"
                )
            digest = part.digest
            if last and len(digest) != DIGEST_BYTES:
                raise _violation(
                    number,
                    f"has a digest of {len(digest)} bytes with its last part, not {DIGEST_BYTES} (TRE-38)",
                )
            if file.problem is None and not file.replaced:
                try:
                    self._write(file, data, hole)
                    if last:
                        self._finish(file, end, digest)
                except (OSError, EntryError) as error:
                    self._drop(file)
                    file.problem = error
            file.offset = end
            if last:
                self._complete(file, "", "")
            elif isinstance(file.problem, OSError) and file.problem.errno in {errno.ENOSPC, errno.EDQUOT}:
                # A large file need not come completely before that is told.
                self._complete(file, "", "")

    def _unexpected(self, number: int) -> TransferError:
        if number >= self._reception.announced:
            return _violation(number, "has content, and was not announced (TRE-6)")
        if not self._queue:
            return _violation(number, "has content that is not needed (TRE-31)")
        return _violation(
            number,
            f"has content, and that of entry {self._queue[0].number} comes next, in the order of numbers (TRE-37)",
        )

    def _write(self, file: NeededFile, data: bytes, hole: int) -> None:
        reception = self._reception
        fs = reception.fs
        if file.fd < 0:
            staging = reception.staging
            if staging is None:
                raise AssertionError("no content is needed in a dry run")
            file.fd = fs.open(b"%d" % file.number, _NEW_FILE, dir_fd=staging.fd)
            file.hasher = ContentHasher(self._hasher())
        hasher = file.hasher
        if hasher is None:
            raise AssertionError("an open file has a hasher")
        if data:
            hasher.update(data)
            offset = file.offset
            written = fs.pwrite(file.fd, data, offset)
            while written < len(data):
                rest = memoryview(data)[written:]
                written += fs.pwrite(file.fd, rest, offset + written)
        if hole:
            hasher.zeros(hole, reception.options.check)
            fs.truncate(file.fd, file.offset + len(data) + hole)

    def _finish(self, file: NeededFile, size: int, digest: bytes) -> None:
        """Compare, and put the file in place."""
        reception = self._reception
        fs, fd, hasher = reception.fs, file.fd, file.hasher
        if size != file.size:
            raise EntryError(Reason.SIZE_MISMATCH, f"{size} bytes came, and {file.size} were announced")
        if hasher is None or hasher.value() != digest:
            raise EntryError(
                Reason.DIGEST_MISMATCH, "the content that came has another digest than the sender's"
            )
        fs.chmod(fd, file.mode)
        try:
            fs.set_times(fd, reception.now_ns, file.modified_ns)
        except (OSError, OverflowError):
            set_times(fs, fd, reception.now_ns, file.modified_ns)
        file.fd = -1
        fs.close(fd)
        place(reception, file.number, file.path, file.directory)

    def _drop(self, file: NeededFile) -> None:
        """Remove what is staged of a file."""
        if file.fd >= 0:
            fd, file.fd = file.fd, -1
            self._reception.fs.close(fd)
        staging = self._reception.staging
        if staging is not None:
            try:
                self._reception.fs.unlink(b"%d" % file.number, staging.fd)
            except OSError:
                return  # It goes with the staging directory.

    def _complete(self, file: NeededFile, reason: str, message: str) -> None:
        """End a file, with a reason of the sender or as it is."""
        reception = self._reception
        self._queue.popleft()
        if self._by_path.get(file.path) is file:
            del self._by_path[file.path]
        if reason:
            reception.problem(file.number, reason, message)
            reception.not_placed.add(file.path)
        elif file.problem is not None:
            reception.not_placed.add(file.path)
            reception.failed(file.number, file.problem, "writing the file")
        elif not file.replaced:
            reception.reply.changed.append(file.number)
        for ready in file.waiting or ():
            ready()
        self._release(file.directory)

    def close(self) -> None:
        """Close the staged file that is open."""
        for file in self._queue:
            if file.fd >= 0:
                fd, file.fd = file.fd, -1
                self._reception.fs.close(fd)
        self._queue.clear()
        self._by_path.clear()


def place(reception: Reception, number: int, path: bytes, directory: Directory) -> None:
    """Give a staged file or link its name.

    Args:
        reception: of the tree.
        number: of the entry, which is the staged name.
        path: of the entry.
        directory: that it is in.

    Raises:
        OSError: it could not get its name.
        EntryError: a directory is in the way.
    """
    staging, placing = reception.staging, reception.placing
    if staging is None or placing is None:
        raise AssertionError("nothing is put in place in a dry run")
    parent, _, name = path.rpartition(b"/")
    dir_fd = opened(placing.directory, parent)
    staged = b"%d" % number
    try:
        reception.fs.move(staging.fd, staged, dir_fd, name)
    except IsADirectoryError as error:
        if not reception.options.delete_others:
            raise EntryError(Reason.IS_A_DIRECTORY, "a directory is in its place") from error
        if not reception.remove(name, dir_fd, path, directory.private):
            raise EntryError(
                Reason.IS_A_DIRECTORY, "a directory with a mount point or a forbidden place is in its place"
            ) from error
        reception.fs.move(staging.fd, staged, dir_fd, name)
    reception.trace("tree.entry_placed")


def opened(open_: Callable[[bytes], int], path: bytes) -> int:
    """Open a directory below the top directory that the tree has.

    Raises:
        OSError: EACCES, EMFILE and others.
        EntryError: MOUNT_POINT, or FILE_CHANGED because it is no directory any more.
    """
    try:
        return open_(path)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise EntryError(Reason.MOUNT_POINT, "its directory is a mount point, or below one") from error
        if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.ENOENT}:
            raise EntryError(
                Reason.FILE_CHANGED, "another program replaced its directory while the tree was received"
            ) from error
        raise


def _violation(number: int, what: str) -> TransferError:
    return invalid("content.parts", f"entry {number} {what}")
