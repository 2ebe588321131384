"""All uploads of the sandbox: lookup, status, abort (RSM-2, RSM-7, RSM-31, RSM-34).

An upload ends in one order: first its state, then its row in the journal, then the staging file.
A later step that fails does not undo an earlier one, and no caller waits for a clean-up that fails.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from openshell_files_disk.filesystem.errno_reasons import mapped
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.requests import UploadKey
from openshell_supervisor_sim.agent.core.upload_life import UNFINISHED, Event, State
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt
from openshell_supervisor_sim.agent.paths.location import Location
from openshell_supervisor_sim.agent.paths.open_directories import OpenDirectories
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot
from openshell_supervisor_sim.agent.store.journal import Journal
from openshell_supervisor_sim.agent.store.keyed_locks import KeyedLocks
from openshell_supervisor_sim.agent.store.staging import open_named
from openshell_supervisor_sim.agent.store.upload_record import UploadRecord
from openshell_supervisor_sim.agent.upload.leftovers import Leftovers
from openshell_supervisor_sim.agent.upload.live_upload import Holder, LiveUpload
from openshell_supervisor_sim.agent.upload.status import (
    Caller,
    Verifying,
    finished_status,
    live_status,
    unknown_upload,
)

#: Restores an upload from its row and its directory; None if its staging file was removed or published.
Recover = Callable[[UploadRecord], LiveUpload | None]


class Uploads:
    """The uploads of one sandbox. Methods block, and any thread may call them.

    Args:
        root: the sandbox's root.
        journal: has the rows of all uploads, ended ones too.
        recover: restores an upload that a start-up could not reach.
        fs: system calls.
    """

    def __init__(self, *, root: SandboxRoot, journal: Journal, recover: Recover, fs: FileSystem) -> None:
        self._root = root
        self._journal = journal
        self._recover = recover
        self._fs = fs
        #: Guards `_live`; never held while something blocks.
        self._lock = threading.Lock()
        self._live: dict[str, LiveUpload] = {}
        self._reaching = KeyedLocks()
        self._directories = OpenDirectories(fs)
        self.leftovers = Leftovers(root=root, journal=journal, fs=fs)

    def close(self) -> None:
        """Close the directories of unfinished uploads; more than once is fine."""
        self._directories.close()

    def adopt(self, upload: LiveUpload, location: Location | None = None) -> None:
        """Add an upload: a new one, or one that an earlier agent left behind.

        Args:
            upload: with a row.
            location: of its staging file; looked up if it is None.
        """
        record = upload.row
        with self._lock:
            self._live[record.upload_id] = upload
        if location is not None:
            self._directories.add(record.upload_id, location.parent_fd)
            return
        # A directory that cannot be opened now is tried again by the first request that names the upload.
        with suppress(TransferError), self._root.reopen(record.parent, record.staging) as found:
            self._directories.add(record.upload_id, found.parent_fd)

    # Lookup

    def all_in_memory(self) -> list[LiveUpload]:
        """Return the unfinished uploads, and the ended ones whose row could not be written."""
        with self._lock:
            return list(self._live.values())

    def all_unfinished(self) -> list[LiveUpload]:
        """Return the unfinished uploads of all principals."""
        return [upload for upload in self.all_in_memory() if upload.unfinished]

    def unfinished_by(self, principal: str) -> list[LiveUpload]:
        """Return the unfinished uploads of one principal."""
        return [upload for upload in self.all_unfinished() if upload.row.principal == principal]

    def find(self, principal: str, key: UploadKey) -> LiveUpload | UploadRecord | None:
        """Return a principal's upload by one of its names: unfinished, or the row of an ended one (RSM-2).

        An upload that a start-up could not reach is looked at again; if that
        fails, it is returned with `unreachable` set.
        """
        found = self._find_live(principal, key)
        if found is not None and found.unreachable is not None:
            self._reach(found)
            found = self._find_live(principal, key)
        if found is not None:
            return found
        record = self._journal.find(principal, upload_id=key.upload_id, request_id=key.request_id)
        # An unfinished row without an upload in memory: a lost upload whose row could not be deleted.
        return None if record is None or record.state in UNFINISHED else record

    def _find_live(self, principal: str, key: UploadKey) -> LiveUpload | None:
        with self._lock:
            live = list(self._live.values()) if key.request_id else [self._live.get(key.upload_id)]
        for upload in live:
            if upload is None or upload.row.principal != principal:
                continue
            if key.upload_id or upload.row.request_id == key.request_id:
                return upload
        return None

    def _reach(self, upload: LiveUpload) -> None:
        record = upload.row
        with self._reaching.hold(record.upload_id):
            with self._lock:
                if self._live.get(record.upload_id) is not upload:
                    return
            try:
                found = self._recover(record)
            except TransferError as error:
                upload.cannot_be_reached(error)
                return
            if found is not None:
                self.adopt(found)
                return
            self._remove_from_memory(record.upload_id)
            self._directories.remove(record.upload_id)

    # Status

    def status(
        self, caller: Caller, key: UploadKey, *, digest: bool, interrupt: Interrupt
    ) -> files_pb2.UploadStatus:
        """Answer GetUpload (RSM-7).

        Raises:
            TransferError: UPLOAD_UNKNOWN, also for an upload of another caller (RSM-2) and for an
                upload whose staging file was removed; or the error of a directory that cannot be
                opened.
        """
        found = self.find(caller.principal, key)
        if isinstance(found, UploadRecord):
            return finished_status(found)
        if found is None:
            raise unknown_upload(key.upload_id or key.request_id)
        if digest and found.unreachable is None:
            self.read_prefix(found, interrupt)
        return live_status(found, digest=digest)

    def list_unfinished(self, caller: Caller) -> tuple[list[files_pb2.UploadStatus], int]:
        """Answer ListUploads: the caller's uploads, oldest first, and the bytes that they occupy (RSM-31)."""
        mine = self.unfinished_by(caller.principal)
        mine.sort(key=lambda upload: (upload.row.created, upload.row.upload_id))
        occupied = sum(upload.content.occupied for upload in mine)
        statuses = list[files_pb2.UploadStatus]()
        for upload in mine:
            # Skip an upload whose staging file was removed meanwhile.
            with suppress(TransferError):
                statuses.append(live_status(upload, digest=False))
        return statuses, occupied

    def read_prefix(self, upload: LiveUpload, interrupt: Interrupt) -> None:
        """Compute the digest of the staged bytes if it is unknown (RSM-15).

        Raises:
            TransferError: UPLOAD_UNKNOWN if the staging file was removed.
        """
        if upload.content.hashed:
            return
        record = upload.row
        with self._root.reopen(record.parent, record.name) as location:
            try:
                staging = open_named(self._fs, location, record.staging)
            except TransferError as error:
                if error.reason is Reason.UPLOAD_UNKNOWN:
                    self.lose(upload, error)
                raise
            try:
                with mapped(f"reading the staging file of {upload.path}"):
                    upload.read_prefix(staging.fd, interrupt)
            finally:
                staging.close()

    # Ends

    def publish(
        self, upload: LiveUpload, holder: Holder, response: files_pb2.UploadFileResponse, *, durable: bool
    ) -> None:
        """Record that an upload's staging file was renamed. A failure here does not undo the rename.

        Args:
            upload: the upload in state VERIFYING.
            holder: the stream that sent the finish.
            response: the answer to the finish.
            durable: flush the row, because the answer promises durability (UPL-9).
        """
        upload.publish(holder, response)
        self._conclude(upload, durable=durable)

    def end(
        self,
        upload: LiveUpload,
        event: Event,
        error: TransferError,
        *,
        holder: Holder | None = None,
        failure_reason: str = "",
    ) -> bool:
        """End an upload without publishing it, and record that; the caller removes the staging file.

        The arguments and the result are those of `LiveUpload.end`.
        """
        if not upload.end(event, error, holder=holder, failure_reason=failure_reason):
            return False
        self._conclude(upload, durable=False)
        return True

    def end_and_remove(
        self, upload: LiveUpload, event: Event, error: TransferError, *, failure_reason: str = ""
    ) -> bool:
        """End an upload from outside its stream, and remove its staging file; see `end`."""
        directory = self._directories.duplicate(upload.upload_id)
        try:
            ended = self.end(upload, event, error, failure_reason=failure_reason)
            if ended:
                self.leftovers.remove(upload.row, directory)
            return ended
        finally:
            if directory is not None:
                self._fs.close(directory)

    def lose(self, upload: LiveUpload, error: TransferError) -> None:
        """End an upload whose staging file is not where it was, so that its outcome is unknown.

        If the directory was moved, the file is removed there.
        """
        self.end_and_remove(upload, Event.STAGING_LOST, error)

    def abort(self, caller: Caller, upload_id: str) -> files_pb2.UploadStatus | Verifying:
        """Answer AbortUpload; an upload that has ended stays as it is (RSM-34).

        Raises:
            TransferError: UPLOAD_UNKNOWN; or the error of a directory that cannot be opened, if
                only the directory shows whether the upload was published.
        """
        found = self.find(caller.principal, UploadKey(upload_id, ""))
        if found is None:
            raise unknown_upload(upload_id)
        if not isinstance(found, LiveUpload):
            return finished_status(found)
        error = TransferError(Reason.UPLOAD_ABORTED, "the upload was aborted")
        if self.end_and_remove(found, Event.ABORTED, error) or found.state is not State.VERIFYING:
            return live_status(found, digest=False)
        if found.unreachable is not None:
            raise found.unreachable
        return Verifying(found)

    def _conclude(self, upload: LiveUpload, *, durable: bool) -> None:
        """Write an ended upload's row, and remove it from memory unless that failed."""
        try:
            if upload.resumable and upload.write_end(durable=durable):
                self._remove_from_memory(upload.upload_id)
        finally:
            if upload.resumable:
                self._directories.remove(upload.upload_id)
            upload.tell_settled()

    def conclude_again(self, upload: LiveUpload, *, forget: bool) -> None:
        """Try again to write the row of an ended upload that is still in memory.

        Args:
            upload: that has ended.
            forget: remove it from memory even if that fails.
        """
        self._conclude(upload, durable=False)
        if forget:
            self._remove_from_memory(upload.upload_id)

    def _remove_from_memory(self, upload_id: str) -> None:
        with self._lock:
            self._live.pop(upload_id, None)
