"""Completes directories: what the tree does not have is removed, then mode and time are set, deepest first (TRE-14, TRE-47)."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from contextlib import suppress
from typing import Final

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import STAGING_PREFIX
from openshell_files_protocol.reasons import Reason

from openshell_files_disk.trees.opening import LISTING
from openshell_files_disk.trees.receiving.content import opened, set_times
from openshell_files_disk.trees.receiving.directories import Directory
from openshell_files_disk.trees.receiving.errors import EntryError
from openshell_files_disk.trees.receiving.names import folded
from openshell_files_disk.trees.receiving.reception import Reception

#: Directories whose entries were all announced, and not all of their content came.
_MOST_WAITING: Final = 131_072


class Completion:
    """Completes the directories of a tree.

    Args:
        reception: of the tree.
    """

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._waiting = 0
        self._top_is_complete = False

    def leave(self, directory: Directory) -> Generator[None]:
        """Take it that all entries of a directory were announced; remove others, by steps.

        Raises:
            TransferError: see TRE-59, or the transfer was stopped.
        """
        if self._reception.options.delete_others and not directory.failed and not directory.fresh:
            yield from self._delete_others(directory)
        directory.forget_names()
        if directory.pending > 1 and directory.above is not None:
            self._wait(directory)
        self.release(directory)

    def _wait(self, directory: Directory) -> None:
        """Count a directory that waits for content."""
        directory.waits = True
        self._waiting += 1
        if self._waiting > _MOST_WAITING:
            raise TransferError(
                Reason.TREE_TOO_LARGE, f"more than {_MOST_WAITING} directories wait for the content of files"
            )

    def release(self, directory: Directory) -> None:
        """Count an entry of a directory as complete; the last one completes the directory.

        The top directory is completed last, by `Publishing`.

        Raises:
            TransferError: see TRE-59.
        """
        directory.pending -= 1
        while not directory.pending and directory.above is not None:
            if directory.waits:
                self._waiting -= 1
            if not directory.failed:
                self.complete(directory)
            directory = directory.above
            directory.pending -= 1

    def complete(self, directory: Directory, *, owner_may: int = 0) -> None:
        """Give a directory its mode and time.

        Args:
            directory: of the tree.
            owner_may: permission bits that it keeps for now.

        Raises:
            TransferError: see TRE-59.
        """
        reception = self._reception
        placing = reception.placing
        if placing is None or reception.options.dry_run:
            return
        mode = directory.mode if directory.mode is not None else directory.mode_before
        if mode is None and directory.modified_ns is None:
            return
        fs = reception.fs
        try:
            fd = opened(placing.open_directory, directory.path)
            try:
                status = fs.fstat(fd)
                if directory.modified_ns is not None and status.st_mtime_ns != directory.modified_ns:
                    set_times(fs, fd, reception.now_ns, directory.modified_ns)
                if mode is not None and status.st_mode & 0o777 != mode & 0o777 | owner_may:
                    special = stat.S_IMODE(status.st_mode) & 0o7000
                    fs.chmod(fd, special | mode & 0o777 | owner_may)
                reception.made_usable.discard(directory)
                self._top_is_complete = directory.above is None
            finally:
                fs.close(fd)
        except (OSError, EntryError) as error:
            self._failed(directory, error, "setting mode and time of the directory")

    def _failed(self, directory: Directory, error: OSError | EntryError, doing: str) -> None:
        """Note the first problem of a directory that is in place."""
        refusal = self._reception.refusal(error, doing)
        if directory.entry >= 0 and not directory.told:
            directory.told = True
            self._reception.problem(directory.entry, refusal.reason, refusal.message)

    def restore(self) -> None:
        """Give directories of a failed transfer the permission bits back that they had."""
        reception = self._reception
        for directory in reception.made_usable:
            self._restore_one(directory.path, directory.mode_before)
        reception.made_usable.clear()
        if not self._top_is_complete:
            self._restore_one(b"", reception.top_mode_before)

    def _restore_one(self, path: bytes, mode: int | None) -> None:
        placing = self._reception.placing
        if placing is None or mode is None:
            return
        with suppress(OSError):
            fd = placing.open_directory(path, LISTING)
            try:
                self._reception.fs.chmod(fd, mode)
            finally:
                self._reception.fs.close(fd)

    def _delete_others(self, directory: Directory) -> Generator[None]:
        """Remove the entries of a directory that were not announced."""
        reception = self._reception
        looking = reception.looking
        if looking is None:
            return
        path = directory.path
        doing = "removing what the tree does not have"
        try:
            fd = opened(looking.open_directory, path)
        except (OSError, EntryError) as error:
            self._failed(directory, error, doing)
            return
        try:
            with reception.fs.scan(fd) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    if _is_of_tree(directory, name):
                        continue
                    below = path + b"/" + name if path else name
                    try:
                        reception.remove(name, fd, below, directory.private)
                    except (OSError, EntryError) as error:
                        self._failed(directory, error, f"{doing}: {_shown(name)}")
                    yield
        except OSError as error:
            self._failed(directory, error, doing)
        finally:
            reception.fs.close(fd)


def _is_of_tree(directory: Directory, name: bytes) -> bool:
    """Return whether a name was announced, or is that of a staging file."""
    names = directory.names
    if names is None or name in names or name.startswith(STAGING_PREFIX):
        return True
    return directory.folded is not None and folded(name) in directory.folded


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "replace")
