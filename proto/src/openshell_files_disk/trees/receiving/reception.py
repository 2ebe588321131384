"""What the parts of a receiver share: the place on the disk, the reply that is being made, and the problems."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from typing import Final

from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import trees_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_disk.filesystem.errno_reasons import mapped, transfer_error
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.guard import TreeGuard
from openshell_files_disk.trees.opening import PLACE, Beneath
from openshell_files_disk.trees.receiving.deletion import Removal
from openshell_files_disk.trees.receiving.directories import Directory
from openshell_files_disk.trees.receiving.names import Names
from openshell_files_disk.trees.receiving.options import ReceiveOptions, TreePlace
from openshell_files_disk.trees.receiving.staging_directory import StagingDirectory

#: Reasons that prevent every further entry (TRE-59).
_FATAL: Final = frozenset(
    {
        Reason.DISK_FULL,
        Reason.QUOTA_EXCEEDED,
        Reason.READ_ONLY_FILE_SYSTEM,
        Reason.TOO_MANY_TRANSFERS,
    }
)

#: Name of the top directory in the staging directory of an atomic tree.
STAGED_TOP: Final = b"top"


class Reception:
    """One tree that is being received.

    Attributes:
        fs: system calls.
        place: of the top directory.
        options: of the tree.
        guard: of the tree.
        trace: hook for fault injection.
        algorithm: of all digests.
        reply: gets what becomes of entries.
        announced: number of entries.
        problems: number of entries that have a problem or a reason.
        deleted: number of deleted entries.
        created: the top directory was made.
        top_mode_before: permission bits of a top directory that exists, if they were changed.
        made_usable: directories whose permission bits were changed until they are complete.
        staging: None before the start, and in a dry run.
        top_fd: O_PATH descriptor of the top directory; -1 if a dry run would make it.
        looking: opens directories in which entries are looked at.
        placing: opens directories in which entries get their names.
        folds: the file system takes different names for one.
        not_placed: paths of files and directories that are not in place.
        would_write: paths of files that a dry run would write.
        now_ns: time of access of what is written, in nanoseconds since 1970.

    Args:
        fs: system calls.
        place: of the top directory.
        options: of the tree.
        guard: refuses places; None refuses nothing.
        trace: hook for fault injection.

    Raises:
        TransferError: FILE_EXISTS, LEAF_IS_LINK or NOT_A_DIRECTORY because of what is at the place.
    """

    def __init__(
        self,
        fs: FileSystem,
        place: TreePlace,
        options: ReceiveOptions,
        guard: TreeGuard | None,
        trace: Callable[[str], None],
    ) -> None:
        self.fs = fs
        self.place = place
        self.options = options
        self.guard = guard
        self.trace = trace
        self.algorithm = DigestAlgorithm(options.algorithm)
        self.reply = trees_pb2.TreeReply()
        self.announced = 0
        self.problems = 0
        self.deleted = 0
        self.created = False
        self.top_mode_before: int | None = None
        self.made_usable: set[Directory] = set()
        self.staging: StagingDirectory | None = None
        self.top_fd = -1
        self.looking: Beneath | None = None
        self.placing: Beneath | None = None
        self.folds = False
        self.not_placed = Names()
        self.would_write = Names()
        self.now_ns = time.time_ns()
        with mapped(f"looking at {place.shown}"):
            self._refuse_top()

    def _refuse_top(self) -> os.stat_result | None:
        """Refuse what is at the place and no directory; return the directory's status, None if there is none."""
        status = self.fs.lstat(self.place.name, self.place.parent_fd)
        shown = self.place.shown
        if status is None:
            return None
        if self.options.atomic:
            raise TransferError(
                Reason.FILE_EXISTS, f"{shown} exists, and an atomic tree replaces nothing (TRE-12)"
            )
        if stat.S_ISLNK(status.st_mode):
            raise TransferError(Reason.LEAF_IS_LINK, f"{shown} is a symbolic link")
        if not stat.S_ISDIR(status.st_mode):
            raise TransferError(Reason.NOT_A_DIRECTORY, f"{shown} is no directory")
        return status

    def start(self) -> os.stat_result | None:
        """Make or open the top directory, and make the staging directory.

        Returns:
            The status of a top directory that exists, before anything was changed; otherwise None.

        Raises:
            TransferError: the place cannot be used.
        """
        place, fs, options = self.place, self.fs, self.options
        with mapped(f"receiving into {place.shown}"):
            before = self._refuse_top()
            self.created = before is None
            if options.dry_run and before is None:
                self.folds = bool(options.folds)
                return None
            if self.created and not options.atomic and not self._made_top():
                before, self.created = self._refuse_top(), False
            self._open_top()
            if not options.dry_run and self.staging is None:
                path = place.parent_path.rstrip(b"/") + b"/" + place.name
                self.staging = StagingDirectory(fs, self.top_fd, path, options)
            self.folds = self._decide_folds()
        self.trace("tree.started")
        return before

    def _made_top(self) -> bool:
        """Make the top directory; return False if another program, such as a second transfer, has just made it."""
        try:
            self.fs.mkdir(self.place.name, self.place.parent_fd, 0o700)
        except FileExistsError:
            return False
        return True

    def _open_top(self) -> None:
        """Open the top directory; make it before if it is staged."""
        place, fs, options = self.place, self.fs, self.options
        if options.atomic and not options.dry_run:
            self.staging = StagingDirectory(fs, place.parent_fd, place.parent_path, options)
            fs.mkdir(STAGED_TOP, self.staging.fd, 0o700)
            self.top_fd = fs.open(STAGED_TOP, PLACE, dir_fd=self.staging.fd)
        else:
            self.top_fd = fs.open(place.name, PLACE, dir_fd=place.parent_fd)
        if self.guard is not None and (message := self.guard.directory(fs.fstat(self.top_fd))) is not None:
            raise TransferError(Reason.PATH_FORBIDDEN, message)
        self.looking, self.placing = Beneath(fs, self.top_fd), Beneath(fs, self.top_fd)
        if not self.created and not options.dry_run:
            self.top_mode_before = self._opened_up(self.top_fd)

    def _decide_folds(self) -> bool:
        if self.options.folds is not None:
            return self.options.folds
        return self.staging is not None and self.staging.folds()

    def make_usable(self, directory: Directory, dir_fd: int) -> None:
        """Let this process use an own directory whose mode forbids it, until it is complete (TRE-47).

        Args:
            directory: that exists.
            dir_fd: its descriptor.

        Raises:
            OSError: its mode cannot be changed.
        """
        directory.mode_before = self._opened_up(dir_fd)
        if directory.mode_before is not None:
            self.made_usable.add(directory)

    def _opened_up(self, dir_fd: int) -> int | None:
        """Give this process all permissions for an own directory; return its permission bits if they were changed."""
        status = self.fs.fstat(dir_fd)
        if status.st_mode & 0o700 == 0o700 or status.st_uid != os.geteuid():
            return None
        mode = stat.S_IMODE(status.st_mode)
        self.fs.chmod_entry(dir_fd, mode | 0o700)
        return mode

    def remove_staging(self) -> None:
        """Remove what is staged; more than once is fine.

        Raises:
            OSError: a part of it could not be removed.
            TransferError: other programs change it.
        """
        if self.staging is not None:
            for _ in self.staging.remove():
                pass

    def close(self) -> None:
        """Close what is open. The staging directory has to be removed before."""
        for beneath in (self.looking, self.placing):
            if beneath is not None:
                beneath.close()
        self.looking = self.placing = None
        if self.top_fd >= 0:
            fd, self.top_fd = self.top_fd, -1
            self.fs.close(fd)

    # Outcomes

    def problem(self, number: int, reason: Reason | str, message: str) -> None:
        """Note that an entry did not get into place."""
        self.problems += 1
        name = reason if isinstance(reason, str) else reason.name
        self.reply.problems.add(entry=number, reason=name, message=message)

    def refusal(self, error: OSError | TransferError, doing: str) -> TransferError:
        """Return the reason for a failure that concerns one entry.

        Raises:
            TransferError: it prevents every further entry, too (TRE-59).
        """
        refusal = transfer_error(error, doing) if isinstance(error, OSError) else error
        if refusal.reason in _FATAL:
            raise refusal from error
        return refusal

    def failed(self, number: int, error: OSError | TransferError, doing: str) -> None:
        """Note that something failed for one entry; see `refusal`."""
        refusal = self.refusal(error, doing)
        self.problem(number, refusal.reason, refusal.message)

    def remove(self, name: bytes, dir_fd: int, path: bytes, private: object = None) -> bool:
        """Remove an entry that is in the way, or that the tree does not have; return False if it stays.

        Raises:
            OSError: it could not be removed.
            EntryError: it could not be removed.
            TransferError: the transfer was stopped.
        """
        if self.options.dry_run:
            self.reply.deleted.append(path)
            self.deleted += 1
            return True
        removal = Removal(self.fs, self.guard)
        try:
            for _ in removal.steps(name, dir_fd, private):
                self.options.check()
        finally:
            self.deleted += removal.removed
        if not removal.kept and removal.removed:
            self.reply.deleted.append(path)
        return not removal.kept

    def take_reply(self) -> trees_pb2.TreeReply:
        """Return what became of entries since the last reply."""
        reply, self.reply = self.reply, trees_pb2.TreeReply()
        reply.decided_entries = self.announced
        return reply
