"""State of one upload as this client knows it, and the transitions that more than one result leads to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files._core.requests import SandboxAddress
from openshell_files._core.retry import Decision, RetryBudget
from openshell_files._core.upload.actions import Action, Send, Wait
from openshell_files._core.upload.remedy import Situation
from openshell_files._core.upload.send_limits import SendLimits
from openshell_files._core.upload.upload_digest import UploadDigest
from openshell_files._core.upload.upload_error import UploadFacts, callers_error
from openshell_files._core.upload.upload_requests import UploadRequests
from openshell_files._known_errors import error_from_reason
from openshell_files.errors import FilesError


class UploadCourse:
    """One call of `upload`, over all its attempts.

    Args:
        address: the sandbox.
        metadata: first message, without ids of the upload.
        inline: small enough to be sent without StartUpload.
        source: digest of the source, to skip content that the sandbox has
            (RSM-9); None sends the content in any case.
        resume: id of an unfinished upload, even of an earlier process.
        budget: retries of this call.
        new_id: makes a UUID.
        patience: seconds to wait for the verdict on a finish.
        digests: algorithms that the caller accepts, best first (DIG-2).

    Attributes:
        action: next action of the driver.
        attempts: streams opened so far.
        started_over_because: why the upload to resume was replaced by a new one; empty if it was not.
        staged: bytes that the sandbox reported as staged; None if it did not.
        durable: bytes that it reported as flushed; None if it did not.
    """

    def __init__(
        self,
        address: SandboxAddress,
        metadata: files_pb2.UploadFileMetadata,
        *,
        inline: bool,
        source: Digest | None,
        resume: str,
        budget: RetryBudget,
        new_id: Callable[[], str],
        patience: float,
        digests: Sequence[DigestAlgorithm],
    ) -> None:
        self._digest = UploadDigest(digests, source)
        self._limits = SendLimits()
        self._requests = UploadRequests(
            address,
            metadata,
            digest=self._digest,
            limits=self._limits,
            new_id=new_id,
            upload_id=resume,
            inline=inline and source is None and not resume,
        )
        self._budget = budget
        self._patience = patience
        self._taken_over = False
        self._finish_sent = False
        self._finish_sent_before = False
        # An earlier upload of this call got a finish, and the sandbox does not know the upload any more.
        self._outcome_lost = False
        self._announced = False
        # True until the sandbox confirms the upload to resume. Until then
        # every obstacle leads to a new upload instead of an error.
        self._resumes = bool(resume)
        self._most_staged = 0
        # Error of the last attempt, while the plan asks for the outcome one last time.
        self._final_error: FilesError | None = None
        self._waited_for_verdict = 0.0
        self._verdict_polls = 0
        self._response = files_pb2.UploadFileResponse()
        self._after_wait: Action
        self.attempts = 0
        self.started_over_because = ""
        self.staged: int | None = None
        self.durable: int | None = None
        self.action: Action = self._requests.look() if resume else self._requests.first()

    @property
    def algorithm(self) -> DigestAlgorithm:
        """Algorithm of the upload's digest."""
        return self._digest.algorithm

    @property
    def upload_id(self) -> str:
        """Id of the upload; empty until the sandbox gave one."""
        return self._requests.upload_id

    @property
    def path(self) -> str:
        """The destination."""
        return self._requests.path

    @property
    def finish_sent(self) -> bool:
        """True if the file may be published although no answer confirmed it."""
        return self._finish_sent or self._outcome_lost

    @property
    def announced(self) -> bool:
        """True if the sandbox may know the upload."""
        return self._announced or bool(self.upload_id)

    @property
    def inline(self) -> bool:
        """True if the upload is begun without StartUpload."""
        return self._requests.inline

    def takeover(self) -> files_pb2.StartUploadRequest:
        """Return the request after which no older stream can write to the upload or finish it (RSM-5, RSM-18)."""
        return self._requests.takeover()

    # Notes of the driver

    def on_request_sent(self) -> None:
        """Note that a request which names the upload was sent."""
        self._announced = True

    def on_attempt(self) -> None:
        """Note that an attempt to send begins."""
        self._finish_sent_before = self._finish_sent

    def on_finish_sent(self) -> None:
        """Note that the finish may have left this process: from here on an error may hide a success."""
        self._finish_sent = True

    def on_finish_not_received(self) -> None:
        """Undo `on_finish_sent` of this attempt: its call was refused before the sandbox read the finish."""
        self._finish_sent = self._finish_sent_before

    def on_waited(self) -> None:
        """Continue after `Wait`."""
        self.action = self._after_wait

    # Transitions

    def _start_over(self, why: str) -> None:
        """Note that the upload to resume is not resumed, and why; a later call has no effect."""
        if self._resumes:
            self.started_over_because = why
        self._resumes = False

    def _new_upload(self, why: str) -> None:
        self._start_over(why)
        self._announced = False
        self._requests.name_new_upload()
        self._digest.begin_upload()
        self._taken_over = self._finish_sent = False
        self._most_staged = 0
        self.staged = self.durable = None
        self.action = self._requests.first()

    def _replace_upload(self, why: str) -> None:
        """Free what is staged, then begin a new upload."""
        abort = self._requests.abort()
        self._new_upload(why)
        self.action = abort

    def _wait(self, decision: Decision, then: Action) -> None:
        self._after_wait = then
        self.action = Wait(decision.delay, decision.refresh_token)

    # Errors

    def _decide(self, error: FilesError) -> Decision:
        try:
            return self._budget.decide(error)
        except FilesError:
            final = self._callers_error(error)
            raise final from final.__cause__ or error.__cause__

    def _broken(self, why: str) -> FilesError:
        return self._callers_error(error_from_reason(Reason.AGENT_PROTOCOL_ERROR, why))

    def _callers_error(self, error: FilesError) -> FilesError:
        return callers_error(error, self._facts())

    def _facts(self) -> UploadFacts:
        return UploadFacts(
            self.path,
            self.upload_id,
            self.staged,
            finish_sent=self._finish_sent or self._outcome_lost,
            sending=isinstance(self.action, Send) and not self._outcome_lost,
        )

    def _situation(self) -> Situation:
        return Situation(
            resumes=self._resumes,
            inline=self._requests.inline and not self.upload_id,
            digests_left=bool(self._digest.untried),
            lanes_can_shrink=self._limits.lanes_can_shrink,
        )
