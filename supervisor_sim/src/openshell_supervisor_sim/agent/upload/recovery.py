"""Recovery: the uploads of an earlier agent, which were published, can be resumed, or are lost (RSM-3, RSM-7)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from google.protobuf.message import DecodeError
from openshell_files_disk.filesystem.errno_reasons import mapped
from openshell_files_disk.filesystem.handles import FileSystem, is_regular
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.requests import UploadRequest, recorded, upload_request
from openshell_supervisor_sim.agent.core.upload_life import State, restored
from openshell_supervisor_sim.agent.core.wire_numbers import signed
from openshell_supervisor_sim.agent.filesystem.file_digest import digest_of_file
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt, describe
from openshell_supervisor_sim.agent.paths.location import Location, sync_directory
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot
from openshell_supervisor_sim.agent.store.journal import Journal, JournalError
from openshell_supervisor_sim.agent.store.upload_record import NonsenseError, UploadRecord
from openshell_supervisor_sim.agent.upload.live_upload import LiveUpload
from openshell_supervisor_sim.agent.upload.registry import Uploads
from openshell_supervisor_sim.agent.upload.staged_budget import StagedBudget
from openshell_supervisor_sim.agent.upload.staged_content import StagedContent, occupied_bytes
from openshell_supervisor_sim.agent.upload.status import path_of

_log = logging.getLogger(__name__)

_GONE = frozenset({Reason.PARENT_NOT_FOUND, Reason.NOT_A_DIRECTORY})

#: Largest difference between the requested time of a published file and its actual time: file
#: systems round to one or two seconds, and the kernel's clock advances every 10 ms or less.
_TIME_TOLERANCE_NS: Final = 2_000_000_000


class Recovery:
    """Restores uploads from journal and directories before the first operation.

    A finish that was under way when the agent died is decided by looking: the
    intent in the journal names the inode of the staging file. If the staging
    file has no name any more and the destination is that inode, the rename
    happened. File systems reuse inode numbers, so size and time must match as
    well; if the time differs, the content decides.

    Args:
        root: the sandbox's root.
        journal: rows of an earlier agent.
        fs: system calls.
        budget: bytes that may be staged.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        *,
        root: SandboxRoot,
        journal: Journal,
        fs: FileSystem,
        budget: StagedBudget,
        clock: Callable[[], float],
    ) -> None:
        self._root = root
        self._journal = journal
        self._fs = fs
        self._budget = budget
        self._clock = clock

    def run(self, uploads: Uploads) -> None:
        """Remove orphans and restore unfinished uploads.

        A row that cannot be understood is set aside, and an upload whose
        directory cannot be reached is tried again by the first request that
        names it: no row keeps the agent from starting.

        Raises:
            TransferError: the journal cannot be read.
        """
        for parent, name in self._journal.names():
            uploads.leftovers.remove_orphan(parent, name)
        for upload_id in self._journal.unfinished():
            try:
                record = self._journal.get(upload_id)
                upload = None if record is None else self._restored(record)
            except NonsenseError as error:
                _log.error("the row of upload %s makes no sense and is set aside: %s", upload_id, error)
                self._best_effort(partial(self._journal.set_aside, upload_id))
                continue
            except JournalError as error:
                _log.error("the row of upload %s cannot be read: %s", upload_id, error)
                continue
            if upload is not None:
                uploads.adopt(upload)

    def _restored(self, record: UploadRecord) -> LiveUpload | None:
        try:
            return self.recover(record)
        except TransferError as error:
            _log.warning("upload %s cannot be reached: %s", record.upload_id, error)
            upload = self._upload(record, path_of(record), restored(record.state), parents_flushed=True)
            upload.content.found(size=record.durable, occupied=0, durable=record.durable)
            upload.cannot_be_reached(error)
            return upload

    def recover(self, record: UploadRecord) -> LiveUpload | None:
        """Find out the state of an unfinished upload.

        Returns:
            The upload, to be resumed; None if its staging file was removed, or if it was published:
            then the journal has the result.

        Raises:
            TransferError: its directory cannot be reached now, perhaps
                because a mount is missing.
        """
        request = _request(record)
        try:
            with self._root.reopen(record.parent, record.name) as location:
                return self._decide(record, request, location)
        except TransferError as error:
            if error.reason not in _GONE:
                raise
            self._best_effort(lambda: self._journal.set_aside(record.upload_id))
            return None

    def _decide(self, record: UploadRecord, request: UploadRequest, location: Location) -> LiveUpload | None:
        with mapped("looking at a staging file"):
            staged = self._fs.lstat(record.staging, location.parent_fd)
        if self._was_published(record, request, location):
            self._published(record, request, location)
            return None
        if staged is None or not is_regular(staged):
            # Removed, or published and replaced since: the outcome is unknown.
            self._best_effort(lambda: self._journal.delete(record.upload_id))
            return None
        updated = max(record.updated, min(staged.st_mtime, self._clock()))
        record = replace(
            record, state=files_pb2.UPLOAD_STATE_RECEIVING, updated=updated, inode=0, metadata=_stored(record)
        )
        # An earlier agent may have failed to flush the directories that it made on the way.
        upload = self._upload(record, location.path, State.IDLE, parents_flushed=not request.create_parents)
        upload.content.found(staged.st_size, occupied_bytes(staged), durable=record.durable)
        self._best_effort(lambda: self._journal.write(record, durable=False))
        return upload

    def _was_published(self, record: UploadRecord, request: UploadRequest, location: Location) -> bool:
        if record.state != files_pb2.UPLOAD_STATE_VERIFYING or record.inode == 0:
            return False
        with mapped(f"looking at {location.path}"):
            present = self._fs.lstat(record.name, location.parent_fd)
            if present is None or not is_regular(present):
                return False
            if (signed(present.st_ino), present.st_size) != (record.inode, record.finish_size):
                return False
            given = request.modified_ns
            expected = round(record.updated * 1e9) if given is None else given
            if abs(present.st_mtime_ns - expected) <= _TIME_TOLERANCE_NS:
                return True
            if record.finish is None:
                return False
            fd = self._fs.open(record.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=location.parent_fd)
            try:
                algorithm = record.finish.algorithm
                found, _ = digest_of_file(self._fs, fd, present.st_size, Interrupt(), algorithm)
            finally:
                self._fs.close(fd)
        return found == record.finish

    def _upload(self, record: UploadRecord, path: str, state: State, *, parents_flushed: bool) -> LiveUpload:
        return LiveUpload(
            _request(record),
            path,
            record,
            content=StagedContent(record.algorithm, self._fs, self._budget),
            journal=self._journal,
            clock=self._clock,
            algorithm=record.algorithm,
            state=state,
            parents_flushed=parents_flushed,
        )

    def _published(self, record: UploadRecord, request: UploadRequest, location: Location) -> None:
        with mapped(f"looking at {location.path}"):
            # It exists only where publishing was a link and an unlink.
            self._fs.unlink(record.staging, location.parent_fd)
            published = self._fs.lstat(record.name, location.parent_fd)
        if published is None:
            raise TransferError(Reason.FILE_NOT_FOUND, f"{location.path} was removed while the agent started")
        # The content was flushed before the rename. The file is described
        # without being opened: its mode may forbid that to its owner.
        durable = (
            request.fsync
            and (not request.create_parents or self._root.directories.flush_parents(location.parent_path))
            and sync_directory(self._fs, location.parent_fd)
        )
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
                metadata=_stored(record),
                result=result.SerializeToString(),
            ),
            durable=durable,
        )

    def _best_effort(self, work: Callable[[], object]) -> None:
        """Change the journal; if that fails, the next start finds the same and does the same."""
        try:
            work()
        except TransferError:
            _log.exception("the state that a start-up found is not in the journal")


def _metadata(record: UploadRecord) -> files_pb2.UploadFileMetadata:
    try:
        return files_pb2.UploadFileMetadata.FromString(record.metadata)
    except DecodeError as error:
        raise NonsenseError(f"its metadata is no message: {error}") from error


def _request(record: UploadRecord) -> UploadRequest:
    try:
        return upload_request(_metadata(record), started=True)
    except TransferError as error:
        raise NonsenseError(str(error)) from error


def _stored(record: UploadRecord) -> bytes:
    """Return the metadata as this agent stores it; an older agent stored unknown fields, too."""
    return recorded(_metadata(record))
