"""Admits new uploads, and answers StartUpload (RSM-1, RSM-5, RSM-9)."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.digest_choice import choose, unsupported
from openshell_supervisor_sim.agent.core.requests import HasDigest, LeafLink, UploadKey, UploadRequest
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt, describe
from openshell_supervisor_sim.agent.paths.destination import DestinationCheck
from openshell_supervisor_sim.agent.paths.location import Location, sync_directory
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot
from openshell_supervisor_sim.agent.store.journal import Journal
from openshell_supervisor_sim.agent.store.keyed_locks import KeyedLocks
from openshell_supervisor_sim.agent.store.staging import Staging, create_named, staging_name
from openshell_supervisor_sim.agent.store.upload_record import UploadRecord
from openshell_supervisor_sim.agent.trace_points import Trace, TracePoint
from openshell_supervisor_sim.agent.upload.live_upload import LiveUpload
from openshell_supervisor_sim.agent.upload.registry import Uploads
from openshell_supervisor_sim.agent.upload.slots import UploadSlots
from openshell_supervisor_sim.agent.upload.staged_budget import StagedBudget
from openshell_supervisor_sim.agent.upload.staged_content import StagedContent
from openshell_supervisor_sim.agent.upload.status import (
    Caller,
    finished_status,
    live_status,
    raise_if_ended,
    require_same,
    unknown_upload,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A new upload, and its staging file, open."""

    upload: LiveUpload
    staging: Staging


class Admission:
    """Admits new uploads. Methods block, and any thread may call them.

    Args:
        uploads: all uploads of the sandbox.
        root: the sandbox's root.
        journal: gets the row of each upload.
        check: compares destinations with conditions.
        fs: system calls.
        budget: bytes that may be staged.
        clock: seconds since 1970.
        trace: hook, see `TracePoint`.
    """

    def __init__(
        self,
        *,
        uploads: Uploads,
        root: SandboxRoot,
        journal: Journal,
        check: DestinationCheck,
        fs: FileSystem,
        budget: StagedBudget,
        clock: Callable[[], float],
        trace: Trace,
    ) -> None:
        self._uploads = uploads
        self._root = root
        self._journal = journal
        self._check = check
        self._fs = fs
        self._budget = budget
        self._clock = clock
        self._trace = trace
        self._slots = UploadSlots(uploads)
        self._requests = KeyedLocks()

    # StartUpload

    def start(
        self,
        request: UploadRequest,
        metadata: bytes,
        source: Digest | None,
        caller: Caller,
        interrupt: Interrupt,
    ) -> files_pb2.UploadStatus:
        """Answer StartUpload: admit an upload, find it again or take it over (RSM-1, RSM-5, RSM-9).

        Args:
            request: the metadata, checked.
            metadata: the same, for the journal.
            source: digest of the caller's file, if given.
            caller: of the operation.
            interrupt: stops long computations.

        Raises:
            TransferError: the upload is refused.
        """
        if request.upload_id:
            return self._take_over(request, caller, interrupt)
        found = self.find_request(caller, request)
        if found is None:
            # May read whole files, so no lock is held.
            outcome = self._start_new(request, metadata, source, caller, interrupt)
            if isinstance(outcome, files_pb2.UploadStatus):
                return outcome
            found = outcome
        require_same(request, found)
        return self._status_of(found, interrupt)

    def _take_over(
        self, request: UploadRequest, caller: Caller, interrupt: Interrupt
    ) -> files_pb2.UploadStatus:
        found = self._uploads.find(caller.principal, UploadKey(request.upload_id, ""))
        if found is None:
            raise unknown_upload(request.upload_id)
        require_same(request, found)
        if isinstance(found, LiveUpload) and found.unreachable is None:
            found.displace()
        return self._status_of(found, interrupt)

    def _status_of(self, found: LiveUpload | UploadRecord, interrupt: Interrupt) -> files_pb2.UploadStatus:
        if isinstance(found, UploadRecord):
            raise_if_ended(found)
            return finished_status(found)
        if found.unreachable is not None:
            raise found.unreachable
        self._uploads.read_prefix(found, interrupt)
        return live_status(found, digest=True)

    def _start_new(
        self,
        request: UploadRequest,
        metadata: bytes,
        source: Digest | None,
        caller: Caller,
        interrupt: Interrupt,
    ) -> files_pb2.UploadStatus | LiveUpload | UploadRecord:
        """Begin an upload; return another of its request_id if that began meanwhile."""
        algorithm = algorithm_for(request, caller)
        with self.locate(request, caller) as location:
            replaced = self._check.examine(location, request, interrupt)
            if source is not None and source.algorithm in caller.limits.digests and replaced is not None:
                response = self._adopt_identical(location, request, source, interrupt)
                if response is not None:
                    return self._record_identical(request, metadata, source, caller, location, response)
            admitted = self.admit(request, metadata, caller, location, algorithm)
            if not isinstance(admitted, Admitted):
                return admitted
            admitted.staging.close()
        self._trace(TracePoint.UPLOAD_ADMITTED)
        return live_status(admitted.upload, digest=True)

    def _adopt_identical(
        self, location: Location, request: UploadRequest, source: Digest, interrupt: Interrupt
    ) -> files_pb2.UploadFileResponse | None:
        """Return the answer if the destination has the caller's content already; None if not (RSM-9)."""
        adopted = self._check.adopt_identical(location, request, source, interrupt)
        if adopted is None:
            return None
        status, flushed = adopted
        durable = flushed and location.parents_flushed and sync_directory(self._fs, location.parent_fd)
        return files_pb2.UploadFileResponse(
            bytes_written=status.st_size,
            file=describe(status, location.path, source),
            durability=files_pb2.DURABILITY_FSYNC if durable else files_pb2.DURABILITY_RENAME,
            already_identical=True,
        )

    def _record_identical(
        self,
        request: UploadRequest,
        metadata: bytes,
        source: Digest,
        caller: Caller,
        location: Location,
        response: files_pb2.UploadFileResponse,
    ) -> files_pb2.UploadStatus | LiveUpload | UploadRecord:
        record = self._new_record(request, metadata, caller, location, source.algorithm)
        response.upload_id = record.upload_id
        record = replace(
            record,
            state=files_pb2.UPLOAD_STATE_PUBLISHED,
            finish_size=response.bytes_written,
            finish_digest=source.value,
            result=response.SerializeToString(),
        )
        with self._request_lock(caller, request):
            if (found := self.find_request(caller, request)) is not None:
                return found
            self._journal.write(record, durable=response.durability == files_pb2.DURABILITY_FSYNC)
        return finished_status(record)

    # New uploads

    def find_request(self, caller: Caller, request: UploadRequest) -> LiveUpload | UploadRecord | None:
        """Return the upload that an earlier request with the same request_id began."""
        if not request.request_id:
            return None
        return self._uploads.find(caller.principal, UploadKey("", request.request_id))

    @contextmanager
    def _request_lock(self, caller: Caller, request: UploadRequest) -> Generator[None]:
        if not request.request_id:
            yield
            return
        with self._requests.hold((caller.principal, request.request_id)):
            yield

    def locate(self, request: UploadRequest, caller: Caller) -> Location:
        """Resolve the destination; the caller closes it.

        Raises:
            TransferError: FILE_TOO_LARGE, DIGEST_UNSUPPORTED for a condition, or the errors of paths.
        """
        limit = caller.limits.max_file_bytes
        if (request.size_bytes or 0) > limit:
            raise TransferError(
                Reason.FILE_TOO_LARGE,
                f"metadata.size_bytes is {request.size_bytes}, at most {limit} are allowed",
                {"max_file_bytes": str(limit)},
            )
        condition, allowed = request.condition, caller.limits.digests
        if isinstance(condition, HasDigest) and condition.digest.algorithm not in allowed:
            raise unsupported("metadata.condition.digest", allowed)
        return self._root.locate(
            request.path,
            "metadata.remote_path",
            follow=request.leaf_link is LeafLink.FOLLOW,
            create_parents=request.create_parents,
        )

    def admit(
        self,
        request: UploadRequest,
        metadata: bytes,
        caller: Caller,
        location: Location,
        algorithm: DigestAlgorithm,
        *,
        takes_slot: bool = True,
    ) -> Admitted | LiveUpload | UploadRecord:
        """Begin an upload that can be found again.

        Args:
            request: the metadata, checked.
            metadata: the same, for the journal.
            caller: of the operation.
            location: of the destination.
            algorithm: of the upload's digest.
            takes_slot: it counts against the caller's unfinished uploads (RSM-26).

        Returns:
            The upload; another of its request_id if that began meanwhile.

        Raises:
            TransferError: TOO_MANY_UPLOADS, or the errors of the journal and the disk.
        """
        with self._request_lock(caller, request):
            if (found := self.find_request(caller, request)) is not None:
                return found
            with self._slots.reserved(caller) if takes_slot else nullcontext():
                record = self._new_record(request, metadata, caller, location, algorithm)
                self._journal.write(record, durable=request.fsync)
                try:
                    staging = create_named(
                        self._fs, location, record.staging, modified_ns=request.modified_ns
                    )
                except BaseException:
                    self._delete_row(record)
                    raise
                upload = self.new_upload(request, location, record, algorithm, takes_slot=takes_slot)
                self._uploads.adopt(upload, location)
                return Admitted(upload, staging)

    def _delete_row(self, record: UploadRecord) -> None:
        """Delete the row of an upload without a staging file; if that fails, the next start does."""
        try:
            self._journal.delete(record.upload_id)
        except TransferError:
            _log.exception("an upload that was not admitted stays in the journal")

    def _new_record(
        self,
        request: UploadRequest,
        metadata: bytes,
        caller: Caller,
        location: Location,
        algorithm: DigestAlgorithm,
    ) -> UploadRecord:
        upload_id = secrets.token_hex(16)
        now = self._clock()
        return UploadRecord(
            upload_id=upload_id,
            request_id=request.request_id,
            principal=caller.principal,
            fingerprint=request.fingerprint,
            metadata=metadata,
            parent=location.parent_path,
            name=location.name,
            staging=staging_name(upload_id),
            epoch=1,
            state=files_pb2.UPLOAD_STATE_RECEIVING,
            created=now,
            updated=now,
            expiry=caller.limits.upload_expiry,
            digest_algorithm=algorithm.value,
        )

    def new_upload(
        self,
        request: UploadRequest,
        location: Location,
        record: UploadRecord | None,
        algorithm: DigestAlgorithm | None,
        *,
        takes_slot: bool = True,
    ) -> LiveUpload:
        """Make an upload in memory; without a row it ends with its stream."""
        return LiveUpload(
            request,
            location.path,
            record,
            content=StagedContent(algorithm, self._fs, self._budget),
            journal=self._journal,
            clock=self._clock,
            algorithm=algorithm,
            parents_flushed=location.parents_flushed,
            takes_slot=takes_slot,
        )


def algorithm_for(request: UploadRequest, caller: Caller) -> DigestAlgorithm:
    """Choose the digest of a new upload (DIG-2).

    Raises:
        TransferError: DIGEST_UNSUPPORTED.
    """
    return choose("metadata.accepted_digests", request.digests or (), caller.limits.digests)
