"""Looks at what is in place, and makes and opens directories beneath the top directory (TRE-44, TRE-46, TRE-49)."""

from __future__ import annotations

import os
import stat

from openshell_files_protocol.limits import STAGING_PREFIX
from openshell_files_protocol.reasons import Reason

from openshell_files_disk.trees.receiving.content import opened
from openshell_files_disk.trees.receiving.directories import Directory
from openshell_files_disk.trees.receiving.errors import EntryError
from openshell_files_disk.trees.receiving.reception import Reception


class Looking:
    """Looks at the places of entries.

    Args:
        reception: of the tree.
    """

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._ordered = reception.options.ordered
        #: Directory of which `_dir_fd` is a descriptor; owned by `Reception.looking`.
        self._directory: Directory | None = None
        self._dir_fd = -1

    def fd_of(self, directory: Directory) -> int:
        """Return a descriptor of a directory that exists; the caller does not close it.

        Raises:
            OSError: it cannot be opened.
            EntryError: it is no directory any more.
        """
        if self._directory is not directory:
            looking = self._reception.looking
            if looking is None:
                raise AssertionError("a missing directory is not looked at")
            self._directory = None
            self._dir_fd = opened(looking.directory, directory.path)
            self._directory = directory
        return self._dir_fd

    def status(self, directory: Directory, name: bytes) -> os.stat_result | None:
        """Return the status of what has a name; None if there is nothing.

        Raises:
            OSError: it cannot be looked at.
            EntryError: see `fd_of`.
        """
        if (directory.fresh and self._ordered) or self._reception.looking is None:
            return None
        return self._reception.fs.lstat(name, self.fd_of(directory))

    def refusal(self, directory: Directory, name: bytes) -> tuple[Reason, str] | None:
        """Return why an entry is refused whatever has its name; None if it is not."""
        if directory.failed:
            return Reason.PARENT_NOT_FOUND, "its directory is not in place (TRE-35)"
        if name.startswith(STAGING_PREFIX):
            return Reason.PATH_FORBIDDEN, "names with its prefix are kept for unfinished uploads (TRE-23)"
        guard = self._reception.guard
        if guard is not None and directory.private is not None:
            message = guard.named(directory.private, name)
            if message is not None:
                return Reason.PATH_FORBIDDEN, message
        return None

    def guard_names(self, directory: Directory) -> None:
        """Ask the guard for the names that it refuses in a directory that exists."""
        guard = self._reception.guard
        if guard is not None and not directory.fresh:
            directory.private = guard.names_in(self._reception.fs.fstat(self.fd_of(directory)))

    def clear_way(self, path: bytes, name: bytes, directory: Directory, there: os.stat_result) -> None:
        """Decide whether a file or a link may replace what has its name (TRE-46, TRE-51).

        A directory is removed when the entry gets its name.

        Raises:
            EntryError: IS_A_DIRECTORY, PATH_FORBIDDEN.
        """
        reception = self._reception
        if not stat.S_ISDIR(there.st_mode):
            if reception.guard is not None and (message := reception.guard.file(there)) is not None:
                raise EntryError(Reason.PATH_FORBIDDEN, message)
            return
        if not reception.options.delete_others:
            raise EntryError(Reason.IS_A_DIRECTORY, "a directory is in its place (TRE-46)")
        if reception.options.dry_run:
            reception.remove(name, self.fd_of(directory), path)

    def make_or_open(self, child: Directory, path: bytes, there: os.stat_result | None) -> None:
        """Make a directory, or open it where it is.

        Args:
            child: the directory.
            path: of it.
            there: status of what has its name.

        Raises:
            OSError: it cannot be made or opened.
            EntryError: NOT_A_DIRECTORY, LEAF_IS_LINK, MOUNT_POINT, PATH_FORBIDDEN.
        """
        reception, above = self._reception, child.above
        if above is None:
            raise AssertionError("the top directory is opened by `Reception`")
        if there is not None and not stat.S_ISDIR(there.st_mode):
            self._remove_from_way(child.name, path, above, there)
            there = None
        if there is None and self._made(child, above):
            return
        looking = reception.looking
        if looking is None:
            raise AssertionError("what is there was looked at")
        self._directory = None
        dir_fd = opened(looking.directory, path)
        if reception.guard is not None:
            status = reception.fs.fstat(dir_fd)
            message = reception.guard.directory(status)
            if message is not None:
                raise EntryError(Reason.PATH_FORBIDDEN, message)
            child.private = reception.guard.names_in(status)
        if not reception.options.dry_run:
            reception.make_usable(child, dir_fd)
        self._directory, self._dir_fd = child, dir_fd

    def _made(self, child: Directory, above: Directory) -> bool:
        """Make a directory; return False if another program has just made it, so that it is opened as it is."""
        reception = self._reception
        if not reception.options.dry_run:
            dir_fd = self.fd_of(above)
            try:
                reception.fs.mkdir(child.name, dir_fd, 0o700)
            except FileExistsError:
                there = reception.fs.lstat(child.name, dir_fd)
                if there is None or not stat.S_ISDIR(there.st_mode):
                    raise
                return False
        child.fresh = True
        return True

    def _remove_from_way(self, name: bytes, path: bytes, above: Directory, there: os.stat_result) -> None:
        reception = self._reception
        if not reception.options.delete_others:
            if stat.S_ISLNK(there.st_mode):
                raise EntryError(Reason.LEAF_IS_LINK, "a symbolic link is in its place (TRE-46)")
            raise EntryError(Reason.NOT_A_DIRECTORY, "a file is in its place (TRE-46)")
        if not reception.remove(name, self.fd_of(above), path, above.private):
            raise EntryError(Reason.PATH_FORBIDDEN, "a file that may not be removed is in its place")
