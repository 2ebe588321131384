"""What a start-up makes of the uploads that an earlier agent left (RSM-3, RSM-7)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.requests import upload_request
from openshell_supervisor_sim.agent.core.wire_numbers import signed
from openshell_supervisor_sim.agent.errno_reasons import mapped
from openshell_supervisor_sim.agent.file_info import describe
from openshell_supervisor_sim.agent.filesystem import FileSystem, is_regular
from openshell_supervisor_sim.agent.journal import Journal, UploadRecord
from openshell_supervisor_sim.agent.live_upload import LiveUpload, StagedBudget, occupied_bytes
from openshell_supervisor_sim.agent.paths import Location, SandboxRoot, sync_directory
from openshell_supervisor_sim.agent.upload_status import UNFINISHED
from openshell_supervisor_sim.agent.uploads import Uploads

_log = logging.getLogger(__name__)

_GONE = frozenset({Reason.PARENT_NOT_FOUND, Reason.NOT_A_DIRECTORY})


class Recovery:
    """Brings journal, directories and memory together before the first operation.

    A finish that was under way when the agent died is decided by looking: the
    intent in the journal names the staged inode. If the staging name is gone
    and the destination has that inode, the rename happened.
    """

    def __init__(
        self,
        *,
        root: SandboxRoot,
        journal: Journal,
        uploads: Uploads,
        fs: FileSystem,
        budget: StagedBudget,
        clock: Callable[[], float],
    ) -> None:
        self._root = root
        self._journal = journal
        self._uploads = uploads
        self._fs = fs
        self._budget = budget
        self._clock = clock

    def run(self) -> None:
        """Remove orphans and take over what is unfinished.

        Raises:
            TransferError: the journal cannot be read or written.
        """
        for parent, name in self._journal.names():
            self._remove_orphan(parent, name)
        for record in self._journal.in_states(*UNFINISHED):
            self._recover(record)

    def _remove_orphan(self, parent: bytes, name: bytes) -> None:
        try:
            with self._root.reopen(parent, name) as location, mapped("removing a staging file"):
                self._fs.unlink(name, location.parent_fd)
        except TransferError as error:
            if error.reason not in _GONE:
                _log.warning("a staging file of an earlier agent stays: %s", error)
                return
        self._journal.drop_name(parent, name)

    def _recover(self, record: UploadRecord) -> None:
        try:
            with self._root.reopen(record.parent, record.name) as location:
                self._decide(record, location)
        except TransferError as error:
            if error.reason in _GONE:
                self._journal.delete(record.upload_id)
                return
            # Perhaps a mount that is missing: the row waits for the next start.
            _log.warning("upload %s cannot be reached: %s", record.upload_id, error)

    def _decide(self, record: UploadRecord, location: Location) -> None:
        with mapped("looking at a staging file"):
            staged = self._fs.lstat(record.staging, location.parent_fd)
            present = self._fs.lstat(record.name, location.parent_fd)
        renamed = (
            record.state == files_pb2.UPLOAD_STATE_VERIFYING
            and record.inode != 0
            and present is not None
            and is_regular(present)
            and (signed(present.st_ino), present.st_size) == (record.inode, record.finish_size)
        )
        if renamed:
            self._published(record, location)
        elif staged is not None and is_regular(staged):
            status = files_pb2.UPLOAD_STATE_RECEIVING
            updated = max(record.updated, min(staged.st_mtime, self._clock()))
            record = replace(record, state=status, updated=updated, inode=0)
            metadata = files_pb2.UploadFileMetadata.FromString(record.metadata)
            upload = LiveUpload(
                replace(
                    upload_request(metadata, started=True),
                    digest_algorithm=DigestAlgorithm.of(record.digest_algorithm),
                ),
                location.path,
                record,
                fs=self._fs,
                budget=self._budget,
                clock=self._clock,
            )
            upload.staged = staged.st_size
            upload.durable = min(record.durable, staged.st_size)
            upload.occupied = occupied_bytes(staged)
            upload.updated = updated
            upload.hasher = None
            self._budget.adopt(upload.occupied)
            self._journal.write(record, durable=False)
            self._uploads.adopt(upload)
        else:
            # Removed, or published and replaced since: it cannot be known.
            self._journal.delete(record.upload_id)

    def _published(self, record: UploadRecord, location: Location) -> None:
        with mapped(f"looking at {location.path}"):
            # Left over only where publishing was a link and an unlink.
            self._fs.unlink(record.staging, location.parent_fd)
            published = self._fs.lstat(record.name, location.parent_fd)
        if published is None:
            raise TransferError(Reason.FILE_NOT_FOUND, f"{location.path} was removed while the agent started")
        metadata = upload_request(files_pb2.UploadFileMetadata.FromString(record.metadata), started=True)
        # The content was flushed before the rename. Described without being
        # opened: its mode may forbid that to its owner.
        durable = metadata.fsync and sync_directory(self._fs, location.parent_fd)
        result = files_pb2.UploadFileResponse(
            bytes_written=record.finish_size,
            file=describe(published, location.path, record.finish),
            upload_id=record.upload_id,
            durability=files_pb2.DURABILITY_FSYNC if durable else files_pb2.DURABILITY_RENAME,
        )
        self._journal.write(
            replace(
                record,
                state=files_pb2.UPLOAD_STATE_PUBLISHED,
                updated=self._clock(),
                result=result.SerializeToString(),
            ),
            durable=durable,
        )
