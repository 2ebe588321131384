"""Which uploads begin, and which stream may write to one (RSM-1, RSM-4, RSM-5, RSM-9)."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.digest_choice import choose, unsupported
from openshell_supervisor_sim.agent.core.requests import HasDigest, LeafLink, UploadKey, UploadRequest
from openshell_supervisor_sim.agent.filesystem.errno_reasons import mapped
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt, describe
from openshell_supervisor_sim.agent.filesystem.handles import FileSystem
from openshell_supervisor_sim.agent.paths.destination import DestinationCheck
from openshell_supervisor_sim.agent.paths.location import Location, sync_directory
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot
from openshell_supervisor_sim.agent.store.journal import Journal
from openshell_supervisor_sim.agent.store.keyed_locks import KeyedLocks
from openshell_supervisor_sim.agent.store.staging import (
    Staging,
    create_named,
    create_transient,
    open_named,
    staging_name,
)
from openshell_supervisor_sim.agent.store.upload_record import UploadRecord
from openshell_supervisor_sim.agent.trace_points import Trace, TracePoint
from openshell_supervisor_sim.agent.upload.attempt import UploadAttempt
from openshell_supervisor_sim.agent.upload.live_upload import LiveUpload, StagedBudget, superseded
from openshell_supervisor_sim.agent.upload.publisher import Publisher
from openshell_supervisor_sim.agent.upload.registry import Uploads
from openshell_supervisor_sim.agent.upload.status import (
    Caller,
    Published,
    Verifying,
    finished_status,
    published,
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
    """Admits uploads and the streams that write to them.

    Methods block and may be called from any thread.

    Args:
        uploads: all that are known.
        root: the sandbox's root.
        journal: what survives.
        check: compares destinations with conditions.
        publisher: carries out finishes.
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
        publisher: Publisher,
        fs: FileSystem,
        budget: StagedBudget,
        clock: Callable[[], float],
        trace: Trace,
    ) -> None:
        self._uploads = uploads
        self._root = root
        self._journal = journal
        self._check = check
        self._publisher = publisher
        self._fs = fs
        self._budget = budget
        self._clock = clock
        self._trace = trace
        self._requests = KeyedLocks()

    def start(
        self,
        request: UploadRequest,
        metadata: bytes,
        source: Digest | None,
        caller: Caller,
        interrupt: Interrupt,
    ) -> files_pb2.UploadStatus:
        """Answer StartUpload: admit, find again or take over (RSM-1, RSM-5, RSM-9).

        Raises:
            TransferError: the upload is refused.
        """
        if request.upload_id:
            return self._continue(request, caller, interrupt)
        found = self._find_request(caller, request)
        if found is None:
            # Reads whole files, perhaps: not under the lock.
            outcome = self._start_new(request, metadata, source, caller, interrupt)
            if isinstance(outcome, files_pb2.UploadStatus):
                return outcome
            found = outcome
        require_same(request, found)
        if isinstance(found, LiveUpload):
            return self._status_with_digest(found, interrupt)
        raise_if_ended(found)
        return finished_status(found)

    def _continue(
        self, request: UploadRequest, caller: Caller, interrupt: Interrupt
    ) -> files_pb2.UploadStatus:
        found = self._uploads.find(caller.principal, UploadKey(request.upload_id, ""))
        if found is None:
            raise unknown_upload(request.upload_id)
        require_same(request, found)
        if not isinstance(found, LiveUpload):
            raise_if_ended(found)
            return finished_status(found)
        if found.unreachable is not None:
            raise found.unreachable
        with found.lock:
            if found.state == files_pb2.UPLOAD_STATE_RECEIVING:
                self._uploads.raise_epoch(found)
                found.take_over(None, superseded())
        return self._status_with_digest(found, interrupt)

    def _start_new(
        self,
        request: UploadRequest,
        metadata: bytes,
        source: Digest | None,
        caller: Caller,
        interrupt: Interrupt,
    ) -> files_pb2.UploadStatus | LiveUpload | UploadRecord:
        """Begin an upload; another of its request_id, if that began meanwhile."""
        algorithm = _algorithm_for(request, caller)
        with self._locate(request, caller) as location:
            replaced = self._check.examine(location, request, interrupt)
            if source is not None and source.algorithm in caller.limits.digests and replaced is not None:
                adopted = self._check.adopt_identical(location, request, source, interrupt)
                if adopted is not None:
                    status, flushed = adopted
                    durable = (
                        flushed and location.parents_flushed and sync_directory(self._fs, location.parent_fd)
                    )
                    response = files_pb2.UploadFileResponse(
                        bytes_written=status.st_size,
                        file=describe(status, location.path, source),
                        durability=files_pb2.DURABILITY_FSYNC if durable else files_pb2.DURABILITY_RENAME,
                        already_identical=True,
                    )
                    return self._record_identical(request, metadata, source, caller, location, response)
            admitted = self._admit(request, metadata, caller, location, algorithm)
            if not isinstance(admitted, Admitted):
                return admitted
            admitted.staging.close()
        self._trace(TracePoint.UPLOAD_ADMITTED)
        return admitted.upload.status(digest=True)

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
            if (found := self._find_request(caller, request)) is not None:
                return found
            self._journal.write(record, durable=response.durability == files_pb2.DURABILITY_FSYNC)
        return finished_status(record)

    def attach(
        self,
        request: UploadRequest,
        metadata: bytes,
        caller: Caller,
        on_displaced: Callable[[TransferError], None],
        interrupt: Interrupt,
        *,
        at_once: bool = False,
    ) -> UploadAttempt | Published | Verifying:
        """Give a stream of UploadFile its upload.

        With an `upload_id` it goes on; with a `request_id` only it starts from
        the first byte, since that caller has not learnt an offset (RSM-4).

        Args:
            request: the metadata, checked.
            metadata: the same, for the journal.
            caller: who uploads.
            on_displaced: see `UploadAttempt`.
            interrupt: stops long computations.
            at_once: all of the input is here: the upload takes no slot
                unless it stays unfinished (RSM-8).

        Raises:
            TransferError: the stream is refused.
        """
        if request.upload_id:
            found = self._uploads.find(caller.principal, UploadKey(request.upload_id, ""))
            if found is None:
                raise unknown_upload(request.upload_id)
            return self._attach_found(found, request, caller, on_displaced, interrupt, restart=False)
        if not request.request_id:
            return self._attach_transient(request, caller, on_displaced, interrupt)
        found = self._find_request(caller, request)
        if found is None:
            algorithm = _algorithm_for(request, caller)
            with self._owned_location(request, caller) as location:
                self._check.examine(location, request, interrupt)
                admitted = self._admit(request, metadata, caller, location, algorithm, at_once=at_once)
                if isinstance(admitted, Admitted):
                    attempt = self._attempt(admitted.upload, location, admitted.staging, caller, on_displaced)
                    with admitted.upload.lock:
                        admitted.upload.take_over(attempt, superseded())
                    return self._admitted(attempt)
            location.close()
            found = admitted
        return self._attach_found(found, request, caller, on_displaced, interrupt, restart=True)

    def _attach_transient(
        self,
        request: UploadRequest,
        caller: Caller,
        on_displaced: Callable[[TransferError], None],
        interrupt: Interrupt,
    ) -> UploadAttempt:
        algorithm = None if request.digests is None else _algorithm_for(request, caller)
        with self._owned_location(request, caller) as location:
            self._check.examine(location, request, interrupt)
            staging = create_transient(
                self._fs,
                location,
                self._journal,
                nameless=self._root.has_proc,
                modified_ns=request.modified_ns,
            )
            upload = self._new_live(request, location, None, algorithm)
            attempt = self._attempt(upload, location, staging, caller, on_displaced)
            upload.holder = attempt
        return self._admitted(attempt)

    def _attach_found(
        self,
        found: LiveUpload | UploadRecord,
        request: UploadRequest,
        caller: Caller,
        on_displaced: Callable[[TransferError], None],
        interrupt: Interrupt,
        *,
        restart: bool,
    ) -> UploadAttempt | Published | Verifying:
        require_same(request, found)
        if isinstance(found, LiveUpload):
            return self._attach_live(found, request, caller, on_displaced, interrupt, restart=restart)
        raise_if_ended(found)
        return published(found)

    def _attach_live(
        self,
        upload: LiveUpload,
        request: UploadRequest,
        caller: Caller,
        on_displaced: Callable[[TransferError], None],
        interrupt: Interrupt,
        *,
        restart: bool,
    ) -> UploadAttempt | Published | Verifying:
        with upload.lock:
            other = self._may_take(upload, request)
        if other is not None:
            return other
        record = upload.row
        location = self._root.reopen(record.parent, record.name)
        try:
            self._root.refuse_location(location)
            staging = open_named(self._fs, location, record.staging)
        except TransferError as error:
            location.close()
            with upload.lock:
                # Perhaps it was renamed this moment: that is for the finish to tell.
                other = self._may_take(upload, request)
            if other is not None:
                return other
            if error.reason is Reason.UPLOAD_UNKNOWN:
                self._uploads.lose(upload, error)
            raise
        attempt = self._attempt(upload, location, staging, caller, on_displaced)
        try:
            taken = self._take_over(upload, attempt, request, interrupt, restart=restart)
        except BaseException:
            attempt.end()
            raise
        if not isinstance(taken, UploadAttempt):
            attempt.end()
            return taken
        return self._admitted(attempt)

    def _take_over(
        self,
        upload: LiveUpload,
        attempt: UploadAttempt,
        request: UploadRequest,
        interrupt: Interrupt,
        *,
        restart: bool,
    ) -> UploadAttempt | Published | Verifying:
        """Make the attempt the upload's holder, once digest and file agree."""
        while True:
            with upload.lock:
                taken = self._may_take(upload, request)
                if taken is not None:
                    return taken
                with mapped(f"looking at the staging file of {upload.path}"):
                    if restart or upload.matches_file(attempt.staging_fd):
                        if restart:
                            upload.restart(attempt.staging_fd)
                            self._uploads.raise_epoch(upload)
                        attempt.resumed_from = upload.staged
                        upload.take_over(attempt, superseded())
                        return attempt
            with mapped(f"reading the staging file of {upload.path}"):
                upload.read_prefix(attempt.staging_fd, interrupt)

    def _may_take(self, upload: LiveUpload, request: UploadRequest) -> Published | Verifying | None:
        record = upload.row
        if upload.unreachable is not None and upload.unfinished:
            raise upload.unreachable
        if upload.state == files_pb2.UPLOAD_STATE_VERIFYING:
            return Verifying(upload)
        if upload.state == files_pb2.UPLOAD_STATE_PUBLISHED:
            return published(record)
        raise_if_ended(replace(record, state=upload.state))
        if request.upload_id and request.epoch < record.epoch:
            raise superseded()
        if request.upload_id and request.epoch > record.epoch:
            raise invalid(
                "metadata.epoch", f"is {request.epoch}, the latest that was given is {record.epoch}"
            )
        return None

    def _find_request(self, caller: Caller, request: UploadRequest) -> LiveUpload | UploadRecord | None:
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

    def _locate(self, request: UploadRequest, caller: Caller) -> Location:
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

    @contextmanager
    def _owned_location(self, request: UploadRequest, caller: Caller) -> Generator[Location]:
        """Give a location that is closed only if the block fails."""
        location = self._locate(request, caller)
        try:
            yield location
        except BaseException:
            location.close()
            raise

    def _admit(
        self,
        request: UploadRequest,
        metadata: bytes,
        caller: Caller,
        location: Location,
        algorithm: DigestAlgorithm,
        *,
        at_once: bool = False,
    ) -> Admitted | LiveUpload | UploadRecord:
        """Make a new upload that can be found again; another of its request_id, if that was faster."""
        with self._request_lock(caller, request):
            if (found := self._find_request(caller, request)) is not None:
                return found
            with nullcontext() if at_once else self._uploads.slot(caller):
                record = self._new_record(request, metadata, caller, location, algorithm)
                self._journal.write(record, durable=request.fsync)
                try:
                    staging = create_named(
                        self._fs, location, record.staging, modified_ns=request.modified_ns
                    )
                except BaseException:
                    self._unrecord(record)
                    raise
                upload = self._new_live(request, location, record, algorithm)
                upload.counted = not at_once
                self._uploads.adopt(upload, location)
                return Admitted(upload, staging)

    def _unrecord(self, record: UploadRecord) -> None:
        """Forget an upload that has no staging file; its row, should it stay, is found to be lost."""
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

    def _new_live(
        self,
        request: UploadRequest,
        location: Location,
        record: UploadRecord | None,
        algorithm: DigestAlgorithm | None,
    ) -> LiveUpload:
        upload = LiveUpload(
            request,
            location.path,
            record,
            algorithm=algorithm,
            fs=self._fs,
            budget=self._budget,
            clock=self._clock,
        )
        upload.parents_flushed = location.parents_flushed
        return upload

    def _attempt(
        self,
        upload: LiveUpload,
        location: Location,
        staging: Staging,
        caller: Caller,
        on_displaced: Callable[[TransferError], None],
    ) -> UploadAttempt:
        return UploadAttempt(
            upload,
            location,
            staging,
            publisher=self._publisher,
            fs=self._fs,
            trace=self._trace,
            on_displaced=on_displaced,
            uploads=self._uploads,
            caller=caller,
        )

    def _admitted(self, attempt: UploadAttempt) -> UploadAttempt:
        try:
            self._trace(TracePoint.UPLOAD_ADMITTED)
        except BaseException:
            attempt.end()
            raise
        return attempt

    def _status_with_digest(self, upload: LiveUpload, interrupt: Interrupt) -> files_pb2.UploadStatus:
        if upload.unreachable is not None:
            raise upload.unreachable
        self._uploads.read_prefix(upload, interrupt)
        return upload.status(digest=True)


def _algorithm_for(request: UploadRequest, caller: Caller) -> DigestAlgorithm:
    """Choose the digest of a new upload (DIG-2).

    Raises:
        TransferError: DIGEST_UNSUPPORTED.
    """
    return choose("metadata.accepted_digests", request.digests or (), caller.limits.digests)
