"""Attaches streams to uploads, and refuses outdated streams (RSM-6, RSM-17, RSM-18)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from openshell_files_disk.filesystem.errno_reasons import mapped
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.requests import UploadKey, UploadRequest
from openshell_supervisor_sim.agent.core.upload_life import State, superseded
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt
from openshell_supervisor_sim.agent.paths.destination import DestinationCheck
from openshell_supervisor_sim.agent.paths.location import Location
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot
from openshell_supervisor_sim.agent.store.journal import Journal
from openshell_supervisor_sim.agent.store.staging import Staging, create_transient, open_named
from openshell_supervisor_sim.agent.store.upload_record import UploadRecord
from openshell_supervisor_sim.agent.trace_points import Trace, TracePoint
from openshell_supervisor_sim.agent.upload.admission import Admission, Admitted, algorithm_for
from openshell_supervisor_sim.agent.upload.attempt import UploadAttempt
from openshell_supervisor_sim.agent.upload.live_upload import LiveUpload
from openshell_supervisor_sim.agent.upload.publisher import Publisher
from openshell_supervisor_sim.agent.upload.registry import Uploads
from openshell_supervisor_sim.agent.upload.status import (
    Caller,
    Published,
    Verifying,
    published,
    raise_if_ended,
    require_same,
    unknown_upload,
)

#: Called, perhaps from another thread, when a stream loses its upload; must not block.
OnDisplaced = Callable[[TransferError], None]


class Attachment:
    """Gives each stream of UploadFile the upload that it writes to. Methods block, and any thread may call them.

    Args:
        admission: begins uploads.
        uploads: all uploads of the sandbox.
        root: the sandbox's root.
        journal: notes the names of staging files that end with their stream.
        check: compares destinations with conditions.
        publisher: carries out finishes.
        fs: system calls.
        trace: hook, see `TracePoint`.
    """

    def __init__(
        self,
        *,
        admission: Admission,
        uploads: Uploads,
        root: SandboxRoot,
        journal: Journal,
        check: DestinationCheck,
        publisher: Publisher,
        fs: FileSystem,
        trace: Trace,
    ) -> None:
        self._admission = admission
        self._uploads = uploads
        self._root = root
        self._journal = journal
        self._check = check
        self._publisher = publisher
        self._fs = fs
        self._trace = trace

    def attach(
        self,
        request: UploadRequest,
        metadata: bytes,
        caller: Caller,
        on_displaced: OnDisplaced,
        interrupt: Interrupt,
        *,
        takes_slot: bool = True,
    ) -> UploadAttempt | Published | Verifying:
        """Attach a stream to its upload, a new or an unfinished one.

        With an `upload_id` the stream resumes at the staged bytes. With a
        `request_id` only it starts from the first byte, since its caller has
        not learnt an offset (RSM-17).

        Args:
            request: the metadata, checked.
            metadata: the same, for the journal.
            caller: of the operation.
            on_displaced: called when the stream loses the upload.
            interrupt: stops long computations.
            takes_slot: a new upload counts against the caller's unfinished ones (RSM-26).

        Raises:
            TransferError: the stream is refused.
        """
        if request.upload_id:
            found = self._uploads.find(caller.principal, UploadKey(request.upload_id, ""))
            if found is None:
                raise unknown_upload(request.upload_id)
            return self._attach_found(found, request, on_displaced, interrupt, restart=False)
        if not request.request_id:
            return self._attach_transient(request, caller, on_displaced, interrupt)
        found = self._admission.find_request(caller, request)
        if found is None:
            algorithm = algorithm_for(request, caller)
            with self._examined(request, caller, interrupt) as location:
                admitted = self._admission.admit(
                    request, metadata, caller, location, algorithm, takes_slot=takes_slot
                )
                if isinstance(admitted, Admitted):
                    return self._first_attempt(admitted.upload, location, admitted.staging, on_displaced)
            location.close()
            found = admitted
        return self._attach_found(found, request, on_displaced, interrupt, restart=True)

    @contextmanager
    def _examined(self, request: UploadRequest, caller: Caller, interrupt: Interrupt) -> Generator[Location]:
        """Give a destination that meets the request's condition; close it only if the block fails."""
        location = self._admission.locate(request, caller)
        try:
            self._check.examine(location, request, interrupt)
            yield location
        except BaseException:
            location.close()
            raise

    def _attach_transient(
        self, request: UploadRequest, caller: Caller, on_displaced: OnDisplaced, interrupt: Interrupt
    ) -> UploadAttempt:
        """Attach to a new upload that cannot be resumed."""
        algorithm = None if request.digests is None else algorithm_for(request, caller)
        with self._examined(request, caller, interrupt) as location:
            staging = create_transient(
                self._fs,
                location,
                self._journal,
                nameless=self._root.has_proc,
                modified_ns=request.modified_ns,
            )
            upload = self._admission.new_upload(request, location, None, algorithm)
        return self._first_attempt(upload, location, staging, on_displaced)

    def _first_attempt(
        self, upload: LiveUpload, location: Location, staging: Staging, on_displaced: OnDisplaced
    ) -> UploadAttempt:
        attempt = self._attempt(upload, location, staging, on_displaced)
        with upload.lock:
            upload.attach(attempt)
        return self._traced(attempt)

    def _attach_found(
        self,
        found: LiveUpload | UploadRecord,
        request: UploadRequest,
        on_displaced: OnDisplaced,
        interrupt: Interrupt,
        *,
        restart: bool,
    ) -> UploadAttempt | Published | Verifying:
        require_same(request, found)
        if isinstance(found, LiveUpload):
            return self._attach_live(found, request, on_displaced, interrupt, restart=restart)
        raise_if_ended(found)
        return published(found)

    def _attach_live(
        self,
        upload: LiveUpload,
        request: UploadRequest,
        on_displaced: OnDisplaced,
        interrupt: Interrupt,
        *,
        restart: bool,
    ) -> UploadAttempt | Published | Verifying:
        with upload.lock:
            outcome = _outcome_or_refusal(upload, request)
        if outcome is not None:
            return outcome
        record = upload.row
        location = self._root.reopen(record.parent, record.name)
        try:
            self._root.refuse_location(location)
            staging = open_named(self._fs, location, record.staging)
        except TransferError as error:
            location.close()
            with upload.lock:
                # A finish may have renamed the file since; then the finish decides.
                outcome = _outcome_or_refusal(upload, request)
            if outcome is not None:
                return outcome
            if error.reason is Reason.UPLOAD_UNKNOWN:
                self._uploads.lose(upload, error)
            raise
        attempt = self._attempt(upload, location, staging, on_displaced)
        try:
            taken = self._take_over(upload, attempt, request, interrupt, restart=restart)
        except BaseException:
            attempt.end()
            raise
        if not isinstance(taken, UploadAttempt):
            attempt.end()
            return taken
        return self._traced(attempt)

    def _take_over(
        self,
        upload: LiveUpload,
        attempt: UploadAttempt,
        request: UploadRequest,
        interrupt: Interrupt,
        *,
        restart: bool,
    ) -> UploadAttempt | Published | Verifying:
        """Make the attempt the upload's holder, once digest and staging file agree."""
        while True:
            with upload.lock:
                outcome = _outcome_or_refusal(upload, request)
                if outcome is not None:
                    return outcome
                with mapped(f"looking at the staging file of {upload.path}"):
                    if restart or upload.content.matches_file(attempt.staging_fd):
                        if restart:
                            upload.restart(attempt.staging_fd)
                        attempt.resumed_from = upload.content.size
                        upload.attach(attempt)
                        return attempt
            with mapped(f"reading the staging file of {upload.path}"):
                upload.read_prefix(attempt.staging_fd, interrupt)

    def _attempt(
        self, upload: LiveUpload, location: Location, staging: Staging, on_displaced: OnDisplaced
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
        )

    def _traced(self, attempt: UploadAttempt) -> UploadAttempt:
        try:
            self._trace(TracePoint.UPLOAD_ADMITTED)
        except BaseException:
            attempt.end()
            raise
        return attempt


def _outcome_or_refusal(upload: LiveUpload, request: UploadRequest) -> Published | Verifying | None:
    """Return None if a stream may write to the upload; call with the upload's lock held.

    Returns:
        The outcome of an upload that accepts no content any more.

    Raises:
        TransferError: the upload has ended, or the request is of an epoch that is not the latest (RSM-18, RSM-20).
    """
    record = upload.row
    if upload.unreachable is not None and upload.unfinished:
        raise upload.unreachable
    if upload.state is State.VERIFYING:
        return Verifying(upload)
    if upload.state is State.PUBLISHED:
        return published(record)
    raise_if_ended(record)
    if request.upload_id and request.epoch < record.epoch:
        raise superseded()
    if request.upload_id and request.epoch > record.epoch:
        raise invalid("metadata.epoch", f"is {request.epoch}, the latest epoch is {record.epoch}")
    return None
