"""Decides every step of an upload: admission, sending, resuming, finding out.

The driver carries `action` out, tells the plan what came of it, and looks at
`action` again, until it is `Finished` or the plan raises. The plan holds the
rules of docs/protocol.md (RSM-1 to RSM-10, DIG-2 to DIG-7); it has no clock and no connection.

    no upload yet ──Start──▶ RECEIVING ──(ComparePrefix)──▶ Send ──▶ CompareWhole ──▶ Finished
                     │            ▲                           │ failed
         small file: └─Send       └── Start (takes over) ◀── Look ──▶ VERIFYING: wait, Look again
                                                               ├──▶ PUBLISHED: CompareWhole
                                                               └──▶ UPLOAD_UNKNOWN: from the start
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.limits import MAX_CHUNK_BYTES, MIN_CHUNK_LIMIT_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Code, Reason, Retry, reason_named

from openshell_files._core import answers
from openshell_files._core.capabilities import DEFAULTS, Capabilities
from openshell_files._core.requests import SandboxAddress
from openshell_files._core.retrying import Decision, RetryBudget
from openshell_files._core.upload.after_finish import at_the_door, is_verdict
from openshell_files._core.upload.lanes import MOST_LANES, free_lanes
from openshell_files._error_mapping import error_from_reason
from openshell_files.errors import (
    ErrorFacts,
    FilesError,
    IntegrityError,
    LocalReason,
    OutcomeUnknown,
    Unavailable,
    UploadConflict,
    UploadInterrupted,
    UploadUnknown,
)
from openshell_files.results import UploadState


@dataclass(frozen=True, slots=True)
class Start:
    """Call StartUpload, then `on_started`."""

    request: files_pb2.StartUploadRequest


@dataclass(frozen=True, slots=True)
class Look:
    """Call GetUpload, then `on_status`.

    Attributes:
        request: the request.
        hashed_bytes: bytes the sandbox has to read for the answer.
    """

    request: files_pb2.GetUploadRequest
    hashed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ComparePrefix:
    """Compare the digest of the source's first `length` bytes, then `on_prefix` (RSM-4)."""

    length: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class CompareWhole:
    """Compare size and digest of the whole source, then `on_whole`. Without a digest they differ."""

    size: int
    digest: Digest | None


@dataclass(frozen=True, slots=True)
class HashSource:
    """Compute the digest of the whole source, then `on_source_hashed`."""


@dataclass(frozen=True, slots=True)
class Send:
    """Open UploadFile and send from `offset` to the finish, then `on_sent`.

    Attributes:
        metadata: the first message, for one stream.
        offset: where to begin.
        chunk_bytes: size of the chunks.
        lanes: how many streams there may be (LAN-1).
        waiting: seconds after which to say that the source gives nothing
            (WAI-2); None if the server does not take that.
    """

    metadata: files_pb2.UploadFileMetadata
    offset: int
    chunk_bytes: int
    lanes: int = 1
    waiting: float | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait so many seconds, get a new token if asked to, then `on_waited`."""

    seconds: float
    refresh_token: bool = False


@dataclass(frozen=True, slots=True)
class Abandon:
    """Call AbortUpload, then `on_abandoned` whatever came of it: expiry does it too."""

    request: files_pb2.AbortUploadRequest


@dataclass(frozen=True, slots=True)
class Finished:
    """The file is published."""

    response: files_pb2.UploadFileResponse


#: After so many refusals of lanes an upload goes on without.
_LANE_REFUSALS: Final = 2

Action = Start | Look | ComparePrefix | CompareWhole | HashSource | Send | Wait | Abandon | Finished


class UploadPlan:
    """One call of `upload`, over all its attempts.

    Args:
        address: the sandbox.
        metadata: first message, without names for the upload.
        inline: small enough to be sent without StartUpload.
        source: digest of the source if it is known and identical content need
            not be sent (RSM-9).
        resume: an upload to go on with, of this or an earlier process.
        budget: how often to try.
        new_id: makes a UUID.
        patience: seconds to wait for a finish that is being verified.
        digests: algorithms that the caller takes, best first (DIG-2).
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
        self._address = address
        self._template = metadata
        self._inline = inline and source is None and not resume
        self._source = source
        self._source_hashed = False
        self._digests = digests
        #: What a server probably takes, as far as it has said nothing else.
        self._expected = self._algorithm = digests[0]
        self._budget = budget
        self._new_id = new_id
        self._patience = patience
        self._request_id = new_id()
        self._upload_id = resume
        self._epoch = 0
        self._may = DEFAULTS
        self._most_chunk_bytes = MAX_CHUNK_BYTES
        self._most_lanes = MOST_LANES
        self._lane_refusals = 0
        self._taken_over = False
        self._finish_sent = False
        self._finish_sent_before = False
        self._announced = False
        # Until the first answer about an upload of an earlier process, all
        # that speaks against going on with it means a new upload, not an error.
        self._inherited = bool(resume)
        self._best_staged = 0
        # What ended the last try, while the last question is asked.
        self._last_word: FilesError | None = None
        self._waited_for_verdict = 0.0
        self._verdict_polls = 0
        self._response = files_pb2.UploadFileResponse()
        self._after_wait: Action
        self.attempts = 0
        #: An upload that was to be gone on with could not be: another one was begun.
        self.started_over = False
        self.staged: int | None = None
        self.durable: int | None = None
        self.action: Action = self._look() if resume else self._begin()

    @property
    def algorithm(self) -> DigestAlgorithm:
        """The algorithm of the upload's digest."""
        return self._algorithm

    @property
    def upload_id(self) -> str:
        """The upload's name, once it can be found by it."""
        return self._upload_id

    @property
    def path(self) -> str:
        """The destination."""
        return self._template.remote_path

    @property
    def finish_sent(self) -> bool:
        """Whether the file may be published although nobody has said so."""
        return self._finish_sent

    @property
    def announced(self) -> bool:
        """Whether the sandbox may know the upload."""
        return self._announced or bool(self._upload_id)

    @property
    def inline(self) -> bool:
        """Whether it is begun without StartUpload."""
        return self._inline

    def claim(self) -> files_pb2.StartUploadRequest:
        """Return the request that takes the upload over, or makes it, so that no older call can go on with it.

        It is found by its name or its request id (RSM-1, RSM-5).
        """
        return files_pb2.StartUploadRequest(metadata=self._named(self._digests))

    def last_question(self, error: FilesError) -> None:
        """Ask once more what became of the finish, after all time is used up.

        Taking the upload over makes the answer final: an older stream cannot
        publish any more.

        Args:
            error: what ended the last try; it is raised if nothing was published.
        """
        self._last_word = error
        self._taken_over = False
        self.action = Start(self.claim())

    # What came of an action

    def on_asking(self) -> None:
        """Note that a request which names the upload goes out."""
        self._announced = True

    def on_started(self, answer: files_pb2.StartUploadResponse, may: Capabilities) -> None:
        """Take the answer to `Start`, and what the sandbox lets this client do."""
        self._may = may
        self._upload_id = answer.upload.upload_id
        self._epoch = answer.upload.epoch
        self._taken_over = True
        self._judge(answer.upload)

    def on_status(self, answer: files_pb2.GetUploadResponse) -> None:
        """Take the answer to `Look`."""
        if isinstance(self.action, Look) and self.action.hashed_bytes and not _says_digest(answer.upload):
            raise error_from_reason(
                Reason.AGENT_PROTOCOL_ERROR,
                "the digest of the staged bytes was asked for and is missing",
                path=self._template.remote_path,
            )
        if answers.upload_state(answer.upload) is not UploadState.EXPIRED:
            self._upload_id = answer.upload.upload_id or self._upload_id
            self._request_id = answer.upload.request_id or self._request_id
        self._judge(answer.upload)

    def on_prefix(self, *, matches: bool) -> None:
        """Take the result of `ComparePrefix`."""
        if matches:
            self._inherited = False
            self._send(self.staged or 0)
            return
        if not self._inherited:
            error = error_from_reason(
                Reason.DIGEST_MISMATCH,
                f"the {self.staged} staged bytes are not those of the source, so the upload starts over",
            )
            self._decide(error)
        self._replace_upload()

    def on_whole(self, *, matches: bool) -> None:
        """Take the result of `CompareWhole`.

        Raises:
            IntegrityError: what was published is not what was sent.
        """
        if matches:
            self.action = Finished(self._response)
        elif self._inherited:
            self._new_upload()
        else:
            raise IntegrityError(
                "the size or digest that the sandbox published is not the source's",
                ErrorFacts(
                    LocalReason.ANSWER_MISMATCH,
                    fix="Look what writes to the file in the sandbox, and upload it again. If nothing does, report it: "
                    "the server must verify before it publishes.",
                ),
                path=self._template.remote_path,
            )

    def on_source_hashed(self, digest: Digest) -> None:
        """Take the result of `HashSource`."""
        self._source, self._source_hashed = digest, True
        self._replace_upload()

    def on_sent(self, response: files_pb2.UploadFileResponse) -> None:
        """Take the answer to `Send`."""
        self._published(response)

    def on_finish_sent(self) -> None:
        """Note that the finish may have left this process: from here on a failure may hide a success."""
        self._finish_sent_before = self._finish_sent
        self._finish_sent = True

    def on_finish_unheard(self) -> None:
        """Take `on_finish_sent` back: nobody who has heard the finish knows its method."""
        self._finish_sent = self._finish_sent_before

    def on_waited(self) -> None:
        """Go on after `Wait`."""
        self.action = self._after_wait

    def on_abandoned(self) -> None:
        """Go on after `Abandon`, also after one that failed."""
        self.action = self._begin()

    def on_error(self, error: FilesError) -> None:
        """Take the failure of the current action.

        Raises:
            FilesError: it must not be tried again, or not any more.
        """
        failed = self.action
        if isinstance(failed, Send) and at_the_door(error):
            self.on_finish_unheard()
        if isinstance(failed, Look) and isinstance(error, UploadUnknown):
            self._gone(error)
            return
        if error.reason == Reason.DIGEST_UNSUPPORTED.name and self._expect_the_next(failed):
            return
        if self._inherited and isinstance(error, UploadConflict):
            self._replace_upload()
            return
        if error.reason == Reason.TOO_MANY_LANES.name and self._lane_refusals < _LANE_REFUSALS:
            # Others were quicker. Nothing has reached the sandbox, and it is
            # no try: with fewer lanes, one at last, it goes on at once. As a
            # new attempt: lanes of this one may still be on their way.
            self._lane_refusals += 1
            self._most_lanes = free_lanes(error) if self._lane_refusals < _LANE_REFUSALS else 1
            self.action = Start(self._start_request())
            return
        if error.reason == Reason.CHUNK_TOO_LARGE.name and self._sends_large_chunks():
            # The limit is another one by now. Every server takes chunks of this size (UPL-6).
            self._most_chunk_bytes = MIN_CHUNK_LIMIT_BYTES
            self._taken_over = False
            self.action = self._look()
            return
        try:
            decision = self._decide(error)
        except OutcomeUnknown:
            breaks_protocol = error.reason == Reason.AGENT_PROTOCOL_ERROR.name
            if not isinstance(failed, Send) or error.reason == LocalReason.TIMEOUT or breaks_protocol:
                # Time is up, or whoever breaks the protocol would be asked.
                raise
            # All tries are used up, but one question costs nothing.
            self._last_word = error
            self.action = self._look()
            return
        if decision.refresh_token:
            # Refused at the door: nothing has happened that had to be asked for.
            self._wait(decision, failed)
            return
        self._taken_over = self._taken_over and not isinstance(failed, Send)
        if decision.restart:
            self._new_upload()
            self._wait(decision, self.action)
        elif isinstance(failed, Send):
            self._wait(decision, self._look())
        else:
            self._wait(decision, failed)

    # The rules

    def _sends_large_chunks(self) -> bool:
        """Return whether smaller chunks may help. Behind a finish that left it is a verdict on the whole stream."""
        large = isinstance(self.action, Send) and self.action.chunk_bytes > MIN_CHUNK_LIMIT_BYTES
        return large and not self._finish_sent

    def _judge(self, status: files_pb2.UploadStatus) -> None:
        """Go on from where the upload stands."""
        self.staged, self.durable = status.staged_bytes, status.durable_bytes
        state = answers.upload_state(status)
        going_on = {UploadState.RECEIVING, UploadState.VERIFYING, UploadState.PUBLISHED}
        if state in going_on and not self._agree_on_digest(status):
            return
        match state:
            case UploadState.PUBLISHED:
                self._published(status.result)
            case UploadState.VERIFYING:
                self._await_verdict()
            case UploadState.RECEIVING:
                self._receive(status)
            case UploadState.ABORTED:
                self._aborted(status)
            case UploadState.EXPIRED:
                self._gone(error_from_reason(Reason.UPLOAD_EXPIRED, "the upload's time ran out"))
            case UploadState.UNKNOWN:
                raise self._final(
                    error_from_reason(
                        Reason.AGENT_PROTOCOL_ERROR, f"the upload's state is {status.state}, which is none"
                    )
                )

    def _agree_on_digest(self, status: files_pb2.UploadStatus) -> bool:
        """Go on with the digest that the upload has (DIG-4).

        Returns:
            False if something else has to be done first.
        """
        has = DigestAlgorithm.known(status.digest_algorithm)
        if has is None or has not in self._digests:
            if self._inherited:
                self._replace_upload()
                return False
            raise self._final(
                error_from_reason(
                    Reason.AGENT_PROTOCOL_ERROR,
                    f"the upload's digest is {status.digest_algorithm}, which was not asked for",
                )
            )
        self._algorithm = has
        if self._inherited or self._source is None or self._source.algorithm is has or self._source_hashed:
            return True
        if answers.upload_state(status) is not UploadState.RECEIVING:
            return True
        # The server does not compute the source's digest, and could not compare it.
        self._expected = has
        self.action = HashSource()
        return False

    def _expect_the_next(self, failed: Action) -> bool:
        """Take the next algorithm, if an upload without StartUpload was refused that named one alone (DIG-8)."""
        further = self._digests[self._digests.index(self._expected) + 1 :]
        if not (isinstance(failed, Send) and self._inline and not self._upload_id and further):
            return False
        # It was refused before a byte: nobody else has to be asked what became of it.
        self.on_finish_unheard()
        self._expected = self._algorithm = further[0]
        self.action = self._begin()
        return True

    def _receive(self, status: files_pb2.UploadStatus) -> None:
        if self._last_word is not None:
            if not self._taken_over:
                # The finish may be on its way yet. Nothing publishes behind a newer epoch.
                self.action = Start(self.claim())
                return
            self._finish_sent = False
            raise self._final(self._last_word)
        if status.staged_bytes > self._best_staged:
            self._best_staged = status.staged_bytes
            self._budget.progressed()
        if not self._taken_over:
            self.action = Start(self._start_request())
            return
        # An older stream cannot finish any more, whatever it had sent.
        self._finish_sent = False
        if status.staged_bytes == 0:
            self._inherited = False
            self._send(0)
        elif (staged := Digest.of(status.staged_digest)) is not None:
            self.action = ComparePrefix(status.staged_bytes, staged)
        else:
            self.action = self._look(hashed_bytes=status.staged_bytes)

    def _await_verdict(self) -> None:
        delay = max(0.05, self._budget.delay(self._verdict_polls))
        self._verdict_polls += 1
        self._waited_for_verdict += delay
        if self._waited_for_verdict > self._patience:
            raise self._outcome_unknown("the sandbox is still verifying")
        self._wait(Decision(delay), self._look())

    def _published(self, response: files_pb2.UploadFileResponse) -> None:
        self._response = response
        self._upload_id = response.upload_id or self._upload_id
        self.action = CompareWhole(response.bytes_written, Digest.of(response.file.digest))

    def _aborted(self, status: files_pb2.UploadStatus) -> None:
        if self._inherited:
            self._new_upload()
            return
        self._finish_sent = False
        reason = reason_named(status.failure_reason) or Reason.UPLOAD_ABORTED
        error = error_from_reason(reason, f"the upload was ended: {reason.row.meaning}")
        decision = self._decide(error)
        self._new_upload()
        self._wait(decision, self.action)

    def _gone(self, error: FilesError) -> None:
        if self._last_word is not None:
            self._finish_sent = False
            self._upload_id = ""
            raise self._final(self._last_word)
        if self._inherited or (self._inline and not self._upload_id):
            # Nothing of ours was ever admitted: begin, with the same request id.
            self.started_over = self.started_over or self._inherited
            self._upload_id = ""
            self._inherited = False
            self.action = self._begin()
            return
        self._finish_sent = False
        decision = self._decide(error)
        self._new_upload()
        self._wait(decision, self.action)

    def _new_upload(self) -> None:
        self.started_over = self.started_over or self._inherited
        self._announced = False
        self._request_id = self._new_id()
        self._upload_id = ""
        self._algorithm = self._expected
        self._epoch = 0
        self._taken_over = self._inherited = self._finish_sent = False
        self._best_staged = 0
        self.staged = self.durable = None
        self.action = self._begin()

    def _replace_upload(self) -> None:
        """Free what is staged, then begin a new upload."""
        abandon = Abandon(
            files_pb2.AbortUploadRequest(sandbox=self._address.ref(), upload_id=self._upload_id)
        )
        self._new_upload()
        self.action = abandon

    def _begin(self) -> Action:
        return self._sending(0) if self._inline else Start(self._start_request())

    def _send(self, offset: int) -> None:
        self.action = self._sending(offset)

    def _sending(self, offset: int) -> Send:
        # Without StartUpload nobody says which of several the server takes (DIG-8).
        metadata = self._named(self._digests if self._upload_id else [self._algorithm])
        metadata.epoch = self._epoch
        return Send(
            metadata,
            offset,
            min(self._may.chunk_bytes, self._most_chunk_bytes),
            1 if self._inline else min(self._may.lanes, self._most_lanes),
            self._may.waiting,
        )

    def _named(self, digests: Sequence[DigestAlgorithm]) -> files_pb2.UploadFileMetadata:
        metadata = files_pb2.UploadFileMetadata()
        metadata.CopyFrom(self._template)
        metadata.request_id = self._request_id
        metadata.upload_id = self._upload_id
        metadata.accepted_digests.extend(algorithm.wire for algorithm in digests)
        return metadata

    def _start_request(self) -> files_pb2.StartUploadRequest:
        request = self.claim()
        if self._source is not None:
            request.digest.CopyFrom(self._source.message)
        return request

    def _look(self, *, hashed_bytes: int = 0) -> Look:
        request = files_pb2.GetUploadRequest(
            sandbox=self._address.ref(),
            upload_id=self._upload_id,
            request_id="" if self._upload_id else self._request_id,
            include_digest=hashed_bytes > 0,
        )
        return Look(request, hashed_bytes)

    def _wait(self, decision: Decision, then: Action) -> None:
        self._after_wait = then
        self.action = Wait(decision.delay, decision.refresh_token)

    # Giving up

    def _decide(self, error: FilesError) -> Decision:
        try:
            return self._budget.decide(error)
        except FilesError:
            final = self._final(error)
            raise final from final.__cause__ or error.__cause__

    def _final(self, error: FilesError) -> FilesError:
        """Return what the caller gets to see: the error, and what became of the upload."""
        if self._finish_sent and not is_verdict(error, of_finish=isinstance(self.action, Send)):
            unknown = self._outcome_unknown(error.message)
            unknown.__cause__ = error
            return unknown
        if isinstance(error, Unavailable) and error.retry is not Retry.NEVER and self._upload_id:
            kept = f"; {self.staged} bytes are kept" if self.staged else ""
            error = UploadInterrupted(f"{error.message}{kept}", error.facts, path=self._template.remote_path)
        kept_on = (
            error.retry in {Retry.AGAIN, Retry.LATER}
            or error.code in {Code.UNAUTHENTICATED, Code.PERMISSION_DENIED}
            or error.reason == LocalReason.TIMEOUT
        )
        if self._upload_id and kept_on:
            error.upload_id = self._upload_id
            error.staged = self.staged
        error.about(self._template.remote_path)
        return error

    def _outcome_unknown(self, why: str) -> OutcomeUnknown:
        error = OutcomeUnknown(
            f"the file was sent completely, but whether it was published is not known: {why}",
            ErrorFacts(
                LocalReason.OUTCOME_UNKNOWN,
                fix="Ask for the upload's status, or for the file's digest, before sending it again.",
            ),
            path=self._template.remote_path,
        )
        error.upload_id = self._upload_id
        error.staged = self.staged
        return error


def _says_digest(status: files_pb2.UploadStatus) -> bool:
    """Whether the digest of the staged bytes is there, or there are none."""
    receiving = answers.upload_state(status) is UploadState.RECEIVING
    return not receiving or status.staged_bytes == 0 or status.HasField("staged_digest")
