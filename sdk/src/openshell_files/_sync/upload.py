# Written by sdk/unasync.py from _async/upload.py. Change that file instead.
"""Carries an upload's plan out: calls, content, progress."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from typing import Final

from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason, Retry, reason_named

from openshell_files._core import answers
from openshell_files._core.borrowed import CLOSED
from openshell_files._core.digests import ContentDigest
from openshell_files._core.requests import SandboxAddress
from openshell_files._core.upload import upload_plan
from openshell_files._core.upload.after_finish import no_such_method
from openshell_files._core.upload.giving_up import (
    ERRAND_SECONDS,
    FREEING_SECONDS,
    GRACE_SECONDS,
    ClientClosedError,
    Remains,
    is_lost,
    is_to_be_freed,
)
from openshell_files._core.upload.outgoing import Span, finish_message, first_message, write_request
from openshell_files._core.upload.upload_plan import UploadPlan
from openshell_files._error_mapping import say_which_sandbox
from openshell_files._local import source_file
from openshell_files._sync import _io
from openshell_files._sync._calls import CallEndedError, UploadCall
from openshell_files._sync.content import Content, SourceFailedError, hash_up_to, sealed
from openshell_files._sync.deadline import Deadline
from openshell_files._sync.lanes import UploadLanes
from openshell_files._sync.patience import Patient
from openshell_files._sync.rpc import Rpc
from openshell_files.errors import (
    DeadlineExceeded,
    FilesError,
    LocalFileError,
    LocalReason,
    OutcomeUnknown,
    SourceNotReplayable,
    UploadUnknown,
    note_upload,
)
from openshell_files.options import Durability
from openshell_files.results import Progress, ProgressCallback, UploadResult, UploadState

#: Pause before another try to free an upload, in seconds.
_FREE_AGAIN_SECONDS: Final = 0.1


class Upload:
    """One upload, over all its attempts.

    Args:
        rpc: the gateway.
        address: the sandbox.
        content: what is sent.
        digest: of the content; may have hashed some of it already.
        plan: what to do.
        deadline: when to give up.
        progress: told how far it is.
        id_given: the caller named the upload that is to be gone on with.
    """

    def __init__(
        self,
        rpc: Rpc,
        address: SandboxAddress,
        content: Content,
        digest: ContentDigest,
        plan: UploadPlan,
        *,
        deadline: Deadline,
        progress: ProgressCallback | None,
        id_given: bool = False,
    ) -> None:
        self._rpc = rpc
        self._address = address
        self._content = content
        self._digest = digest
        self._plan = plan
        self._deadline = deadline
        self._progress = progress
        self._id_given = id_given
        self._id_told = ""
        self._bytes_sent = 0
        self._resumed_from = 0
        self._complete = False
        self._last_error: FilesError | None = None
        self._of_callback: BaseException | None = None

    def run(self) -> UploadResult:
        """Upload the content.

        Raises:
            FilesError: it was refused, or all attempts are used up.
        """
        began = _io.monotonic()
        gate, paced = self._rpc.gate(self._address), self._content.size is None
        held = gate.enter(self._deadline, paced=paced)
        try:
            with self._rpc.running(self._abandon):
                response = self._published()
        finally:
            if held:
                gate.leave(paced=paced)
        return self._result(response, _io.monotonic() - began)

    def _published(self) -> files_pb2.UploadFileResponse:
        """Carry the plan out, and end in order if that fails."""
        try:
            return self._carried_out()
        except BaseException as error:
            shown = self._shown(error)
            found = self._late_answer(shown)
            if found is None:
                # An interrupted caller waits for nothing, and one whose time is up no longer.
                deliberate = isinstance(error, Exception) or error is self._of_callback
                waits = deliberate and not isinstance(shown, DeadlineExceeded)
                self._leave(shown, waits=waits)
                if shown is error:
                    raise
                raise shown from shown.__cause__
            return found

    def _carried_out(self) -> files_pb2.UploadFileResponse:
        """Do what the plan wants until the file is published."""
        while not isinstance(self._plan.action, upload_plan.Finished):
            if self._rpc.closing:
                raise ClientClosedError(CLOSED)
            self._step(self._plan.action)
        return self._plan.action.response

    def _shown(self, error: BaseException) -> BaseException:
        """Return the error that the caller gets: the first one, not what followed from it."""
        if isinstance(error, SourceFailedError):
            return error.__cause__ or error
        if isinstance(error, SourceNotReplayable) and (first := self._last_error) is not None:
            if not is_lost(first):
                # That the source is gone is why it was not tried again. Why it failed is another thing.
                first.about(self._plan.path)
                return first
            error.__cause__ = first
        return error

    def _late_answer(self, error: BaseException) -> files_pb2.UploadFileResponse | None:
        """Ask what became of the finish, if only the caller's time ran out behind it (RSM-7)."""
        cause = error.__cause__
        if not (
            isinstance(error, OutcomeUnknown)
            and isinstance(cause, FilesError)
            and cause.reason == LocalReason.TIMEOUT
        ):
            return None
        self._deadline = Deadline(GRACE_SECONDS)
        self._plan.last_question(cause)
        try:
            return self._carried_out()
        except OutcomeUnknown:
            return None
        except FilesError as known:
            # Nothing was published, and nothing will be: the plain error is the true one.
            raise known from None

    def _abandon(self) -> None:
        """Free what is staged as the client is closed, unless somebody can go on with it."""
        if is_to_be_freed(self._remains(), ClientClosedError()):
            self._free(ERRAND_SECONDS)

    def _remains(self) -> Remains:
        plan = self._plan
        return Remains(
            upload_id=plan.upload_id,
            announced=plan.announced,
            inline=plan.inline,
            replayable=self._content.size is not None,
            id_given=self._id_given,
            id_told=plan.upload_id != "" and self._id_told == plan.upload_id,
        )

    def _leave(self, error: BaseException, *, waits: bool) -> None:
        """Free what nobody can go on with; tell the caller of what is kept."""
        plan = self._plan
        if is_to_be_freed(self._remains(), error):
            if isinstance(error, FilesError) and not isinstance(error, OutcomeUnknown):
                error.upload_id, error.staged = "", None
            if waits:
                self._free(FREEING_SECONDS)
            else:
                self._rpc.in_background(partial(self._free, ERRAND_SECONDS))
        elif plan.upload_id and not isinstance(error, FilesError):
            note_upload(error, plan.upload_id, plan.staged, outcome_known=not plan.finish_sent)

    def _free(self, seconds: float) -> None:
        """Free what is staged, as far as that can be done in so many seconds; otherwise it expires (RSM-8)."""
        deadline = Deadline(seconds)
        while True:
            try:
                self._free_once(deadline)
            except FilesError as error:
                # Without a reason it is the connection that is gone. Who has another one may ask.
                again = reason_named(error.reason) is not None and error.retry in {Retry.AGAIN, Retry.LATER}
                if not again or deadline.over():
                    return
            except RuntimeError:
                # The client was closed.
                return
            else:
                return
            _io.sleep(_FREE_AGAIN_SECONDS)

    def _free_once(self, deadline: Deadline) -> None:
        plan, ref = self._plan, self._address.ref()
        upload_id = plan.upload_id
        if not upload_id:
            answer = self._rpc.start_upload(plan.claim(), deadline)
            upload_id = answer.upload.upload_id
        if plan.finish_sent:
            request = files_pb2.GetUploadRequest(sandbox=ref, upload_id=upload_id)
            status = self._rpc.get_upload(request, deadline)
            if answers.upload_state(status.upload) is not UploadState.RECEIVING:
                return
        self._rpc.abort_upload(files_pb2.AbortUploadRequest(sandbox=ref, upload_id=upload_id), deadline)

    def _step(self, action: upload_plan.Action) -> None:
        try:
            report = self._carry_out(action)
        except LocalFileError:
            raise
        except FilesError as error:
            if self._rpc.closing:
                raise ClientClosedError(CLOSED) from error
            if not (isinstance(action, upload_plan.Look) and isinstance(error, UploadUnknown)):
                # That an upload is unknown is an answer, not what went wrong.
                self._last_error = error
            say_which_sandbox(error, self._address.described())
            if error.reason == Reason.DIGEST_UNSUPPORTED.name:
                self._rpc.digest_refused(self._plan.algorithm)
            self._rpc.refused(self._address, error)
            late = isinstance(error, DeadlineExceeded) and error.reason != Reason.TRANSFER_IDLE.name
            failed = isinstance(action, upload_plan.Send) and not self._plan.finish_sent
            if failed and self._content.spent and not late:
                # It cannot be sent again, so nothing is waited for.
                raise source_file.not_replayable(self._content.name) from error
            self._plan.on_error(error)
        else:
            report()
            if isinstance(action, upload_plan.Start | upload_plan.Look):
                self._report(self._plan.staged or 0)

    def _carry_out(self, action: upload_plan.Action) -> Callable[[], None]:
        """Do what the plan wants, and return how to tell it. Telling may raise; that is final."""
        plan = self._plan
        match action:
            case upload_plan.Start(request):
                plan.on_asking()
                may = self._rpc.capabilities(self._address)
                may.begin()
                started = self._rpc.start_upload(request, self._deadline)
                return partial(plan.on_started, started, may.told(self._deadline))
            case upload_plan.Look(request, hashed_bytes):
                status = self._rpc.get_upload(request, self._deadline, hashed_bytes=hashed_bytes)
                return partial(plan.on_status, status)
            case upload_plan.Send():
                return partial(plan.on_sent, self._send(action))
            case upload_plan.ComparePrefix(length, digest):
                return partial(plan.on_prefix, matches=self._prefix_matches(length, digest))
            case upload_plan.CompareWhole(size, digest):
                return partial(plan.on_whole, matches=self._whole_matches(size, digest))
            case upload_plan.HashSource():
                return partial(plan.on_source_hashed, self._source_digest())
            case upload_plan.Abandon(request):
                with suppress(FilesError):
                    self._rpc.abort_upload(request, self._deadline)
                return plan.on_abandoned
            case upload_plan.Wait(seconds, refresh_token):
                if refresh_token:
                    self._rpc.refuse_token()
                self._rpc.pause(seconds, self._deadline)
                return plan.on_waited
            case upload_plan.Finished():
                raise AssertionError("there is nothing left to do")

    def _send(self, action: upload_plan.Send) -> files_pb2.UploadFileResponse:
        self._plan.attempts += 1
        self._resumed_from = action.offset
        self._complete = False
        self._begin_digest(self._plan.algorithm)
        written = self._write(action)
        if written is not None:
            return written
        metadata = self._with_lanes(action)
        call = self._rpc.upload_file(metadata, self._deadline)
        self._plan.on_asking()
        try:
            with call:
                with suppress(CallEndedError):
                    # The server may speak before everything was sent: its words count.
                    self._send_over(call, action, metadata)
                return self._rpc.uploaded(call.response())
        finally:
            # Whatever ended it, and behind the call's end: nothing leaves any more.
            if call.finish_left:
                self._plan.on_finish_sent()

    def _send_over(
        self, call: UploadCall | UploadLanes, action: upload_plan.Send, metadata: files_pb2.UploadFileMetadata
    ) -> None:
        """Send everything up to the finish."""
        messages = sealed(self._content, self._digest, action.offset, action.chunk_bytes, self._deadline)
        call.write(first_message(metadata))
        self._report(action.offset)
        with _io.produced_ahead(messages) as ready, Patient(call, action.waiting) as patient:
            for message in ready:
                patient.write(message.message)
                self._bytes_sent += message.content
                self._report(message.end)
        self._content.check_unchanged()
        size = self._digest.position
        if self._content.size is not None and size != self._content.size:
            raise source_file.changed(self._content.name)
        self._complete = True
        call.finish(finish_message(size, self._digest.digest()))

    def _write(self, action: upload_plan.Send) -> files_pb2.UploadFileResponse | None:
        """Send a small file with WriteFile (UPL-16); None if it is none, or nobody there knows the method."""
        size = self._content.size
        if size is None or not self._plan.inline or action.metadata.upload_id:
            return None
        if not self._rpc.connected or not self._rpc.has_write(self._address):
            # Whether a request left cannot be told if its call begins without a connection.
            return None
        pieces, held = list[Span](), 0
        with closing(self._content.spans(0, action.chunk_bytes)) as spans:
            for span in spans:
                if span.hole_bytes:
                    # It would be content there.
                    return None
                pieces.append(span)
                held += len(span.data)
                if held > size:
                    raise source_file.changed(self._content.name)
        if not self._digest.rewind(0):
            return None
        request = write_request(action.metadata, self._digest, pieces)
        self._report(0)
        self._content.check_unchanged()
        if self._digest.position != size:
            raise source_file.changed(self._content.name)
        self._complete = True
        self._plan.on_asking()
        self._plan.on_finish_sent()
        try:
            response = self._rpc.write_file(request, self._deadline)
        except FilesError as error:
            if not no_such_method(error):
                raise
            self._rpc.lacks_write(self._address, error)
            self._plan.on_finish_unheard()
            return None
        self._bytes_sent += size
        self._report(size)
        return response

    def _with_lanes(self, action: upload_plan.Send) -> files_pb2.UploadFileMetadata:
        """Return the metadata, with as many lanes as are allowed and pay (LAN-1)."""
        left = None if self._content.size is None else self._content.size - action.offset
        lanes = self._rpc.lanes.choose(action.lanes, left)
        if lanes == 1:
            return action.metadata
        metadata = files_pb2.UploadFileMetadata()
        metadata.CopyFrom(action.metadata)
        metadata.lanes = lanes
        return metadata

    def _begin_digest(self, algorithm: DigestAlgorithm) -> None:
        """Begin again if what was hashed so far was for another digest."""
        if self._digest.algorithm is not algorithm:
            self._digest = ContentDigest(algorithm)

    def _source_digest(self) -> Digest:
        self._begin_digest(self._plan.algorithm)
        hash_up_to(self._content, self._digest, self._content.size or 0, self._deadline)
        return self._digest.digest()

    def _prefix_matches(self, length: int, digest: Digest) -> bool:
        """Whether the source begins with what is staged (RSM-4)."""
        self._begin_digest(digest.algorithm)
        if not self._digest.rewind(length):
            hash_up_to(self._content, self._digest, length, self._deadline)
        return self._digest.position == length and self._digest.digest() == digest

    def _whole_matches(self, size: int, digest: Digest | None) -> bool:
        """Whether what was published is the source."""
        own_size = self._content.size
        if own_size is None and not self._complete:
            raise SourceNotReplayable(
                "the upload was published already, and the stream cannot be compared with it",
                source_file.not_replayable_facts(),
            )
        if own_size is not None:
            if own_size != size or digest is None:
                return False
            self._begin_digest(digest.algorithm)
            hash_up_to(self._content, self._digest, own_size, self._deadline)
        return self._digest.position == size and self._digest.digest() == digest

    def _report(self, transferred: int) -> None:
        if self._progress is None:
            return
        plan = self._plan
        self._id_told = plan.upload_id
        self._tell(
            Progress(
                transferred=transferred,
                total=self._content.size,
                staged=plan.staged,
                durable=plan.durable,
                attempt=plan.attempts,
                upload_id=plan.upload_id,
            )
        )

    def _tell(self, progress: Progress) -> None:
        if self._progress is not None:
            inside = _io.REPORTING.set(True)
            try:
                self._progress(progress)
            except BaseException as error:
                self._of_callback = error
                raise
            finally:
                _io.REPORTING.reset(inside)

    def _result(self, response: files_pb2.UploadFileResponse, seconds: float) -> UploadResult:
        file = answers.file_info(response.file)
        durability = answers.durability(response.durability)
        durable = file.size if durability is Durability.FSYNC else None
        self._tell(
            Progress(file.size, file.size, file.size, durable, self._plan.attempts, self._plan.upload_id)
        )
        return UploadResult(
            path=file.path,
            size=response.bytes_written,
            digest=file.digest,
            mode=file.mode,
            modified_ns=file.modified_ns,
            version=file.version,
            durability=durability,
            bytes_sent=self._bytes_sent,
            resumed_from=response.resumed_from or self._resumed_from,
            attempts=self._plan.attempts,
            seconds=seconds,
            already_identical=response.already_identical,
            replayed=response.replayed or (self._plan.attempts == 0 and not response.already_identical),
            upload_id=response.upload_id,
            started_over=self._plan.started_over,
        )
