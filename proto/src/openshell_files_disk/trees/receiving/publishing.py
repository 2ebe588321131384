"""The end of a received tree: staging removed, flushed, and published if it is atomic (TRE-12, TRE-13, TRE-52)."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from typing import Final

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

from openshell_files_disk.filesystem.errno_reasons import mapped
from openshell_files_disk.trees.opening import LISTING
from openshell_files_disk.trees.receiving.completion import Completion
from openshell_files_disk.trees.receiving.directories import Directory
from openshell_files_disk.trees.receiving.reception import STAGED_TOP, Reception

#: Errors of a file system that has no rename without replacing.
_NO_EXCLUSIVE_RENAME: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP})


class Publishing:
    """Ends a tree of which every entry was taken.

    Args:
        reception: of the tree.
        completion: completes the top directory.

    Attributes:
        durable: everything was flushed.
    """

    def __init__(self, reception: Reception, completion: Completion) -> None:
        self._reception = reception
        self._completion = completion
        self.durable = False

    def refuse_incomplete(self) -> None:
        """Refuse to publish a tree of which an entry is missing (TRE-13).

        Raises:
            TransferError: TREE_INCOMPLETE.
        """
        reception = self._reception
        if reception.options.atomic and reception.problems:
            entries = "1 entry" if reception.problems == 1 else f"{reception.problems} entries"
            raise TransferError(
                Reason.TREE_INCOMPLETE,
                f"{entries} did not arrive, so the tree is not published (TRE-13)",
            )

    def steps(self, top: Directory) -> Generator[None]:
        """Complete the top directory, flush and publish.

        Raises:
            TransferError: nothing is published, or it is and could not be flushed.
        """
        reception = self._reception
        if reception.options.dry_run:
            return
        self.refuse_incomplete()
        with mapped(f"completing {reception.place.shown}"):
            if reception.options.atomic:
                yield from self._publish(top)
            else:
                yield from self._remove_staging()
                self._completion.complete(top)
                yield
                self._flush()
        reception.trace("tree.published")

    def _remove_staging(self) -> Generator[None]:
        staging = self._reception.staging
        if staging is not None:
            yield from staging.remove()

    def _publish(self, top: Directory) -> Generator[None]:
        reception = self._reception
        place, fs, staging = reception.place, reception.fs, reception.staging
        if staging is None:
            raise AssertionError("an atomic tree is staged")
        # The user who moves a directory elsewhere needs the permission to write in it.
        self._completion.complete(top, owner_may=0o700)
        self.refuse_incomplete()
        yield
        self._flush()
        yield
        try:
            try:
                fs.move_noreplace(staging.fd, STAGED_TOP, place.parent_fd, place.name)
            except OSError as error:
                if error.errno not in _NO_EXCLUSIVE_RENAME:
                    raise
                if fs.lstat(place.name, place.parent_fd) is not None:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
                # It replaces at most an empty directory that another program has just made.
                fs.move(staging.fd, STAGED_TOP, place.parent_fd, place.name)
        except FileExistsError as error:
            raise TransferError(
                Reason.FILE_EXISTS, f"another program made {place.shown} meanwhile (TRE-12)"
            ) from error
        if top.entry >= 0:
            reception.reply.changed.append(top.entry)
        if top.mode is not None and top.mode & 0o700 != 0o700:
            self._completion.complete(top)
        if reception.options.fsync:
            self._flush_parent()
        yield from self._remove_staging()

    def _flush(self) -> None:
        """Flush the file system once: many files take longer one by one."""
        reception = self._reception
        if not reception.options.fsync or reception.placing is None:
            return
        fd = self._readable_top()
        try:
            reception.fs.sync_file_system(fd)
            self.durable = True
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
        finally:
            reception.fs.close(fd)

    def _readable_top(self) -> int:
        """Return a descriptor of something on the file system that is open for reading."""
        reception = self._reception
        try:
            if reception.placing is not None:
                return reception.placing.open_directory(b"")
        except PermissionError:
            pass
        return reception.fs.open(b".", LISTING, dir_fd=reception.place.parent_fd)

    def _flush_parent(self) -> None:
        reception = self._reception
        try:
            fd = reception.fs.open(b".", LISTING, dir_fd=reception.place.parent_fd)
        except PermissionError:
            self.durable = False
            return
        try:
            reception.fs.fsync(fd)
        finally:
            reception.fs.close(fd)
