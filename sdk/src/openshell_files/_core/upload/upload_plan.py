"""State machine of an upload: names the next call or computation until the file is published.

The driver carries `action` out, reports the result, and reads `action` again,
until it is `Finished` or the plan raises. The plan implements the rules of
docs/protocol.md (RSM-4, RSM-15, RSM-16, RSM-25, DIG-4); it has no clock and no connection.

    no upload yet ──Start──▶ RECEIVING ──(ComparePrefix)──▶ Send ──▶ CompareWhole ──▶ Finished
                     │            ▲                           │ failed
         small file: └─Send       └── Start (takes over) ◀── Look ──▶ VERIFYING: wait, Look again
                                                               ├──▶ PUBLISHED: CompareWhole
                                                               └──▶ UPLOAD_UNKNOWN: from the start

After the caller's time or the retries are used up, the plan only asks: with GetUpload, which admits nothing (RSM-38).
"""

from __future__ import annotations

from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason, reason_named

from openshell_files._core import answers
from openshell_files._core.capabilities import Capabilities
from openshell_files._core.retry import Decision
from openshell_files._core.upload.actions import (
    Action,
    ComparePrefix,
    CompareWhole,
    Finished,
    HashSource,
    Look,
    Send,
    Start,
)
from openshell_files._core.upload.finish_outcome import is_verdict, refused_before_the_sandbox
from openshell_files._core.upload.remedy import Remedy, remedy
from openshell_files._core.upload.upload_course import UploadCourse
from openshell_files._core.upload.upload_digest import Agreement
from openshell_files._core.upload.upload_error import outcome_unknown
from openshell_files._known_errors import error_from_reason
from openshell_files.errors import ErrorFacts, FilesError, IntegrityError, LocalReason, OutcomeUnknown
from openshell_files.results import UploadState

#: The shortest pause before the plan asks again for the verdict on a finish, in seconds.
_LEAST_POLL_SECONDS = 0.05


class UploadPlan(UploadCourse):
    """Chooses the next action of an upload from the result of the last; see `UploadCourse` for its state."""

    def ask_last_time(self, error: FilesError) -> None:
        """Ask for the outcome of the finish once more, after the caller's time ran out.

        The question names an upload that the sandbox admitted, or is GetUpload:
        StartUpload with the request id alone would admit a new upload (RSM-38).

        Args:
            error: error of the last attempt; raised if nothing was published.
        """
        self._final_error = error
        self._taken_over = False
        self.action = Start(self.takeover()) if self.upload_id else self._requests.look()

    # Results of actions

    def on_started(self, answer: files_pb2.StartUploadResponse, capabilities: Capabilities) -> None:
        """Take the answer to `Start`, and the capabilities of the sandbox."""
        self._limits.capabilities = capabilities
        self._requests.upload_id = answer.upload.upload_id
        self._requests.epoch = answer.upload.epoch
        self._taken_over = True
        self._continue_from(answer.upload)

    def on_status(self, answer: files_pb2.GetUploadResponse) -> None:
        """Take the answer to `Look`.

        Raises:
            InternalError: the digest was requested and is missing.
        """
        if isinstance(self.action, Look) and self.action.hashed_bytes and not _has_digest(answer.upload):
            raise error_from_reason(
                Reason.AGENT_PROTOCOL_ERROR,
                "the digest of the staged bytes was requested and is missing",
                path=self.path,
            )
        if answers.upload_state(answer.upload) is not UploadState.EXPIRED:
            self._requests.upload_id = answer.upload.upload_id or self.upload_id
            self._requests.request_id = answer.upload.request_id or self._requests.request_id
        self._continue_from(answer.upload)

    def on_prefix(self, *, matches: bool) -> None:
        """Take the result of `ComparePrefix`."""
        if matches:
            self._resumes = False
            self.action = self._requests.send(self.staged or 0)
            return
        if not self._resumes:
            error = error_from_reason(
                Reason.DIGEST_MISMATCH,
                f"the {self.staged} staged bytes are not those of the source, so the upload starts over",
            )
            self._decide(error)
        self._replace_upload("the staged bytes are not those of the source")

    def on_whole(self, *, matches: bool) -> None:
        """Take the result of `CompareWhole`.

        Raises:
            IntegrityError: the published content is not the source's.
        """
        if matches:
            self.action = Finished(self._response)
        elif self._resumes:
            self._new_upload("it was published with other content")
        else:
            raise IntegrityError(
                "the size or digest that the sandbox published is not the source's",
                ErrorFacts(
                    LocalReason.ANSWER_MISMATCH,
                    fix="Find out what writes to the file in the sandbox, and upload it again. If nothing does, "
                    "report it: the server must verify before it publishes.",
                ),
                path=self.path,
            )

    def on_source_hashed(self, digest: Digest) -> None:
        """Take the result of `HashSource`."""
        self._digest.source_hashed(digest)
        self._replace_upload("the sandbox has to compare the source by another digest")

    def on_sent(self, response: files_pb2.UploadFileResponse) -> None:
        """Take the answer to `Send`."""
        self._published(response)

    def on_aborted(self, answer: files_pb2.AbortUploadResponse | None) -> None:
        """Take the answer to `Abort`.

        Args:
            answer: None if the call failed.

        Raises:
            FilesError: the upload was the last attempt's.
        """
        if self._final_error is None:
            self.action = self._requests.first()
            return
        state = UploadState.UNKNOWN if answer is None else answers.upload_state(answer.upload)
        if answer is not None and state is UploadState.PUBLISHED:
            self._published(answer.upload.result)
            return
        if state in {UploadState.ABORTED, UploadState.EXPIRED}:
            self._finish_sent = False
            self._requests.upload_id, self.staged = "", None
        raise self._callers_error(self._final_error)

    def on_error(self, error: FilesError) -> None:
        """Take the failure of the current action.

        Raises:
            FilesError: it must not be retried, or the retries are used up.
        """
        failed = self.action
        if isinstance(failed, Send) and refused_before_the_sandbox(error):
            self.on_finish_not_received()
        match remedy(error, failed, self._situation()):
            case Remedy.NEW_UPLOAD:
                self._upload_is_unknown(error)
            case Remedy.START_UPLOAD:
                self._requests.inline = False
                self.action = self._requests.start()
            case Remedy.NEXT_DIGEST:
                # Refused before the first byte: there is no outcome to ask for.
                self.on_finish_not_received()
                self._digest.expect_next()
                self.action = self._requests.first()
            case Remedy.REPLACE_UPLOAD:
                fields = error.metadata.get("fields", "").replace("metadata.", "").replace(",", ", ")
                self._replace_upload(f"it began with another {fields or 'request'}")
            case Remedy.FEWER_LANES:
                # As a new attempt: lanes of this one may still be on their way.
                self._limits.refuse_lanes(error)
                self.action = self._requests.start()
            case Remedy.SMALLER_CHUNKS:
                # The refused stream publishes nothing, even if its finish was sent.
                self.on_finish_not_received()
                self._limits.refuse_chunks()
                self._taken_over = False
                self.action = self._requests.look()
            case Remedy.RETRY:
                self._retry(failed, error)

    # Rules

    def _retry(self, failed: Action, error: FilesError) -> None:
        """Repeat the failed action, or find out how far it came, if the budget allows a retry."""
        try:
            decision = self._decide(error)
        except OutcomeUnknown:
            breaks_protocol = error.reason == Reason.AGENT_PROTOCOL_ERROR.name
            if not isinstance(failed, Send) or error.reason == LocalReason.TIMEOUT or breaks_protocol:
                # No time is left, or the answer would come from a peer that breaks the protocol.
                raise
            # The retries are used up, but one question is cheap.
            self._final_error = error
            self.action = self._requests.look()
            return
        if decision.refresh_token:
            # The gateway refused the call unread: nothing has happened.
            self._wait(decision, failed)
            return
        self._taken_over = self._taken_over and not isinstance(failed, Send)
        if decision.restart:
            self._begin_again(decision, error)
        elif isinstance(failed, Send):
            self._wait(decision, self._requests.look())
        else:
            self._wait(decision, failed)

    def _continue_from(self, status: files_pb2.UploadStatus) -> None:
        """Choose the next action by the state of the upload."""
        self.staged, self.durable = status.staged_bytes, status.durable_bytes
        state = answers.upload_state(status)
        has_digest = state in {UploadState.RECEIVING, UploadState.VERIFYING, UploadState.PUBLISHED}
        if has_digest and not self._agree_on_digest(status):
            return
        match state:
            case UploadState.PUBLISHED:
                self._published(status.result)
            case UploadState.VERIFYING:
                self._await_verdict()
            case UploadState.RECEIVING:
                self._receive(status)
            case UploadState.ABORTED:
                self._was_aborted(status)
            case UploadState.EXPIRED:
                self._finish_sent = False
                self._upload_is_unknown(error_from_reason(Reason.UPLOAD_EXPIRED, "the upload expired"))
            case UploadState.UNKNOWN:
                raise self._broken(f"the upload's state is {status.state}, which is undefined")

    def _agree_on_digest(self, status: files_pb2.UploadStatus) -> bool:
        """Agree with the server on an algorithm; False if another action has to come first."""
        match self._digest.agree(status, resumes=self._resumes):
            case Agreement.AGREED:
                return True
            case Agreement.HASH_SOURCE:
                self.action = HashSource()
            case Agreement.NOT_ACCEPTED if self._resumes:
                has = DigestAlgorithm.known(status.digest_algorithm)
                accepted = " and ".join(each.name.lower() for each in self._digest.accepted)
                self._replace_upload(
                    f"its digest is {'of an unknown kind' if has is None else has.name.lower()}, and the option "
                    f"digest accepts only {accepted}"
                )
            case Agreement.NOT_ACCEPTED:
                raise self._broken(
                    f"the upload's digest is {status.digest_algorithm}, which was not requested"
                )
        return False

    def _receive(self, status: files_pb2.UploadStatus) -> None:
        if self._final_error is not None:
            if self._requests.inline:
                # No caller resumes a small file. An aborted upload refuses the finish, whenever it arrives.
                self.action = self._requests.abort()
                return
            if not self._taken_over:
                # The finish may still arrive. Behind a newer epoch it publishes nothing.
                self.action = Start(self.takeover())
                return
            self._finish_sent = False
            raise self._callers_error(self._final_error)
        if status.staged_bytes > self._most_staged:
            self._most_staged = status.staged_bytes
            self._budget.progressed()
        if not self._taken_over:
            self.action = self._requests.start()
            return
        # An older stream cannot finish any more, whatever it sent.
        self._finish_sent = False
        if status.staged_bytes == 0:
            self._resumes = False
            self.action = self._requests.send(0)
        elif (staged := Digest.of(status.staged_digest)) is not None:
            self.action = ComparePrefix(status.staged_bytes, staged)
        else:
            self.action = self._requests.look(hashed_bytes=status.staged_bytes)

    def _await_verdict(self) -> None:
        delay = max(_LEAST_POLL_SECONDS, self._budget.delay(self._verdict_polls))
        self._verdict_polls += 1
        self._waited_for_verdict += delay
        if self._waited_for_verdict > self._patience:
            raise outcome_unknown("the sandbox is still verifying", self._facts())
        self._wait(Decision(delay), self._requests.look())

    def _published(self, response: files_pb2.UploadFileResponse) -> None:
        self._response = response
        self._requests.upload_id = response.upload_id or self.upload_id
        self.action = CompareWhole(response.bytes_written, Digest.of(response.file.digest))

    def _was_aborted(self, status: files_pb2.UploadStatus) -> None:
        if self._resumes:
            self._new_upload("it was aborted")
            return
        self._finish_sent = False
        reason = reason_named(status.failure_reason) or Reason.UPLOAD_ABORTED
        error = error_from_reason(reason, f"the upload was aborted: {reason.row.meaning}")
        decision = self._decide(error)
        self._new_upload(error.message)
        self._wait(decision, self.action)

    def _upload_is_unknown(self, error: FilesError) -> None:
        """Begin again without the upload; a finish that was sent may still publish (RSM-25)."""
        if self._final_error is not None:
            self._requests.upload_id = ""
            raise self._callers_error(self._final_error)
        if self._resumes or (self._requests.inline and not self.upload_id):
            # The sandbox admitted nothing of this call: begin, with the same request id.
            expired = error.reason == Reason.UPLOAD_EXPIRED.name
            self._start_over("it has expired" if expired else "the sandbox does not know it")
            self._requests.upload_id = ""
            self.action = self._requests.first()
            return
        self._begin_again(self._decide(error), error)

    def _begin_again(self, decision: Decision, error: FilesError) -> None:
        """Begin a new upload after the pause of `decision`."""
        refused = is_verdict(error, of_finish=isinstance(self.action, Send))
        self._outcome_lost = self._outcome_lost or (self._finish_sent and not refused)
        self._new_upload(error.message)
        self._wait(decision, self.action)


def _has_digest(status: files_pb2.UploadStatus) -> bool:
    """Return whether the digest of the staged bytes is there, or nothing is staged."""
    receiving = answers.upload_state(status) is UploadState.RECEIVING
    return not receiving or status.staged_bytes == 0 or status.HasField("staged_digest")
