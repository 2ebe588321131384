"""The walk through a tree that is sent: its entries, depth first, in bounded memory (TRE-4, TRE-25 to TRE-28).

Within a directory, files and links come first, and then the subdirectories one after the other. Names
are not sorted, so a directory with a million files takes no memory; only the names of subdirectories wait.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from openshell_files_protocol.limits import MAX_NAME_BYTES, MAX_PATH_BYTES, STAGING_PREFIX
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_disk.filesystem.errno_reasons import transfer_error
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.guard import TreeGuard
from openshell_files_disk.trees.links import Links
from openshell_files_disk.trees.opening import PLACE, Beneath
from openshell_files_disk.trees.selection import Selection
from openshell_files_disk.trees.sending.described import (
    Source,
    describe,
    excluded,
    kind_of,
    refuse,
    shown_path,
)

_STAGING: Final = STAGING_PREFIX.decode()

#: Errors of a directory that became something else after its name was read.
_REPLACED: Final = frozenset({errno.ENOTDIR, errno.ELOOP})

#: Excluded entries that wait for the announcement of their directories. With more, the directories are announced,
#: also if nothing in them is sent.
MOST_LEFT_OUT: Final = 8192

#: Names after which the walk pauses, also if none of them is announced.
NAMES: Final = 16384

#: An entry, and its content if it is a regular file with content of its own; None for a pause.
Walked = tuple[trees_pb2.TreeEntry, Source | None] | None

_Identity = tuple[int, int]


@dataclass(slots=True)
class _Level:
    """A directory of the current path.

    Attributes:
        path: below the top directory.
        identity: device and inode.
        announcement: its entry while it is not announced; None afterwards.
        left_out: excluded entries in it that wait for its announcement.
        pending: names of subdirectories still to be walked; None before its names were read.
    """

    path: bytes
    identity: _Identity
    announcement: trees_pb2.TreeEntry | None
    left_out: list[trees_pb2.TreeEntry] = field(default_factory=list[trees_pb2.TreeEntry])
    pending: list[bytes] | None = None


@dataclass(slots=True)
class _Named:
    """A file with several names, of which some are still to come."""

    first: bytes
    to_come: int


class Walk:
    """Yields the entries of a tree. Methods block.

    Args:
        fs: system calls.
        beneath: opens what is below the top directory, with links followed for `Links.FOLLOW`.
        selection: what is sent.
        links: treatment of symbolic links.
        guard: refuses places; None refuses none.
        shown: path of the top directory, for messages.
        digest: computes the digest of a file for its entry, with pauses; returns a part with the digest or with the
            reason why there is none. None for entries without digest.
    """

    def __init__(
        self,
        fs: FileSystem,
        beneath: Beneath,
        selection: Selection,
        *,
        links: Links,
        guard: TreeGuard | None,
        shown: str,
        digest: Callable[[Source], Generator[None, None, trees_pb2.TreePart]] | None,
    ) -> None:
        self._fs = fs
        self._beneath = beneath
        self._selection = selection
        self._links = links
        self._guard = guard
        self._shown = shown
        self._digest = digest
        self._user = os.geteuid()
        self._levels: list[_Level] = []
        #: Some directory of the current path is not announced.
        self._waiting = False
        self._left_out = self._names = 0
        self._named: dict[_Identity, _Named] = {}

    def entries(self) -> Iterator[Walked]:
        """Yield all entries, the top directory first. Pauses where it looked at much and found nothing.

        Raises:
            OSError: the top directory cannot be read, or reading a directory failed in its middle.
        """
        yield from self._directory(b"", top=True)
        while self._levels:
            level = self._levels[-1]
            if level.pending:
                name = level.pending.pop()
                path = level.path + b"/" + name if level.path else name
                yield from self._directory(path)
                continue
            self._levels.pop()
            self._waiting = any(above.announcement is not None for above in self._levels)
            yield from self._leave(level)

    def _leave(self, level: _Level) -> Iterator[Walked]:
        """Announce a directory without anything that is sent as excluded, so that it is not deleted (TRE-10)."""
        if level.announcement is not None and self._levels:
            self._left_out -= len(level.left_out)
            yield from self._leave_out(self._levels[-1], level.path, files_pb2.FILE_TYPE_DIRECTORY)

    def _leave_out(self, level: _Level, path: bytes, kind: files_pb2.FileType.ValueType) -> Iterator[Walked]:
        entry = excluded(path, kind)
        if level.announcement is None:
            yield entry, None
        else:
            level.left_out.append(entry)
            self._left_out += 1
            if self._left_out > MOST_LEFT_OUT:
                yield from self._announced()

    def _announced(self) -> Iterator[Walked]:
        """Announce the directories of the current path that wait for something that is sent."""
        self._waiting, self._left_out = False, 0
        for level in self._levels:
            if level.announcement is not None:
                yield level.announcement, None
                level.announcement = None
                for entry in level.left_out:
                    yield entry, None
                level.left_out.clear()

    def _entry(self, entry: trees_pb2.TreeEntry, source: Source | None = None) -> Iterator[Walked]:
        if self._waiting:
            yield from self._announced()
        yield entry, source

    def _directory(self, path: bytes, *, top: bool = False) -> Iterator[Walked]:
        """Enter a directory and walk through its files and links."""
        if not top and not self._selection.enters(path):
            yield from self._leave_out(self._levels[-1], path, files_pb2.FILE_TYPE_DIRECTORY)
            return
        try:
            fd = self._beneath.open_directory(path)
        except OSError as error:
            if top:
                raise
            if error.errno != errno.ENOENT:
                yield from self._entry(self._unopened(path, error))
            return
        try:
            status = self._fs.fstat(fd)
            entry = describe(path, status, self._user)
            refusal = self._refusal(path, status, fd)
            if refusal is not None:
                yield from self._entry(refuse(entry, *refusal))
                return
            level = _Level(path, (status.st_dev, status.st_ino), entry)
            self._levels.append(level)
            self._waiting = True
            if top or not self._selection.may_leave_directories_empty:
                yield from self._announced()
            level.pending = []
            yield from self._scan(level, fd, status, level.pending)
        finally:
            self._fs.close(fd)

    def _unopened(self, path: bytes, error: OSError) -> trees_pb2.TreeEntry:
        """Return the entry of a directory that cannot be opened."""
        entry = trees_pb2.TreeEntry(path=path, type=files_pb2.FILE_TYPE_DIRECTORY)
        if error.errno in _REPLACED:
            return refuse(
                entry, Reason.FILE_CHANGED, f"{self._at(path)} was replaced while the tree was read"
            )
        if error.errno == errno.EXDEV:
            return refuse(
                entry, Reason.MOUNT_POINT, f"{self._at(path)} is a mount point, which is not sent with a tree"
            )
        refused = transfer_error(error, f"reading {self._at(path)}")
        return refuse(entry, refused.reason, refused.message)

    def _refusal(self, path: bytes, status: os.stat_result, fd: int) -> tuple[Reason, str] | None:
        """Return why the content of a directory is not announced."""
        if self._guard is not None and (message := self._guard.directory(status)) is not None:
            return Reason.PATH_FORBIDDEN, message
        if self._links is Links.FOLLOW and any(
            level.identity == (status.st_dev, status.st_ino) for level in self._levels
        ):
            return Reason.INVALID_PATH, f"{self._at(path)} is a link to a directory above it"
        # Paths that nothing could open are not announced (TRE-21).
        room = MAX_PATH_BYTES - len(path) - 1
        if room < MAX_NAME_BYTES and any(len(name) > room for name in self._fs.names(fd)):
            return (
                Reason.INVALID_PATH,
                f"{self._at(path)} has names that make paths of more than {MAX_PATH_BYTES} bytes",
            )
        return None

    def _scan(self, level: _Level, fd: int, status: os.stat_result, pending: list[bytes]) -> Iterator[Walked]:
        """Walk through the files and links of a directory; its subdirectories wait."""
        names = self._guard.names_in(status) if self._guard is not None else None
        prefix = level.path + b"/" if level.path else b""
        with self._fs.scan(fd) as found:
            for one in found:
                self._names += 1
                if not self._names % NAMES:
                    yield None
                if one.name.startswith(_STAGING):
                    continue
                name = os.fsencode(one.name)
                if names is not None and (message := self._guarded(names, name)) is not None:
                    yield from self._forbidden(prefix + name, one, message)
                    continue
                try:
                    if one.is_dir(follow_symlinks=False):
                        pending.append(name)
                        continue
                    entry_status = self._fs.entry_status(one)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    yield from self._unknown(level, prefix + name, one, error)
                    continue
                yield from self._file_or_link(level, prefix + name, entry_status, fd, pending)

    def _guarded(self, names: object, name: bytes) -> str | None:
        return self._guard.named(names, name) if self._guard is not None else None

    def _forbidden(self, path: bytes, one: os.DirEntry[str], message: str) -> Iterator[Walked]:
        entry = trees_pb2.TreeEntry(path=path, type=_kind(one))
        yield from self._entry(refuse(entry, Reason.PATH_FORBIDDEN, message))

    def _unknown(self, level: _Level, path: bytes, one: os.DirEntry[str], error: OSError) -> Iterator[Walked]:
        """Announce an entry without status: its directory may be listed, but not searched."""
        if not self._selection.takes(path):
            yield from self._leave_out(level, path, _kind(one))
            return
        refused = transfer_error(error, f"reading {self._at(path)}")
        entry = trees_pb2.TreeEntry(path=path, type=_kind(one))
        yield from self._entry(refuse(entry, refused.reason, refused.message))

    def _file_or_link(
        self, level: _Level, path: bytes, status: os.stat_result, fd: int, pending: list[bytes]
    ) -> Iterator[Walked]:
        mode = status.st_mode
        if stat.S_ISLNK(mode) and self._links is not Links.KEEP:
            yield from self._other_link(level, path, status, pending)
            return
        if not self._selection.takes(path):
            yield from self._leave_out(level, path, kind_of(mode))
            return
        entry = describe(path, status, self._user)
        if self._guard is not None and (message := self._guard.file(status)) is not None:
            yield from self._entry(refuse(entry, Reason.PATH_FORBIDDEN, message))
        elif stat.S_ISREG(mode):
            yield from self._regular(entry, path, status)
        elif stat.S_ISLNK(mode):
            try:
                entry.link_target = self._fs.readlink(path.rpartition(b"/")[2], fd)
            except FileNotFoundError:
                return
            except OSError as error:
                # EINVAL: it is no link any more.
                refused = transfer_error(error, f"reading {self._at(path)}")
                reason = Reason.FILE_CHANGED if error.errno == errno.EINVAL else refused.reason
                refuse(entry, reason, refused.message)
            yield from self._entry(entry)
        else:
            yield from self._entry(entry)

    def _regular(self, entry: trees_pb2.TreeEntry, path: bytes, status: os.stat_result) -> Iterator[Walked]:
        if status.st_nlink > 1 and (first := self._first_name(path, status)) is not None:
            entry.hard_link = first
            yield from self._entry(entry)
            return
        source = Source.of(path, status)
        if self._digest is not None:
            part = yield from self._digest(source)
            entry.digest, entry.reason, entry.message = part.digest, part.reason, part.message
        if entry.reason:
            self._named.pop((status.st_dev, status.st_ino), None)
            yield from self._entry(entry)
        else:
            yield from self._entry(entry, source)

    def _first_name(self, path: bytes, status: os.stat_result) -> bytes | None:
        """Return the first name of a file with several; None if this is the first (TRE-27)."""
        key = (status.st_dev, status.st_ino)
        named = self._named.get(key)
        if named is None:
            self._named[key] = _Named(path, status.st_nlink - 1)
            return None
        named.to_come -= 1
        if not named.to_come:
            del self._named[key]
        return named.first

    def _other_link(
        self, level: _Level, path: bytes, status: os.stat_result, pending: list[bytes]
    ) -> Iterator[Walked]:
        """Leave a link out, or take its target for it."""
        if self._links is Links.SKIP or not self._selection.takes(path):
            yield from self._leave_out(level, path, files_pb2.FILE_TYPE_SYMLINK)
            return
        try:
            fd = self._beneath.open_directory(path, PLACE & ~(os.O_DIRECTORY | os.O_NOFOLLOW))
        except OSError as error:
            entry = describe(path, status, self._user)
            leads_out = error.errno in {errno.EXDEV, errno.ELOOP}
            why = "leads out of the tree, or in a circle" if leads_out else error.strerror
            yield from self._entry(
                refuse(entry, Reason.INVALID_PATH, f"the link {self._at(path)} cannot be followed: {why}")
            )
            return
        try:
            target = self._fs.fstat(fd)
        finally:
            self._fs.close(fd)
        if stat.S_ISDIR(target.st_mode):
            pending.append(path.rpartition(b"/")[2])
        elif stat.S_ISREG(target.st_mode):
            yield from self._regular(describe(path, target, self._user), path, target)
        else:
            yield from self._entry(describe(path, target, self._user))

    def _at(self, path: bytes) -> str:
        return shown_path(self._shown, path)


def _kind(one: os.DirEntry[str]) -> files_pb2.FileType.ValueType:
    """Return the type of an entry as far as its directory tells."""
    with suppress(OSError):
        if one.is_dir(follow_symlinks=False):
            return files_pb2.FILE_TYPE_DIRECTORY
        if one.is_symlink():
            return files_pb2.FILE_TYPE_SYMLINK
        if one.is_file(follow_symlinks=False):
            return files_pb2.FILE_TYPE_REGULAR
    return files_pb2.FILE_TYPE_SPECIAL
