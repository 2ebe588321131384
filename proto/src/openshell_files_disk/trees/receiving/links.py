"""Symbolic links and hard links of a tree: made in the staging directory, then put in place (TRE-27, TRE-33, TRE-48)."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import partial
from typing import Final

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MAX_PATH_BYTES
from openshell_files_protocol.reasons import Reason

from openshell_files_disk.filesystem.handles import is_regular
from openshell_files_disk.trees.receiving.comparison import is_same_link
from openshell_files_disk.trees.receiving.content import Contents, opened, place
from openshell_files_disk.trees.receiving.directories import Directory, OpenDirectories
from openshell_files_disk.trees.receiving.errors import EntryError
from openshell_files_disk.trees.receiving.names import check_path, violation
from openshell_files_disk.trees.receiving.reception import Reception

#: Hard links that wait for the content of the files that they name.
_MOST_WAITING: Final = 65_536


class PlacedLinks:
    """Decides and makes the links of a tree.

    Args:
        reception: of the tree.
        contents: files whose content is needed.
        release: called with the directory of a hard link that has waited.
    """

    def __init__(
        self, reception: Reception, contents: Contents, release: Callable[[Directory], None]
    ) -> None:
        self._reception = reception
        self._contents = contents
        self._release = release
        self._waiting = 0

    def symbolic(
        self,
        number: int,
        path: bytes,
        directory: Directory,
        target: bytes,
        modified_ns: int,
        there: os.stat_result | None,
        dir_fd: int,
    ) -> None:
        """Put a symbolic link in place.

        Args:
            number: of the entry.
            path: of the link.
            directory: that it is in.
            target: of the link.
            modified_ns: nanoseconds since 1970.
            there: status of what has its name.
            dir_fd: descriptor of the directory; -1 if it is fresh.

        Raises:
            OSError: it could not be made.
            EntryError: it could not be made.
        """
        reception = self._reception
        fs = reception.fs
        name = path.rpartition(b"/")[2]
        dry_run = reception.options.dry_run
        if there is not None and is_same_link(reception, name, dir_fd, there, target):
            if there.st_mtime_ns != modified_ns:
                if not dry_run:
                    fs.set_link_time(name, dir_fd, modified_ns)
                reception.reply.changed.append(number)
            return
        if not dry_run:
            staging = reception.staging
            if staging is None:
                raise AssertionError("there is a staging directory")
            staged = b"%d" % number
            try:
                fs.symlink(target, staged, staging.fd)
                fs.set_link_time(staged, staging.fd, modified_ns)
                place(reception, number, path, directory)
            except (OSError, EntryError):
                fs.unlink(staged, staging.fd)
                raise
        reception.reply.changed.append(number)

    def check_named(self, number: int, first: bytes, directories: OpenDirectories) -> None:
        """Refuse the path that a hard link names if no regular file of the tree has it (TRE-27).

        Names are known of the open directories; of a path below a complete one it is known that there
        is a directory.

        Raises:
            TransferError: INVALID_REQUEST.
        """
        parts = check_path(number, first)
        depth, parent = len(parts) - 1, b"/".join(parts[:-1])
        while (directory := directories.at(parent)) is None:
            depth -= 1
            parent = b"/".join(parts[:depth])
        name = parts[depth]
        if depth == len(parts) - 1:
            others = directory.others
            known = directory.names is not None and name in directory.names
            is_file = known and (others is None or name not in others)
        else:
            is_file = directory.directories is not None and name in directory.directories
        if not is_file:
            raise violation(number, "is a hard link to what is no earlier regular file of the tree (TRE-27)")

    def hard(self, number: int, path: bytes, directory: Directory, first: bytes) -> None:
        """Put a hard link in place, or let it wait for the content of the file that it names.

        Raises:
            TransferError: see TRE-59, or too many hard links wait.
        """
        file = self._contents.at(first)
        if file is None:
            self._make(number, path, directory, first)
            return
        if self._waiting >= _MOST_WAITING:
            raise TransferError(
                Reason.TREE_TOO_LARGE,
                f"more than {_MOST_WAITING} hard links wait for the content of the files that they name",
            )
        if file.waiting is None:
            file.waiting = []
        self._waiting += 1
        directory.pending += 1
        file.waiting.append(partial(self._ready, number, path, directory, first))

    def _ready(self, number: int, path: bytes, directory: Directory, first: bytes) -> None:
        self._waiting -= 1
        self._make(number, path, directory, first)
        self._release(directory)

    def _make(self, number: int, path: bytes, directory: Directory, first: bytes) -> None:
        reception = self._reception
        try:
            if self._in_place(number, path, directory, first):
                reception.reply.changed.append(number)
        except (OSError, EntryError) as error:
            reception.failed(number, error, "making the hard link")

    def _in_place(self, number: int, path: bytes, directory: Directory, first: bytes) -> bool:
        """Put a hard link in place; return False if it is already."""
        reception = self._reception
        fs, placing = reception.fs, reception.placing
        self._refuse_missing(first)
        if reception.options.dry_run:
            return self._would_change(path, first)
        staging = reception.staging
        if staging is None or placing is None:
            raise AssertionError("there is a staging directory")
        first_parent, _, first_name = first.rpartition(b"/")
        parent, _, name = path.rpartition(b"/")
        there = None if directory.fresh else fs.lstat(name, opened(placing.directory, parent))
        first_fd = self._directory_of_named(first, first_parent)
        named = fs.lstat(first_name, first_fd)
        if named is None or not self._may_be_linked(named):
            raise EntryError(Reason.FILE_NOT_FOUND, "the file that it names is not in place")
        if there is not None and os.path.samestat(there, named):
            return False
        staged = b"%d" % number
        fs.link_between(first_fd, first_name, staging.fd, staged)
        try:
            _refuse_other(fs.lstat(staged, staging.fd), named)
            place(reception, number, path, directory)
        except (OSError, EntryError):
            fs.unlink(staged, staging.fd)
            raise
        return True

    def _directory_of_named(self, first: bytes, parent: bytes) -> int:
        placing = self._reception.placing
        if placing is None:
            raise AssertionError("nothing is placed in a dry run")
        try:
            self._refuse_guarded(first)
            return opened(placing.directory, parent)
        except TransferError as error:
            if error.reason is Reason.FILE_CHANGED and not self._reception.options.ordered:
                # Nobody announced that directory: an archive may name any path.
                raise EntryError(
                    Reason.FILE_NOT_FOUND, "the file that it names is not in place, or behind a link"
                ) from error
            raise

    def _may_be_linked(self, named: os.stat_result) -> bool:
        guard = self._reception.guard
        if guard is not None and (message := guard.file(named)) is not None:
            raise EntryError(Reason.PATH_FORBIDDEN, f"the file that it names: {message}")
        # Archives have further names of symbolic links, too.
        return is_regular(named) or (not self._reception.options.ordered and stat.S_ISLNK(named.st_mode))

    def _refuse_missing(self, first: bytes) -> None:
        """Refuse a path that is not in place, or that is below a directory that is not (TRE-35)."""
        not_placed = self._reception.not_placed
        end = len(first)
        while end > 0:
            if first[:end] in not_placed:
                raise EntryError(
                    Reason.FILE_NOT_FOUND, "the file that it names did not get into place (TRE-35)"
                )
            end = first.rfind(b"/", 0, end)

    def _refuse_guarded(self, first: bytes) -> None:
        """Refuse a path that leads through a guarded place."""
        reception = self._reception
        guard, placing = reception.guard, reception.placing
        if guard is None or placing is None:
            return
        parts = first.split(b"/")
        for depth in range(len(parts)):
            status = reception.fs.fstat(opened(placing.directory, b"/".join(parts[:depth])))
            private = guard.names_in(status)
            message = guard.directory(status)
            if message is None and private is not None:
                message = guard.named(private, parts[depth])
            if message is not None:
                raise EntryError(Reason.PATH_FORBIDDEN, f"the file that it names: {message}")

    def _would_change(self, path: bytes, first: bytes) -> bool:
        """Return whether a dry run would make a hard link."""
        reception = self._reception
        placing = reception.placing
        if placing is None or len(first) > MAX_PATH_BYTES or first in reception.would_write:
            return True
        found: list[os.stat_result | None] = []
        for one in (path, first):
            parent, _, name = one.rpartition(b"/")
            try:
                found.append(reception.fs.lstat(name, placing.directory(parent)))
            except OSError:
                return True
        there, named = found
        return there is None or named is None or not os.path.samestat(there, named)


def _refuse_other(made: os.stat_result | None, named: os.stat_result) -> None:
    """Refuse a second name of what is not the file that was looked at; its inode number may be used again."""
    if made is None or (_identity(made) != _identity(named)):
        raise EntryError(Reason.FILE_CHANGED, "another program replaced the file that it names")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode), status.st_size, status.st_mtime_ns
