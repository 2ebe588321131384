"""All uploads that the sandbox knows: asking, ending, expiry (RSM-2, RSM-7, RSM-8, RSM-10)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.requests import UploadKey
from openshell_supervisor_sim.agent.errno_reasons import mapped
from openshell_supervisor_sim.agent.file_info import Interrupt
from openshell_supervisor_sim.agent.filesystem import FileSystem
from openshell_supervisor_sim.agent.journal import Journal, UploadRecord
from openshell_supervisor_sim.agent.live_upload import LiveUpload
from openshell_supervisor_sim.agent.paths import SandboxRoot
from openshell_supervisor_sim.agent.staging import open_named
from openshell_supervisor_sim.agent.upload_status import (
    UNFINISHED,
    Caller,
    Verifying,
    finished_status,
    unknown_upload,
)

_log = logging.getLogger(__name__)


class Uploads:
    """The uploads of one sandbox. Methods block and may be called from any thread.

    Args:
        root: the sandbox's root.
        journal: what survives.
        fs: system calls.
        clock: seconds since 1970.
    """

    def __init__(
        self, *, root: SandboxRoot, journal: Journal, fs: FileSystem, clock: Callable[[], float]
    ) -> None:
        self._root = root
        self._journal = journal
        self._fs = fs
        self._clock = clock
        #: Guards `_live` and `_reserved`; never held while something blocks.
        self._lock = threading.Lock()
        self._live: dict[str, LiveUpload] = {}
        self._reserved = 0

    @property
    def unfinished(self) -> int:
        """Uploads that can be found again and are not finished."""
        return len(self._live)

    def adopt(self, upload: LiveUpload) -> None:
        """Take an upload that an earlier agent left behind."""
        with self._lock:
            self._live[upload.row.upload_id] = upload

    def status(
        self, caller: Caller, key: UploadKey, *, digest: bool, interrupt: Interrupt
    ) -> files_pb2.UploadStatus:
        """Answer GetUpload; an upload that is not the caller's is UNKNOWN (RSM-2, RSM-7)."""
        found = self.find(caller.principal, key)
        if isinstance(found, LiveUpload):
            try:
                if digest:
                    self.read_prefix(found, interrupt)
                return found.status(digest=digest)
            except TransferError as error:
                # Its staging file is gone: an answer, not a failure of asking.
                if error.reason is not Reason.UPLOAD_UNKNOWN:
                    raise
        elif found is not None:
            return finished_status(found)
        return files_pb2.UploadStatus(
            upload_id=key.upload_id, request_id=key.request_id, state=files_pb2.UPLOAD_STATE_UNKNOWN
        )

    def unfinished_of(self, caller: Caller) -> tuple[list[files_pb2.UploadStatus], int]:
        """Answer ListUploads: the caller's own, oldest first, and the bytes they occupy (RSM-8)."""
        with self._lock:
            live = list(self._live.values())
        mine = [
            (upload.record.created, upload.record.upload_id, upload)
            for upload in live
            if upload.record is not None
            and upload.record.principal == caller.principal
            and upload.state in UNFINISHED
        ]
        mine.sort(key=lambda item: item[:2])
        occupied = sum(upload.occupied for _, _, upload in mine)
        return [upload.status(digest=False) for _, _, upload in mine], occupied

    def abort(self, caller: Caller, upload_id: str) -> files_pb2.UploadStatus | Verifying:
        """Answer AbortUpload; an upload that has ended stays as it is (RSM-10).

        Raises:
            TransferError: UPLOAD_UNKNOWN.
        """
        found = self.find(caller.principal, UploadKey(upload_id, ""))
        if found is None:
            raise unknown_upload(upload_id)
        if not isinstance(found, LiveUpload):
            return finished_status(found)
        error = TransferError(Reason.UPLOAD_ABORTED, "the upload was given up")
        if self._end_receiving(found, files_pb2.UPLOAD_STATE_ABORTED, error):
            return found.status(digest=False)
        return (
            Verifying(found)
            if found.state == files_pb2.UPLOAD_STATE_VERIFYING
            else found.status(digest=False)
        )

    def expire(self, tombstone_seconds: float) -> int:
        """End uploads without a byte for too long, forget old outcomes (RSM-6, RSM-8).

        Returns:
            Uploads that expired.
        """
        now = self._clock()
        with self._lock:
            live = list(self._live.values())
        expired = 0
        for upload in live:
            record = upload.row
            if now - upload.updated > record.expiry:
                error = TransferError(Reason.UPLOAD_EXPIRED, f"no byte came for {record.expiry:g} seconds")
                expired += self._end_receiving(upload, files_pb2.UPLOAD_STATE_EXPIRED, error)
            if upload.state not in UNFINISHED and now - upload.updated > tombstone_seconds:
                with self._lock:
                    self._live.pop(record.upload_id, None)
        self._journal.purge(now - tombstone_seconds, keep_states=UNFINISHED)
        return expired

    def _end_receiving(
        self, upload: LiveUpload, state: files_pb2.UploadState.ValueType, error: TransferError
    ) -> bool:
        """End an upload from outside its stream; False if a finish came first."""
        with upload.lock:
            if upload.state != files_pb2.UPLOAD_STATE_RECEIVING:
                return False
            upload.state = state
            upload.take_over(None, error)
        self._remove_staging(upload)
        self.retire(upload, state, "")
        return True

    def _remove_staging(self, upload: LiveUpload) -> None:
        record = upload.row
        try:
            with (
                self._root.reopen(record.parent, record.staging) as location,
                mapped("removing a staging file"),
            ):
                self._fs.unlink(record.staging, location.parent_fd)
        except TransferError as error:
            if error.reason not in {Reason.PARENT_NOT_FOUND, Reason.NOT_A_DIRECTORY}:
                _log.warning("the staging file of upload %s stays: %s", record.upload_id, error)

    def retire(self, upload: LiveUpload, state: files_pb2.UploadState.ValueType, failure_reason: str) -> None:
        """Record how an upload ended, and forget it in memory."""
        if upload.record is None:
            upload.settle(state)
            return
        keep = upload.result is not None
        with upload.lock:
            upload.holder = None
            if state != files_pb2.UPLOAD_STATE_PUBLISHED:
                upload.release()
                upload.updated = self._clock()
                upload.record = replace(
                    upload.record, state=state, updated=upload.updated, failure_reason=failure_reason
                )
                try:
                    self._journal.write(upload.record, durable=False)
                except TransferError:
                    _log.exception("the end of upload %s is not in the journal", upload.record.upload_id)
                    keep = True
            upload_id = upload.record.upload_id
        if not keep:
            with self._lock:
                self._live.pop(upload_id, None)
        upload.settle(state)

    def forget(self, upload: LiveUpload, error: TransferError) -> None:
        """Drop an upload whose staging file is gone: what became of it cannot be known."""
        record = upload.row
        with upload.lock:
            if upload.state != files_pb2.UPLOAD_STATE_RECEIVING:
                return
            upload.state = files_pb2.UPLOAD_STATE_UNKNOWN
            upload.release()
            upload.take_over(None, error)
        with self._lock:
            self._live.pop(record.upload_id, None)
        self._journal.delete(record.upload_id)

    def find(self, principal: str, key: UploadKey) -> LiveUpload | UploadRecord | None:
        """Return a principal's upload by one of its names: live, or as it ended (RSM-2)."""
        with self._lock:
            live = list(self._live.values()) if key.request_id else [self._live.get(key.upload_id)]
        for upload in live:
            record = upload.record if upload is not None else None
            if record is None or record.principal != principal:
                continue
            if key.upload_id or record.request_id == key.request_id:
                return upload
        found = self._journal.find(principal, upload_id=key.upload_id, request_id=key.request_id)
        # Unfinished, but not live: its directory could not be reached at the start.
        return None if found is None or found.state in UNFINISHED else found

    @contextmanager
    def slot(self, caller: Caller) -> Generator[None]:
        """Keep a place for one more upload while it is admitted.

        Raises:
            TransferError: TOO_MANY_UPLOADS (RSM-8).
        """
        limit = caller.limits.max_uploads
        with self._lock:
            if len(self._live) + self._reserved >= limit:
                raise TransferError(
                    Reason.TOO_MANY_UPLOADS,
                    f"the sandbox keeps {len(self._live)} unfinished uploads, at most {limit} are allowed",
                    {"max_uploads_per_sandbox": str(limit)},
                )
            self._reserved += 1
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= 1

    def save(self, upload: LiveUpload) -> None:
        """Write the upload's row; call with its lock held."""
        record = upload.current_record()
        if record is not None:
            self._journal.write(record, durable=False)

    def raise_epoch(self, upload: LiveUpload) -> None:
        """Begin a new attempt (RSM-5); call with the upload's lock held."""
        upload.updated = self._clock()
        upload.record = replace(upload.row, epoch=upload.row.epoch + 1)
        self.save(upload)

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
                    self.forget(upload, error)
                raise
            try:
                with mapped(f"reading the staging file of {upload.path}"):
                    upload.read_prefix(staging.fd, interrupt)
            finally:
                staging.close()
