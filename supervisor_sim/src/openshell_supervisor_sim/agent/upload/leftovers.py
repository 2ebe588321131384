"""Removal of staging files, and a note of those that could not be removed (RSM-34)."""

from __future__ import annotations

import logging
import stat
import threading

from openshell_files_disk.filesystem.errno_reasons import mapped
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import TransferError

from openshell_supervisor_sim.agent.directories.removal import TreeRemoval
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot
from openshell_supervisor_sim.agent.store.journal import Journal
from openshell_supervisor_sim.agent.store.upload_record import UploadRecord

_log = logging.getLogger(__name__)


class Leftovers:
    """Removes staging files that no upload needs any more. Methods block, and any thread may call them.

    A file that cannot be removed now is noted in the journal: the sweeper
    tries again, and so does the next start.

    Args:
        root: the sandbox's root.
        journal: notes names that stay.
        fs: system calls.
    """

    def __init__(self, *, root: SandboxRoot, journal: Journal, fs: FileSystem) -> None:
        self._root = root
        self._journal = journal
        self._fs = fs
        self._lock = threading.Lock()
        self._noted: set[tuple[bytes, bytes]] = set()

    def remove(self, record: UploadRecord, directory: int | None) -> None:
        """Remove the staging file of an upload that has ended.

        Args:
            record: its row.
            directory: descriptor of its directory, which finds the file even
                if the directory was moved; None finds it by its path.
        """
        if directory is None:
            self._remove_by_path(record.parent, record.staging)
            return
        try:
            with mapped("removing a staging file"):
                self._fs.unlink(record.staging, directory)
        except TransferError as error:
            self.note(record.parent, record.staging, error)

    def note(self, parent: bytes, name: bytes, error: Exception) -> None:
        """Note a staging file that could not be removed.

        Args:
            parent: real path of its directory inside the root.
            name: of the file.
            error: for the log.
        """
        with self._lock:
            if (parent, name) in self._noted:
                return
            self._noted.add((parent, name))
        _log.warning("a staging file stays: %s", error)
        try:
            self._journal.add_name(parent, name)
        except TransferError:
            _log.exception("a staging file that stays is not in the journal")

    def remove_noted(self) -> None:
        """Try again to remove every file that is noted.

        Raises:
            TransferError: the journal cannot be written.
        """
        with self._lock:
            noted = list(self._noted)
        for parent, name in noted:
            if self._remove_by_path(parent, name):
                with self._lock:
                    self._noted.discard((parent, name))
                self._journal.drop_name(parent, name)

    def remove_orphan(self, parent: bytes, name: bytes) -> None:
        """Remove a staging file that an earlier agent noted, when the agent starts.

        The staged directory of a copy may have many entries, so the sweeper removes it.
        """
        if self._is_directory(parent, name):
            with self._lock:
                self._noted.add((parent, name))
        elif self._remove_by_path(parent, name):
            try:
                self._journal.drop_name(parent, name)
            except TransferError:
                _log.exception("the name of a staging file that was removed stays in the journal")

    def _remove_by_path(self, parent: bytes, name: bytes) -> bool:
        """Remove a file; False if that fails. A missing directory may have been moved, and may come back."""
        try:
            with self._root.reopen(parent, name) as location, mapped("removing a staging file"):
                status = location.lstat()
                if status is None or not stat.S_ISDIR(status.st_mode):
                    self._fs.unlink(name, location.parent_fd)
                else:
                    places = self._root.guarded_places()
                    for _ in TreeRemoval(self._fs, location, places, status, staged=True).steps():
                        pass
        except TransferError as error:
            self.note(parent, name, error)
            return False
        return True

    def _is_directory(self, parent: bytes, name: bytes) -> bool:
        try:
            with self._root.reopen(parent, name) as location:
                status = location.lstat()
                return status is not None and stat.S_ISDIR(status.st_mode)
        except TransferError:
            return False
