"""ListDirectory: one page of the entries of a directory, or of all directories below it (DIR-3 to DIR-9, DIR-28)."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Final

from openshell_files_disk.filesystem.errno_reasons import mapped, transfer_error
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MAX_NAME_BYTES, MAX_PATH_BYTES, PAGE_BYTES
from openshell_files_protocol.pb.openshell.v1 import directories_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.directory_requests import ListRequest
from openshell_supervisor_sim.agent.core.wire_numbers import set_time, unsigned
from openshell_supervisor_sim.agent.directories.descent import DIRECTORY, Descent, MovedError, shown_path
from openshell_supervisor_sim.agent.directories.entries import is_staging
from openshell_supervisor_sim.agent.directories.sorted_names import NamesCache, SortedNames
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt, describe, file_type, version
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot

#: How often a page goes on behind its last entry because a directory was moved meanwhile.
_TRIES: Final = 16

#: A directory with a longer path is listed without its content, whose paths would be too long.
_LONGEST_PARENT: Final = MAX_PATH_BYTES - MAX_NAME_BYTES - 1


class Lister:
    """Lists directories. Methods block, and any thread may call them.

    Args:
        root: the sandbox's root.
        fs: system calls.
    """

    def __init__(self, root: SandboxRoot, fs: FileSystem) -> None:
        self._root = root
        self._fs = fs
        self._cache = NamesCache(fs)

    def page(self, request: ListRequest, interrupt: Interrupt) -> directories_pb2.ListDirectoryResponse:
        """Return one page.

        Raises:
            TransferError: FILE_NOT_FOUND, NOT_A_DIRECTORY, PATH_FORBIDDEN, ACCESS_DENIED;
                FILE_CHANGED if directories are moved all the time.
        """
        fd, path = self._open(request.path)
        try:
            status = self._root.refuse_forbidden(fd, path)
            page = _Page(request, self._root, self._fs, self._cache, interrupt, path)
            with mapped(f"listing {path}"):
                for _ in range(_TRIES):
                    try:
                        top = self._fs.open(b".", DIRECTORY, dir_fd=fd)
                        page.fill(top)
                    except MovedError:
                        continue
                    break
                else:
                    raise TransferError(
                        Reason.FILE_CHANGED,
                        f"directories below {path} were moved {_TRIES} times while it was listed",
                    )
        finally:
            self._fs.close(fd)
        page.answer.directory.CopyFrom(describe(status, path))
        return page.answer

    def _open(self, path: str) -> tuple[int, str]:
        found = self._root.locate_directory(path, "path")
        if found is not None:
            return found
        with self._root.locate(path, "path", follow=True, directories=True) as location:
            if location.lstat() is None:
                raise TransferError(Reason.FILE_NOT_FOUND, f"path: {location.path} does not exist")
            raise TransferError(Reason.NOT_A_DIRECTORY, f"path: {location.path} is no directory")


class _Page:
    """The answer, and the walk that fills it."""

    def __init__(
        self,
        request: ListRequest,
        root: SandboxRoot,
        fs: FileSystem,
        cache: NamesCache,
        interrupt: Interrupt,
        path: str,
    ) -> None:
        self._request = request
        self._root = root
        self._fs = fs
        self._cache = cache
        self._interrupt = interrupt
        self._path = path
        self._guarded = root.guarded_places()
        self._behind: Sequence[bytes] = request.behind
        self._bytes = 0
        self.answer = directories_pb2.ListDirectoryResponse()

    def fill(self, top: int) -> None:
        """Add entries behind the last one until the page is full, or until the end.

        Args:
            top: descriptor of the listed directory, which this closes.

        Raises:
            MovedError: call it again; it goes on behind the last entry.
        """
        walk = Descent(self._fs, top)
        try:
            levels = self._resumed(walk)
            while levels:
                self._interrupt.check()
                level = levels[-1]
                name = level.next()
                if name is None:
                    levels.pop()
                    if levels:
                        walk.leave()
                    continue
                entry, status = self._entry(walk, level, name)
                if entry is None:
                    continue
                if not self._added(entry):
                    self.answer.next_page_token = b"/".join(self._behind)
                    return
                self._behind = [*walk.names(), name] if walk.depth else [name]
                if status is not None and self._request.recursive and stat.S_ISDIR(status.st_mode):
                    self._enter(walk, levels, name, self.answer.entries[-1])
        finally:
            walk.close()

    def _resumed(self, walk: Descent) -> list[_Level]:
        """Return the levels down to the last entry, each behind the name that leads there."""
        levels = [self._level(walk)]
        for name in self._behind:
            level = levels[-1]
            level.index = level.names.index_behind(name)
            if not self._request.recursive or self._is_hidden(walk, level, name):
                break
            before = len(levels)
            self._enter(walk, levels, name, directories_pb2.DirectoryEntry())
            if len(levels) == before:
                break
        return levels

    def _level(self, walk: Descent) -> _Level:
        names = self._cache.names(walk.fd, walk.status)
        return _Level(names, self._guarded.names_in(walk.status))

    def _is_hidden(self, walk: Descent, level: _Level, name: bytes) -> bool:
        """Return whether an entry is not listed: a guarded place, or a staging file (DIR-8)."""
        if is_staging(name) or self._guarded.named(level.private, name) is not None:
            return True
        status = self._fs.lstat(name, walk.fd)
        return status is None or self._guarded.at(status) is not None

    def _entry(
        self, walk: Descent, level: _Level, name: bytes
    ) -> tuple[directories_pb2.DirectoryEntry | None, os.stat_result | None]:
        """Describe an entry; None if it is not listed, or vanished."""
        if is_staging(name) or self._guarded.named(level.private, name) is not None:
            return None, None
        shown = b"/".join([*walk.names(), name]) if walk.depth else name
        entry = directories_pb2.DirectoryEntry(name=shown)
        try:
            status = self._fs.lstat(name, walk.fd)
            if status is None or self._guarded.at(status) is not None:
                return None, None
            if stat.S_ISLNK(status.st_mode):
                entry.link_target = self._fs.readlink(name, walk.fd)
        except FileNotFoundError:
            return None, None
        except OSError as error:
            entry.reason = transfer_error(error, "describing an entry").reason.name
            return entry, None
        entry.type = file_type(status)
        entry.size_bytes = unsigned(status.st_size)
        entry.mode = stat.S_IMODE(status.st_mode)
        entry.version = version(status)
        entry.allocated_bytes = unsigned(status.st_blocks * 512)
        set_time(entry.modified_time, status.st_mtime_ns)
        return entry, status

    def _added(self, entry: directories_pb2.DirectoryEntry) -> bool:
        """Add an entry unless the page is full."""
        entries = self.answer.entries
        size = entry.ByteSize() + 8
        if entries and (len(entries) >= self._request.page_size or self._bytes + size > PAGE_BYTES):
            return False
        entries.append(entry)
        self._bytes += size
        return True

    def _enter(
        self, walk: Descent, levels: list[_Level], name: bytes, entry: directories_pb2.DirectoryEntry
    ) -> None:
        """Go on in a directory, or note in its entry why that is impossible (DIR-7)."""
        above = walk.status
        if len(entry.name) > _LONGEST_PARENT:
            entry.reason = Reason.INVALID_PATH.name
            return
        try:
            walk.enter(name)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            entry.reason = transfer_error(error, "entering a directory").reason.name
            return
        try:
            self._refuse_inside(walk, above)
            levels.append(self._level(walk))
        except TransferError as error:
            entry.reason = error.reason.name
        except OSError as error:
            entry.reason = transfer_error(error, "reading a directory").reason.name
        else:
            return
        walk.leave()

    def _refuse_inside(self, walk: Descent, above: os.stat_result) -> None:
        """Refuse a directory of a kernel interface, or one that became guarded since it was described."""
        if walk.status.st_dev != above.st_dev:
            self._root.refuse_forbidden(walk.fd, shown_path(self._path, walk.names()))
        guarded = self._guarded.at(walk.status)
        if guarded is not None:
            raise guarded.refuse(shown_path(self._path, walk.names()))


class _Level:
    """A directory on the way of the walk: its names, and the next of them."""

    __slots__ = ("index", "names", "private")

    def __init__(self, names: SortedNames, private: Sequence[bytes]) -> None:
        self.names = names
        self.private = private
        self.index = 0

    def next(self) -> bytes | None:
        """Return the next name; None at the end."""
        if self.index >= len(self.names):
            return None
        self.index += 1
        return self.names[self.index - 1]
