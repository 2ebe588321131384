"""All uploads that the sandbox knows: asking, ending, expiry (RSM-2, RSM-7, RSM-8, RSM-10).

An upload ends in one order, whatever the reason: its state first, then the
journal, then the staging file. What fails later cannot undo what came before,
and nobody waits for a clean-up that fails.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import replace

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.requests import UploadKey
from openshell_supervisor_sim.agent.core.upload_life import LOST, UNFINISHED, Event
from openshell_supervisor_sim.agent.filesystem.errno_reasons import mapped
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt
from openshell_supervisor_sim.agent.filesystem.handles import FileSystem
from openshell_supervisor_sim.agent.paths.held_directories import HeldDirectories
from openshell_supervisor_sim.agent.paths.location import Location
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot
from openshell_supervisor_sim.agent.store.journal import Journal
from openshell_supervisor_sim.agent.store.keyed_locks import KeyedLocks
from openshell_supervisor_sim.agent.store.staging import open_named
from openshell_supervisor_sim.agent.store.upload_record import UploadRecord
from openshell_supervisor_sim.agent.upload.live_upload import Holder, LiveUpload
from openshell_supervisor_sim.agent.upload.status import (
    Caller,
    Verifying,
    finished_status,
    unknown_upload,
)

_log = logging.getLogger(__name__)

#: Looks at a row's directory: the upload as it stands, or None if nothing is left of it.
Recover = Callable[[UploadRecord], LiveUpload | None]


class Uploads:
    """The uploads of one sandbox. Methods block and may be called from any thread.

    Args:
        root: the sandbox's root.
        journal: what survives.
        recover: looks again at what a start-up could not reach.
        fs: system calls.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        *,
        root: SandboxRoot,
        journal: Journal,
        recover: Recover,
        fs: FileSystem,
        clock: Callable[[], float],
    ) -> None:
        self._root = root
        self._journal = journal
        self._recover = recover
        self._fs = fs
        self._clock = clock
        #: Guards `_live`, `_reserved` and `_left_behind`; never held while something blocks.
        self._lock = threading.Lock()
        self._live: dict[str, LiveUpload] = {}
        self._reserved: Counter[str] = Counter()
        #: Staging files whose unlink failed, by directory and name.
        self._left_behind: set[tuple[bytes, bytes]] = set()
        self._reaching = KeyedLocks()
        self._directories = HeldDirectories(fs)

    def close(self) -> None:
        """Close the directories of unfinished uploads; more than once is fine."""
        self._directories.close()

    @property
    def unfinished(self) -> int:
        """Uploads that can be found again and are not finished."""
        with self._lock:
            return sum(upload.unfinished for upload in self._live.values())

    def adopt(self, upload: LiveUpload, location: Location | None = None) -> None:
        """Know an upload: a new one, or one that an earlier agent left behind.

        Args:
            upload: it.
            location: where its staging file is; looked up if not given.
        """
        record = upload.row
        with self._lock:
            self._live[record.upload_id] = upload
        if location is not None:
            self._directories.hold(record.upload_id, location.parent_fd)
            return
        # Where it cannot be reached now, whoever asks for it tries again.
        with suppress(TransferError), self._root.reopen(record.parent, record.staging) as found:
            self._directories.hold(record.upload_id, found.parent_fd)

    # Asking

    def find(self, principal: str, key: UploadKey) -> LiveUpload | UploadRecord | None:
        """Return a principal's upload by one of its names: live, or as it ended (RSM-2).

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
        # Unfinished, but not live: the row of a lost upload that could not be deleted.
        return None if record is None or record.state in UNFINISHED else record

    def _find_live(self, principal: str, key: UploadKey) -> LiveUpload | None:
        with self._lock:
            live = list(self._live.values()) if key.request_id else [self._live.get(key.upload_id)]
        for upload in live:
            record = upload.record if upload is not None else None
            if record is None or record.principal != principal:
                continue
            if key.upload_id or record.request_id == key.request_id:
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
                upload.unreachable = error
                return
            if found is not None:
                self.adopt(found)
                return
            with self._lock:
                del self._live[record.upload_id]
            self._directories.let_go(record.upload_id)

    def status(
        self, caller: Caller, key: UploadKey, *, digest: bool, interrupt: Interrupt
    ) -> files_pb2.UploadStatus:
        """Answer GetUpload (RSM-7).

        Raises:
            TransferError: UPLOAD_UNKNOWN, also for an upload of another caller (RSM-2) and for one whose
                staging file is gone; or its directory cannot be reached.
        """
        found = self.find(caller.principal, key)
        if isinstance(found, UploadRecord):
            return finished_status(found)
        if found is None:
            raise unknown_upload(key.upload_id or key.request_id)
        if digest and found.unreachable is None:
            self.read_prefix(found, interrupt)
        return _live_status(found, digest=digest)

    def unfinished_of(self, caller: Caller) -> tuple[list[files_pb2.UploadStatus], int]:
        """Answer ListUploads: the caller's own, oldest first, and the bytes they occupy (RSM-8)."""
        mine = self._unfinished_by(caller.principal)
        mine.sort(key=lambda upload: (upload.row.created, upload.row.upload_id))
        occupied = sum(upload.occupied for upload in mine)
        return [upload.status(digest=False) for upload in mine], occupied

    def _unfinished_by(self, principal: str) -> list[LiveUpload]:
        with self._lock:
            live = list(self._live.values())
        return [upload for upload in live if upload.unfinished and upload.row.principal == principal]

    # Ending

    def published(self, upload: LiveUpload, response: files_pb2.UploadFileResponse, *, durable: bool) -> None:
        """Record that an upload's file has its name. Nothing that fails here undoes it.

        Args:
            upload: whose finish was carried out.
            response: the answer to it.
            durable: flush the record, since the answer promises as much (UPL-9).
        """
        upload.publish(response)
        self._conclude(upload, durable=durable)

    def end(
        self,
        upload: LiveUpload,
        event: Event,
        error: TransferError,
        *,
        holder: Holder | None = None,
        idle: bool = False,
        failure_reason: str = "",
    ) -> bool:
        """End an upload without publishing it, and record that; the staging file is the caller's to remove.

        The arguments are those of `LiveUpload.end`.

        Returns:
            False if the upload goes on.
        """
        if not upload.end(event, error, holder=holder, idle=idle, failure_reason=failure_reason):
            return False
        self._conclude(upload, durable=False)
        return True

    def _conclude(self, upload: LiveUpload, *, durable: bool) -> None:
        """Write an ended upload's row and forget it in memory, or keep it there until the row is written."""
        try:
            if upload.record is not None and self._recorded(upload, durable=durable):
                with self._lock:
                    self._live.pop(upload.record.upload_id, None)
        finally:
            if upload.record is not None:
                self._directories.let_go(upload.record.upload_id)
            upload.tell_settled()

    def _recorded(self, upload: LiveUpload, *, durable: bool) -> bool:
        record = upload.row
        try:
            if upload.state == LOST:
                self._journal.delete(record.upload_id)
            else:
                self._journal.write(record, durable=durable)
        except TransferError:
            _log.exception("the end of upload %s is not in the journal", record.upload_id)
            return False
        return True

    def abort(self, caller: Caller, upload_id: str) -> files_pb2.UploadStatus | Verifying:
        """Answer AbortUpload; an upload that has ended stays as it is (RSM-10).

        Raises:
            TransferError: UPLOAD_UNKNOWN; or why its directory cannot be
                reached, if only that tells whether it was published.
        """
        found = self.find(caller.principal, UploadKey(upload_id, ""))
        if found is None:
            raise unknown_upload(upload_id)
        if not isinstance(found, LiveUpload):
            return finished_status(found)
        error = TransferError(Reason.UPLOAD_ABORTED, "the upload was given up")
        if self._end_and_free(found, Event.GIVEN_UP, error):
            return found.status(digest=False)
        if found.state != files_pb2.UPLOAD_STATE_VERIFYING:
            return _live_status(found, digest=False)
        if found.unreachable is not None:
            raise found.unreachable
        return Verifying(found)

    def _end_and_free(
        self,
        upload: LiveUpload,
        event: Event,
        error: TransferError,
        *,
        idle: bool = False,
        failure_reason: str = "",
    ) -> bool:
        """End an upload from outside its stream, and remove its staging file."""
        record = upload.row
        directory = self._directories.borrow(record.upload_id)
        try:
            ended = self.end(upload, event, error, idle=idle, failure_reason=failure_reason)
            if ended and directory is not None:
                self._remove_from(directory, record.parent, record.staging)
            elif ended:
                self._remove(record.parent, record.staging)
            return ended
        finally:
            if directory is not None:
                self._fs.close(directory)

    def lose(self, upload: LiveUpload, error: TransferError) -> None:
        """End an upload whose staging file is not where it was: what became of it cannot be known.

        If its directory was moved, the file is removed there.
        """
        self._end_and_free(upload, Event.LOST, error)

    def _remove_from(self, directory: int, parent: bytes, name: bytes) -> None:
        """Remove a staging file from a directory that is open, wherever it was moved to."""
        try:
            with mapped("removing a staging file"):
                self._fs.unlink(name, directory)
        except TransferError as error:
            self.leave_behind(parent, name, error)

    def _remove(self, parent: bytes, name: bytes) -> bool:
        """Remove a staging file by its path; one that stays, or may come back, is tried again."""
        try:
            with self._root.reopen(parent, name) as location, mapped("removing a staging file"):
                self._fs.unlink(name, location.parent_fd)
        except TransferError as error:
            self.leave_behind(parent, name, error)
            return False
        return True

    def leave_behind(self, parent: bytes, name: bytes, error: Exception) -> None:
        """Note a staging file that could not be removed: the sweeper and the next start try again."""
        with self._lock:
            if (parent, name) in self._left_behind:
                return
            self._left_behind.add((parent, name))
        _log.warning("a staging file stays: %s", error)
        try:
            self._journal.add_name(parent, name)
        except TransferError:
            _log.exception("a staging file that stays is not in the journal")

    # Time

    def expire(self, tombstone_seconds: float) -> int:
        """End uploads without a byte for too long, forget old outcomes (RSM-6, RSM-8).

        Returns:
            Uploads that expired.
        """
        now = self._clock()
        with self._lock:
            live = list(self._live.values())
            left_behind = list(self._left_behind)
        expired = 0
        for upload in live:
            if not upload.unfinished:
                # Its end could not be written to the journal.
                self._conclude(upload, durable=False)
                if now - upload.updated > tombstone_seconds:
                    with self._lock:
                        self._live.pop(upload.row.upload_id, None)
            elif now - upload.updated > upload.row.expiry:
                error = TransferError(
                    Reason.UPLOAD_EXPIRED, f"no byte came for {upload.row.expiry:g} seconds"
                )
                expired += self._end_and_free(upload, Event.EXPIRED, error)
        for parent, name in left_behind:
            self._remove_left_behind(parent, name)
        self._journal.purge(now - tombstone_seconds)
        return expired

    def _remove_left_behind(self, parent: bytes, name: bytes) -> None:
        if self._remove(parent, name):
            with self._lock:
                self._left_behind.discard((parent, name))
            self._journal.drop_name(parent, name)

    # Slots

    @contextmanager
    def slot(self, caller: Caller) -> Generator[None]:
        """Keep a place for one more upload while it is admitted.

        If the caller's principal has none left, its upload that moved least
        recently gives way, unless a stream has it. Another principal's never
        does.

        Raises:
            TransferError: TOO_MANY_UPLOADS (RSM-8).
        """
        while (error := self._reserve(caller)) is not None:
            if not self._give_way(caller.principal):
                raise error
        try:
            yield
        finally:
            with self._lock:
                self._reserved[caller.principal] -= 1
                if not self._reserved[caller.principal]:
                    del self._reserved[caller.principal]

    def _reserve(self, caller: Caller) -> TransferError | None:
        with self._lock:
            error = self._full(caller)
            if error is None:
                self._reserved[caller.principal] += 1
            return error

    def _full(self, caller: Caller) -> TransferError | None:
        """Return why there is no slot; call with the lock held."""
        counts = Counter(
            upload.row.principal for upload in self._live.values() if upload.counted and upload.unfinished
        )
        counts.update(self._reserved)
        limits = caller.limits
        if (own := counts[caller.principal]) >= limits.max_uploads_per_principal:
            return _too_many(
                f"{own} of your uploads are unfinished and receiving, and one caller may have "
                f"{limits.max_uploads_per_principal}",
                "max_uploads_per_principal",
                limits.max_uploads_per_principal,
            )
        if (total := counts.total()) >= limits.max_uploads:
            return _too_many(
                f"the sandbox keeps {total} unfinished uploads of all its callers, and may keep {limits.max_uploads}",
                "max_uploads_per_sandbox",
                limits.max_uploads,
            )
        return None

    def _give_way(self, principal: str) -> bool:
        """End the principal's upload that moved least recently and that no stream has."""
        candidates = [upload for upload in self._unfinished_by(principal) if upload.counted]
        candidates.sort(key=lambda upload: (upload.updated, upload.row.upload_id))
        error = TransferError(Reason.UPLOAD_EXPIRED, "the upload gave way to a newer one of its caller")
        return any(
            self._end_and_free(
                upload, Event.EXPIRED, error, idle=True, failure_reason=Reason.TOO_MANY_UPLOADS.name
            )
            for upload in candidates
        )

    def keep(self, upload: LiveUpload, caller: Caller) -> bool:
        """Give an upload that took no slot one, since it stays unfinished.

        Returns:
            False if there is none.
        """
        with self._lock:
            if not upload.counted:
                if self._full(caller) is not None:
                    return False
                upload.counted = True
            return True

    # Attempts

    def leave(self, upload: LiveUpload, holder: Holder, flushed: tuple[int, int] | None) -> None:
        """Note that a stream left an upload that others can go on with.

        Args:
            upload: what it wrote to.
            holder: the stream.
            flushed: content that it flushed, see `LiveUpload.flushed`. It
                counts once the row says so, and the row is flushed too.
        """
        with upload.lock:
            before = upload.durable
            if flushed is not None:
                upload.flushed(flushed)
            if upload.holder is not holder or not upload.unfinished:
                return
            upload.holder = None
            try:
                self._journal.write(upload.current_record(), durable=upload.durable > before)
            except TransferError:
                # The older row promises less, and the file tells the rest.
                upload.durable = before
                _log.exception("the progress of an upload is not in the journal")

    def raise_epoch(self, upload: LiveUpload) -> None:
        """Begin a new attempt (RSM-5); call with the upload's lock held.

        Raises:
            TransferError: it cannot be recorded; the epoch is as it was.
        """
        upload.updated = self._clock()
        record = replace(upload.current_record(), epoch=upload.row.epoch + 1)
        self._journal.write(record, durable=False)
        upload.record = record

    def read_prefix(self, upload: LiveUpload, interrupt: Interrupt) -> None:
        """Compute the digest of the staged bytes if it is not known (RSM-4)."""
        record = upload.record
        if upload.hasher is not None or record is None:
            return
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


def _live_status(upload: LiveUpload, *, digest: bool) -> files_pb2.UploadStatus:
    status = upload.status(digest=digest)
    if status.state == LOST:
        # Its row could not be deleted yet.
        raise unknown_upload(status.upload_id)
    return status


def _too_many(message: str, limit: str, value: int) -> TransferError:
    return TransferError(
        Reason.TOO_MANY_UPLOADS,
        f"{message}; `openshell-files uploads` lists yours, `openshell-files abort` gives one up",
        {limit: str(value)},
    )
