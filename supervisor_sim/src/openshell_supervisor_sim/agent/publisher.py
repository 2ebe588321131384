"""Publishing: from a verified staging file to the destination (UPL-8 to UPL-12)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from openshell_files_protocol.digests import Digest
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2

from openshell_supervisor_sim.agent.core.requests import Absent, UploadRequest
from openshell_supervisor_sim.agent.core.wire_numbers import signed
from openshell_supervisor_sim.agent.destination import DestinationCheck, publish_mode
from openshell_supervisor_sim.agent.errno_reasons import mapped, transfer_error
from openshell_supervisor_sim.agent.file_info import Interrupt, describe
from openshell_supervisor_sim.agent.filesystem import FileSystem
from openshell_supervisor_sim.agent.journal import Journal
from openshell_supervisor_sim.agent.keyed_locks import KeyedLocks
from openshell_supervisor_sim.agent.live_upload import LiveUpload
from openshell_supervisor_sim.agent.paths import Location
from openshell_supervisor_sim.agent.staging import Staging
from openshell_supervisor_sim.agent.trace_points import Trace, TracePoint

_log = logging.getLogger(__name__)

#: To free less takes no longer than to arrange that nobody waits for it.
_LARGE_BYTES: Final = 16 * MIB


class FlushFailedError(Exception):
    """The device failed while content was flushed: what is staged cannot be trusted."""

    def __init__(self, error: TransferError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Content:
    """What is going to be published, as computed in the sandbox."""

    size_bytes: int
    digest: Digest


class Publisher:
    """Carries out finishes, one at a time for each destination (CND-2).

    Args:
        check: compares destinations with conditions.
        journal: takes the intent before the rename and the result after it.
        fs: system calls.
        umask: for files without a mode.
        clock: seconds since 1970.
        trace: hook, see `TracePoint`.
        later: runs work in another thread; nobody waits for it.
    """

    def __init__(
        self,
        *,
        check: DestinationCheck,
        journal: Journal,
        fs: FileSystem,
        umask: int,
        clock: Callable[[], float],
        trace: Trace,
        later: Callable[[Callable[[], object]], object],
    ) -> None:
        self._check = check
        self._journal = journal
        self._fs = fs
        self._umask = umask
        self._clock = clock
        self._trace = trace
        self._later = later
        self._destinations = KeyedLocks()

    def publish(
        self,
        upload: LiveUpload,
        location: Location,
        staging: Staging,
        content: Content,
        *,
        resumed_from: int,
        interrupt: Interrupt,
    ) -> files_pb2.UploadFileResponse:
        """Make the staging file the destination and record that.

        Returns:
            The answer to the finish.

        Raises:
            TransferError: the destination is as it was, and so is the upload.
            FlushFailedError: the destination is as it was; the staged bytes
                are lost.
        """
        request = upload.request
        with mapped(f"looking at {location.path}"):
            parent = self._fs.fstat(location.parent_fd)
        with self._destinations.hold((parent.st_dev, parent.st_ino, location.name)):
            replaced = self._check.examine(location, replace(request, condition=_cheap(request)), interrupt)
            # Before the file gets its time: a start-up reads from that, and from
            # the journal, when the last byte came.
            self._record_intent(upload, staging, content)
            flushed = self._finish_file(
                staging, location, request, publish_mode(request, replaced, self._umask)
            )
            self._trace(TracePoint.UPLOAD_FLUSHED)
            self._check.examine(location, request, interrupt)
            with self._freed_later(location, replaced):
                staging.rename_into_place(
                    exclusive=isinstance(request.condition, Absent), journal=self._journal
                )
            self._trace(TracePoint.UPLOAD_RENAMED)
            durable = flushed and staging.flush_directory()
            response = files_pb2.UploadFileResponse(
                bytes_written=content.size_bytes,
                file=describe(self._fs.fstat(staging.fd), location.path, content.digest),
                upload_id=upload.record.upload_id if upload.record is not None else "",
                durability=files_pb2.DURABILITY_FSYNC if durable else files_pb2.DURABILITY_RENAME,
                resumed_from=resumed_from,
            )
            self._record_result(upload, response, durable=durable)
        return response

    @contextmanager
    def _freed_later(self, location: Location, replaced: os.stat_result | None) -> Generator[None]:
        """Keep the caller from waiting until the space of a large file that is replaced is free.

        The kernel frees it in the rename, page by page, unless somebody still
        has the file: 0.2 s for each GiB of memory.
        """
        fd = None
        if replaced is not None and replaced.st_size >= _LARGE_BYTES:
            # Not opened for reading, and no matter if it is another one by now.
            with suppress(OSError):
                fd = self._fs.open(location.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=location.parent_fd)
        try:
            yield
        finally:
            if fd is not None:
                self._later(partial(self._fs.close, fd))

    def _finish_file(self, staging: Staging, location: Location, request: UploadRequest, mode: int) -> bool:
        """Set mode and times on the descriptor, then flush."""
        with mapped(f"setting mode and time of {location.path}"):
            self._fs.chmod(staging.fd, mode)
            self._fs.set_modified(staging.fd, request.modified_ns)
        if not request.fsync:
            return False
        try:
            return staging.flush()
        except OSError as error:
            raise FlushFailedError(transfer_error(error, f"flushing {location.path}")) from error

    def _record_intent(self, upload: LiveUpload, staging: Staging, content: Content) -> None:
        """Let a start-up after a crash find out whether the rename happened."""
        if upload.record is None:
            return
        with upload.lock:
            upload.updated = self._clock()
            upload.current_record()
            upload.record = replace(
                upload.row,
                inode=signed(self._fs.fstat(staging.fd).st_ino),
                finish_size=content.size_bytes,
                finish_digest=content.digest.value,
            )
            self._journal.write(upload.record, durable=upload.request.fsync)

    def _record_result(
        self, upload: LiveUpload, response: files_pb2.UploadFileResponse, *, durable: bool
    ) -> None:
        with upload.lock:
            upload.result = response
            upload.updated = self._clock()
            upload.release()
            if upload.record is None:
                return
            upload.record = replace(
                upload.record,
                state=files_pb2.UPLOAD_STATE_PUBLISHED,
                updated=upload.updated,
                result=response.SerializeToString(),
            )
            try:
                self._journal.write(upload.record, durable=durable)
            except TransferError:
                # The file is published, and that is what the caller is told.
                # The intent is in the journal: a restart finds the result.
                _log.exception("the result of upload %s is not in the journal", upload.record.upload_id)
            else:
                upload.result = None


def _cheap(request: UploadRequest) -> Absent | None:
    """The part of the condition that needs no reading; the rest comes after the flush."""
    return request.condition if isinstance(request.condition, Absent) else None
