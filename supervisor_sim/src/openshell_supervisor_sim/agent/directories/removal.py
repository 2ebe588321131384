"""RemovePath: an entry, or a directory with its content (DIR-10 to DIR-13, DIR-17 to DIR-19)."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import Final

from openshell_files_disk.filesystem.errno_reasons import mapped, transfer_error
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import STAGING_PREFIX
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.directory_requests import RemoveRequest
from openshell_supervisor_sim.agent.directories.descent import Descent, MovedError, open_top
from openshell_supervisor_sim.agent.directories.entries import (
    is_staging,
    refuse_entry,
    require_named_as_directory,
    require_version,
    with_facts,
)
from openshell_supervisor_sim.agent.filesystem.file_info import same_inode
from openshell_supervisor_sim.agent.paths.guard import GuardedPlaces
from openshell_supervisor_sim.agent.paths.location import Location, sync_directory
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot
from openshell_supervisor_sim.agent.store.destination_locks import DestinationLocks
from openshell_supervisor_sim.agent.trace_points import Trace, TracePoint, no_trace

#: Names of directories that wait to be emptied, of all levels of a walk.
_MOST_WAITING: Final = 4096

#: How often a directory that was emptied gets new entries before the removal gives up.
MOST_TRIES: Final = 64

#: Reasons for a path that names nothing.
_MISSING: Final = frozenset({Reason.PARENT_NOT_FOUND, Reason.NOT_A_DIRECTORY, Reason.FILE_NOT_FOUND})


class Removal:
    """One RemovePath, step by step. Methods block.

    Args:
        root: the sandbox's root.
        fs: system calls.
        locks: of destinations, for `if_version`.
        request: of the caller.
        trace: hook, see `TracePoint`.

    Attributes:
        removed: entries removed so far.
    """

    def __init__(
        self,
        root: SandboxRoot,
        fs: FileSystem,
        locks: DestinationLocks,
        request: RemoveRequest,
        trace: Trace,
    ) -> None:
        self._root = root
        self._fs = fs
        self._locks = locks
        self._request = request
        self._trace = trace
        self._tree: TreeRemoval | None = None
        self._single = 0

    @property
    def removed(self) -> int:
        """Entries removed so far."""
        return self._single + (self._tree.removed if self._tree is not None else 0)

    def steps(self) -> Generator[None]:
        """Remove the entry, one entry below it per step.

        Raises:
            TransferError: the metadata has the path that could not be removed, and `removed_entries`.
        """
        request = self._request
        try:
            location = self._root.locate(request.path, "path", directories=True)
        except TransferError as error:
            if request.missing_ok and error.reason in _MISSING:
                return
            raise
        with location:
            status = location.lstat()
            if status is None:
                if request.missing_ok:
                    return
                raise TransferError(Reason.FILE_NOT_FOUND, f"path: {location.path} does not exist")
            require_named_as_directory(location, "path", request.path, status)
            try:
                with mapped(f"removing {location.path}"):
                    refuse_entry(self._root, location, status, leaves=True)
                    if stat.S_ISDIR(status.st_mode) and request.recursive:
                        yield from self._directory(location, status)
                    else:
                        self._entry(location)
            except TransferError as error:
                # Another program may have removed it meanwhile.
                gone = error.reason is Reason.FILE_NOT_FOUND and location.lstat() is None
                if not (request.missing_ok and gone):
                    raise with_facts(error, location.path, removed_entries=self.removed) from error
            sync_directory(self._fs, location.parent_fd)

    def _entry(self, location: Location) -> None:
        """Remove a file, a link or an empty directory."""
        with self._locks.hold(location):
            status = self._fs.lstat(location.name, location.parent_fd)
            if status is None:
                return
            require_version(location, "path", status, self._request.if_version)
            if not stat.S_ISDIR(status.st_mode):
                self._fs.remove_file(location.name, location.parent_fd)
            else:
                self._empty_directory(location)
        self._single += 1

    def _empty_directory(self, location: Location) -> None:
        try:
            self._fs.remove_directory(location.name, location.parent_fd)
        except OSError as error:
            refusal = transfer_error(error, f"removing {location.path}")
            if refusal.reason is not Reason.DIRECTORY_NOT_EMPTY:
                raise
            if self._has_only_staging(location):
                refusal.message = (
                    f"{location.path} has no entries but unfinished uploads, which its listing leaves out; "
                    "remove it recursively to end them"
                )
            raise refusal from error

    def _has_only_staging(self, location: Location) -> bool:
        with suppress(OSError):
            walk = open_top(self._fs, location.name, location.parent_fd)
            try:
                return all(is_staging(name) for name in self._fs.names(walk.fd))
            finally:
                walk.close()
        return False

    def _directory(self, location: Location, status: os.stat_result) -> Generator[None]:
        require_version(location, "path", status, self._request.if_version)
        self._tree = TreeRemoval(self._fs, location, self._root.guarded_places(), status, self._trace)
        yield from self._tree.steps()


class TreeRemoval:
    """Removes a directory with its content, in memory that does not grow with its size.

    Args:
        fs: system calls.
        location: of the directory.
        guarded: places that are not removed.
        status: of the directory that shall be removed.
        trace: hook, see `TracePoint`.
        staged: the directory is the agent's own; its directories may have modes that forbid to change them.

    Attributes:
        removed: entries removed so far, without staging files.
    """

    def __init__(
        self,
        fs: FileSystem,
        location: Location,
        guarded: GuardedPlaces,
        status: os.stat_result,
        trace: Trace = no_trace,
        *,
        staged: bool = False,
    ) -> None:
        self._fs = fs
        self._location = location
        self._guarded = guarded
        self._status = status
        self._trace = trace
        self._staged = staged
        self._path = location.path
        self.removed = 0
        #: Entry that the walk is at, below the current directory; empty for that directory.
        self._at = b""
        #: Directories that are not empty, by the depth of the directory that they are in.
        self._waiting: dict[int, list[bytes]] = {}
        self._waiting_names = 0

    def steps(self) -> Generator[None]:
        """Remove everything, one entry per step.

        Raises:
            TransferError: the metadata has the path that could not be removed.
        """
        name, parent_fd = self._location.name, self._location.parent_fd
        for _ in range(MOST_TRIES):
            try:
                self._fs.remove_directory(name, parent_fd)
            except OSError as error:
                refusal = _refusal(error, self._path)
                if refusal.reason is not Reason.DIRECTORY_NOT_EMPTY:
                    raise with_facts(refusal, self._path) from error
            else:
                self.removed += 1
                return
            self._make_writable(name, parent_fd)
            yield from self._empty(open_top(self._fs, name, parent_fd))
        raise self._growing(self._path)

    def _empty(self, walk: Descent) -> Generator[None]:
        """Remove the content of the top directory; closes it."""
        try:
            self._refuse_other(walk)
            yield from self._walk(walk)
        except OSError as error:
            path = walk.shown(self._path, *filter(None, [self._at]))
            raise with_facts(_refusal(error, path), path) from error
        except MovedError:
            path = walk.shown(self._path)
            raise with_facts(
                TransferError(Reason.FILE_CHANGED, f"a directory in {path} was moved while it was removed"),
                path,
            ) from None
        finally:
            walk.close()

    def _refuse_other(self, walk: Descent) -> None:
        """Refuse a directory that took the place of the one that was looked at."""
        if not same_inode(self._status, walk.status):
            raise TransferError(
                Reason.FILE_CHANGED, f"{self._path} was replaced while it was removed", {"path": self._path}
            )

    def _walk(self, walk: Descent) -> Generator[None]:
        rounds = 0
        while True:
            names = self._waiting.get(walk.depth)
            if names:
                self._enter(walk, names)
                continue
            yield from self._clear(walk)
            if self._waiting.get(walk.depth):
                continue
            if not walk.depth:
                return
            name = walk.leave()
            self._at = name
            if self._removed_directory(walk, name):
                yield
                continue
            # A program has made an entry in it meanwhile.
            rounds += 1
            if rounds > MOST_TRIES:
                raise self._growing(walk.shown(self._path, name))
            self._wait_for(walk.depth, name)

    def _enter(self, walk: Descent, names: list[bytes]) -> None:
        """Enter one of the directories that wait; a name that is no directory any more is read again."""
        self._at = name = names.pop()
        self._waiting_names -= 1
        if not names:
            del self._waiting[walk.depth]
        self._make_writable(name, walk.fd)
        try:
            walk.enter(name)
        except (FileNotFoundError, NotADirectoryError):
            return
        self._at = b""
        walk.refuse_other_mount(self._path)
        guarded = self._guarded.at(walk.status)
        if guarded is not None:
            path = walk.shown(self._path)
            raise with_facts(guarded.refuse(path), path)

    def _make_writable(self, name: bytes, dir_fd: int) -> None:
        """Let the agent remove the entries of a staged directory that has the mode of its source already."""
        if not self._staged:
            return
        with suppress(OSError):
            fd = self._fs.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)
            try:
                self._fs.chmod_entry(fd, 0o700)
            finally:
                self._fs.close(fd)

    def _clear(self, walk: Descent) -> Generator[None]:
        """Remove the files and the empty directories of the current directory; the others wait."""
        private = self._guarded.names_in(walk.status)
        room = max(1, _MOST_WAITING - self._waiting_names)
        with self._fs.scan(walk.fd) as entries:
            for entry in entries:
                self._at = name = os.fsencode(entry.name)
                self._refuse_guarded(walk, name, entry.inode(), private)
                if not entry.is_dir(follow_symlinks=False):
                    with suppress(FileNotFoundError):
                        self._fs.remove_file(name, walk.fd)
                        self.removed += not name.startswith(STAGING_PREFIX)
                elif not self._removed_directory(walk, name):
                    self._wait_for(walk.depth, name)
                    room -= 1
                self._trace(TracePoint.ENTRY_REMOVED)
                yield
                if not room:
                    break
        self._at = b""

    def _refuse_guarded(self, walk: Descent, name: bytes, inode: int, private: Sequence[bytes]) -> None:
        guarded = self._guarded.named(private, name)
        if guarded is None and self._guarded.may_be(inode):
            status = self._fs.lstat(name, walk.fd)
            guarded = None if status is None else self._guarded.at(status)
        if guarded is not None:
            path = walk.shown(self._path, name)
            raise with_facts(guarded.refuse(path), path)

    def _removed_directory(self, walk: Descent, name: bytes) -> bool:
        """Remove a directory; return False if it is not empty."""
        try:
            self._fs.remove_directory(name, walk.fd)
        except FileNotFoundError:
            return True
        except OSError as error:
            if transfer_error(error, "").reason in {Reason.DIRECTORY_NOT_EMPTY, Reason.FILE_EXISTS}:
                return False
            raise
        self.removed += not name.startswith(STAGING_PREFIX)
        return True

    def _wait_for(self, depth: int, name: bytes) -> None:
        self._waiting.setdefault(depth, []).append(name)
        self._waiting_names += 1

    def _growing(self, path: str) -> TransferError:
        return TransferError(
            Reason.DIRECTORY_NOT_EMPTY,
            f"{path} gets new entries while it is removed: end the program that makes them",
            {"path": path},
        )


def _refusal(error: OSError, path: str) -> TransferError:
    """Return the error of an entry of the tree; a type that changed meanwhile is no mistake of the caller (DIR-31)."""
    if isinstance(error, IsADirectoryError | NotADirectoryError):
        return TransferError(Reason.FILE_CHANGED, f"{path} was replaced while it was removed")
    return transfer_error(error, f"removing {path}")
