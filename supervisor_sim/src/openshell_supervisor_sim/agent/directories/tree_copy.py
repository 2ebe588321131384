"""A directory with its content, copied into a staged directory (DIR-24, DIR-30, DIR-32)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from openshell_files_disk.filesystem.errno_reasons import transfer_error
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.directories.descent import Descent, MovedError, open_below
from openshell_supervisor_sim.agent.directories.entries import is_staging, with_facts
from openshell_supervisor_sim.agent.directories.file_copy import CopiedBytes, FileCopy
from openshell_supervisor_sim.agent.filesystem.file_info import same_inode
from openshell_supervisor_sim.agent.paths.location import Location
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot
from openshell_supervisor_sim.agent.trace_points import Trace, TracePoint

#: Directories below each other that are copied; each takes some memory.
MOST_LEVELS: Final = 4096

#: Why a file that was looked at cannot be opened if an entry of another type took its name.
_OTHER_TYPE: Final = frozenset({Reason.LEAF_IS_LINK, Reason.IS_A_DIRECTORY})

_NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


@dataclass(slots=True)
class _Linked:
    """The copy of a file with several names, of which some are still to come."""

    path: bytes
    copy: os.stat_result
    to_come: int


class TreeCopy:
    """Copies the content of one directory into another, entry by entry. Methods block.

    Modes, modified times, links, and hard links within the tree are kept. Both directories are walked by
    descriptors.

    Args:
        root: the sandbox's root.
        fs: system calls.
        source: walk at the source; the caller closes it.
        staged: walk at the empty staged directory; the caller closes it.
        path: of the source, for errors.
        counts: gets the counts of bytes.
        trace: hook, see `TracePoint`.

    Attributes:
        entries: copied entries, the directory itself included.
    """

    def __init__(
        self,
        root: SandboxRoot,
        fs: FileSystem,
        source: Descent,
        staged: Descent,
        path: str,
        counts: CopiedBytes,
        trace: Trace,
    ) -> None:
        self._root = root
        self._fs = fs
        self._source = source
        self._staged = staged
        self._path = path
        self._counts = counts
        self._trace = trace
        self._guarded = root.guarded_places()
        self._top = fs.duplicate(staged.fd)
        #: Directories still to be copied, for each level of the walk.
        self._levels: list[list[bytes]] = []
        self._linked: dict[tuple[int, int], _Linked] = {}
        self._at = b""
        self.entries = 1

    def steps(self) -> Generator[None]:
        """Copy everything, one entry or some MiB per step.

        Raises:
            TransferError: the metadata has the path of the entry that could not be copied.
        """
        try:
            yield from self._walk()
        except OSError as error:
            path = self._shown()
            raise with_facts(transfer_error(error, f"copying {path}"), path) from error
        except TransferError as error:
            raise with_facts(error, self._shown()) from error
        except MovedError:
            path = self._shown()
            raise with_facts(
                TransferError(Reason.FILE_CHANGED, f"a directory in {path} was moved while it was copied"),
                path,
            ) from None
        finally:
            self._fs.close(self._top)

    def _shown(self) -> str:
        return self._source.shown(self._path, *filter(None, [self._at]))

    def _walk(self) -> Generator[None]:
        yield from self._scan()
        while self._levels:
            if names := self._levels[-1]:
                if self._enter(names.pop()):
                    yield from self._scan()
                continue
            self._levels.pop()
            self._finish_directory()
            if self._levels:
                self._source.leave()
                self._staged.leave()

    def _enter(self, name: bytes) -> bool:
        """Make a directory and enter it; return False if the source has vanished."""
        self._at = name
        try:
            self._source.enter(name)
        except FileNotFoundError:
            return False
        except NotADirectoryError as error:
            raise self._replaced() from error
        self._at = b""
        # No kernel interface is entered either: it is a mount of its own.
        self._source.refuse_other_mount(self._path)
        guarded = self._guarded.at(self._source.status)
        if guarded is not None:
            raise guarded.refuse(self._shown())
        if len(self._levels) >= MOST_LEVELS:
            raise TransferError(
                Reason.INVALID_PATH,
                f"{self._shown()} is deeper than {MOST_LEVELS} directories, which are copied at most",
            )
        self._fs.mkdir(name, self._staged.fd, 0o700)
        self._staged.enter(name)
        self.entries += 1
        return True

    def _finish_directory(self) -> None:
        """Give the current directory its mode and time, which its content would have changed."""
        status = self._fs.fstat(self._source.fd)
        self._fs.set_modified(self._staged.fd, status.st_mtime_ns)
        self._fs.chmod(self._staged.fd, stat.S_IMODE(status.st_mode) & 0o777)

    def _scan(self) -> Generator[None]:
        """Copy the files and links of the current directory; its directories wait."""
        waiting: list[bytes] = []
        private = self._guarded.names_in(self._source.status)
        with self._fs.scan(self._source.fd) as entries:
            for entry in entries:
                self._at = name = os.fsencode(entry.name)
                if is_staging(name):
                    continue
                if (guarded := self._guarded.named(private, name)) is not None:
                    raise guarded.refuse(self._shown())
                status = self._fs.lstat(name, self._source.fd)
                if status is None:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(name)
                    continue
                yield from self._entry(name, status)
                self._trace(TracePoint.ENTRY_COPIED)
                yield
        self._levels.append(waiting)
        self._at = b""

    def _replaced(self) -> TransferError:
        return TransferError(Reason.FILE_CHANGED, f"{self._shown()} was replaced while it was copied")

    def _entry(self, name: bytes, status: os.stat_result) -> Generator[None]:
        """Copy a file or a link, unless it has vanished since it was looked at."""
        if stat.S_ISLNK(status.st_mode):
            try:
                target = self._fs.readlink(name, self._source.fd)
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                raise self._replaced() from error
            self._fs.symlink(target, name, self._staged.fd)
            self._fs.set_link_time(name, self._staged.fd, status.st_mtime_ns)
        elif not stat.S_ISREG(status.st_mode):
            raise TransferError(
                Reason.NOT_A_REGULAR_FILE, f"{self._shown()} is a FIFO, socket or device, which is not copied"
            )
        elif not self._linked_again(name, status):
            try:
                source = self._root.open_regular(Location(self._fs, self._source.fd, b"", name))
            except TransferError as error:
                if error.reason is Reason.FILE_NOT_FOUND:
                    return
                if error.reason in _OTHER_TYPE:
                    raise self._replaced() from error
                raise
            yield from self._file(name, status, source)
        self.entries += 1

    def _file(self, name: bytes, status: os.stat_result, source: int) -> Generator[None]:
        """Copy an open file; closes it."""
        try:
            opened = self._fs.fstat(source)
            copy = self._fs.open(name, _NEW_FILE, dir_fd=self._staged.fd)
            try:
                yield from FileCopy(self._fs, source, copy, self._counts, self._shown()).steps()
                self._fs.chmod(copy, stat.S_IMODE(opened.st_mode) & 0o777)
                self._fs.set_modified(copy, opened.st_mtime_ns)
                if opened.st_nlink > 1 and same_inode(opened, status):
                    path = b"/".join([*self._staged.names(), name])
                    self._linked[opened.st_dev, opened.st_ino] = _Linked(
                        path, self._fs.fstat(copy), opened.st_nlink - 1
                    )
            finally:
                self._fs.close(copy)
        finally:
            self._fs.close(source)

    def _linked_again(self, name: bytes, status: os.stat_result) -> bool:
        """Link a further name of a file to the copy of its first; return False if there is none."""
        key = (status.st_dev, status.st_ino)
        linked = self._linked.get(key)
        if linked is None:
            return False
        *parents, first = linked.path.split(b"/")
        parent = open_below(self._fs, self._top, parents)
        try:
            self._fs.link_between(parent, first, self._staged.fd, name)
        finally:
            self._fs.close(parent)
        made = self._fs.lstat(name, self._staged.fd)
        if made is None or not same_inode(made, linked.copy):
            raise TransferError(
                Reason.FILE_CHANGED, f"the copy of {self._shown()} was replaced by another program"
            )
        linked.to_come -= 1
        if not linked.to_come:
            del self._linked[key]
        return True
