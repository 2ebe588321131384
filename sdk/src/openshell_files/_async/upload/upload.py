"""Driver of an upload: carries the plan's actions out until the file is published."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from openshell_files_protocol.digests import Digest
from openshell_files_protocol.limits import MIN_CHUNK_LIMIT_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files._async import _io
from openshell_files._async.deadline import Deadline
from openshell_files._async.rpc import Rpc
from openshell_files._async.upload.content import Content, SourceFailedError, hash_up_to
from openshell_files._async.upload.freeing import free
from openshell_files._async.upload.sender import Sender
from openshell_files._async.upload.upload_progress import UploadProgress
from openshell_files._core import answers
from openshell_files._core.borrowed_channel_errors import CLOSED
from openshell_files._core.digests import ContentDigest
from openshell_files._core.requests import SandboxAddress, accepted_digests, upload_metadata
from openshell_files._core.upload import actions
from openshell_files._core.upload.cleanup import (
    BACKGROUND_SECONDS,
    FREEING_SECONDS,
    GRACE_SECONDS,
    ClientClosedError,
    EndedUpload,
    is_lost,
    must_be_freed,
)
from openshell_files._core.upload.upload_plan import UploadPlan
from openshell_files._local import source_file
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
from openshell_files.options import Durability, RemotePath, WriteOptions
from openshell_files.results import ProgressCallback, UploadResult

#: Seconds to wait for the verdict on a finish whose answer was lost.
_VERDICT_SECONDS: Final = 300.0


class Upload:
    """One call of `upload`, over all its attempts.

    Args:
        rpc: the gateway.
        address: the sandbox.
        content: the source.
        digest: of the content; may have hashed some of it already.
        plan: chooses the actions.
        deadline: end of the caller's time.
        progress: the caller's callback.
        id_given: the caller passed the id of an upload to resume.
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
        self._plan = plan
        self._deadline = deadline
        self._id_given = id_given
        self._progress = UploadProgress(plan, content.size, progress)
        self._sender = Sender(rpc, address, content, digest, plan, self._progress)
        self._last_error: FilesError | None = None

    async def run(self) -> UploadResult:
        """Upload the content.

        Raises:
            FilesError: it was refused, or the retries are used up.
        """
        began = _io.monotonic()
        gate, paced = self._rpc.gate(self._address), self._content.size is None
        entered = await gate.enter(self._deadline, paced=paced)
        try:
            with self._rpc.running(self._abandon):
                response = await self._publish()
        finally:
            if entered:
                gate.leave(paced=paced)
        return self._result(response, _io.monotonic() - began)

    async def _publish(self) -> files_pb2.UploadFileResponse:
        """Carry the plan out; after a failure raise the caller's error and free what must be freed."""
        try:
            return await self._carry_plan_out()
        except BaseException as error:
            shown = self._callers_error(error)
            found = await self._late_answer(shown)
            if found is None:
                # An interrupted caller does not wait, nor does a caller whose time is used up.
                deliberate = isinstance(error, Exception) or error is self._progress.raised
                waits = deliberate and not isinstance(shown, DeadlineExceeded)
                await self._end(shown, waits=waits)
                if shown is error:
                    raise
                raise shown from shown.__cause__
            return found

    async def _carry_plan_out(self) -> files_pb2.UploadFileResponse:
        while not isinstance(self._plan.action, actions.Finished):
            if self._rpc.closing:
                raise ClientClosedError(CLOSED)
            await self._step(self._plan.action)
        return self._plan.action.response

    async def _step(self, action: actions.Action) -> None:
        try:
            report = await self._carry_out(action)
        except LocalFileError:
            raise
        except FilesError as error:
            if self._rpc.closing:
                raise ClientClosedError(CLOSED) from error
            if not (isinstance(action, actions.Look) and isinstance(error, UploadUnknown)):
                # UploadUnknown answers the question; it is not the cause of the failure.
                self._last_error = error
            self._address.name_in(error)
            if error.reason == Reason.DIGEST_UNSUPPORTED.name:
                self._rpc.digest_refused(self._plan.algorithm)
            self._rpc.refused(self._address, error)
            late = isinstance(error, DeadlineExceeded) and error.reason != Reason.TRANSFER_IDLE.name
            failed = isinstance(action, actions.Send) and not self._plan.finish_sent
            if failed and self._content.spent and not late:
                # The stream cannot be sent again, so a retry would be in vain.
                raise source_file.not_replayable(self._content.name) from error
            self._plan.on_error(error)
        else:
            report()
            if isinstance(action, actions.Start | actions.Look):
                self._progress.transferred(self._plan.staged or 0)

    async def _carry_out(self, action: actions.Action) -> Callable[[], None]:
        """Carry an action out; return the call that reports its result to the plan, which may raise."""
        plan, deadline = self._plan, self._deadline
        match action:
            case actions.Start(request):
                plan.on_request_sent()
                capabilities = self._rpc.capabilities(self._address)
                capabilities.begin()
                started = await self._rpc.start_upload(request, deadline)
                return partial(plan.on_started, started, await capabilities.told(deadline))
            case actions.Look(request, hashed_bytes):
                status = await self._rpc.get_upload(request, deadline, hashed_bytes=hashed_bytes)
                return partial(plan.on_status, status)
            case actions.Send():
                return partial(plan.on_sent, await self._sender.send(action, deadline))
            case actions.ComparePrefix(length, digest):
                matches = await self._sender.prefix_matches(length, digest, deadline)
                return partial(plan.on_prefix, matches=matches)
            case actions.CompareWhole(size, digest):
                matches = await self._sender.whole_matches(size, digest, deadline)
                return partial(plan.on_whole, matches=matches)
            case actions.HashSource():
                return partial(plan.on_source_hashed, await self._sender.source_digest(deadline))
            case actions.Abort(request):
                aborted = None
                with suppress(FilesError):
                    aborted = await self._rpc.abort_upload(request, deadline)
                return partial(plan.on_aborted, aborted)
            case actions.Wait(seconds, refresh_token):
                if refresh_token:
                    self._rpc.refuse_token()
                await self._rpc.pause(seconds, deadline)
                return plan.on_waited
            case actions.Finished():
                raise AssertionError("a finished plan has no action")

    # Ending without success

    def _callers_error(self, error: BaseException) -> BaseException:
        """Return the error that the caller gets: the first one, not its consequences."""
        if isinstance(error, SourceFailedError):
            return error.__cause__ or error
        if isinstance(error, SourceNotReplayable) and (first := self._last_error) is not None:
            if not is_lost(first):
                # A spent source prevents the retry; the first error is why the upload failed.
                first.about(self._plan.path)
                return first
            error.__cause__ = first
        return error

    async def _late_answer(self, error: BaseException) -> files_pb2.UploadFileResponse | None:
        """Ask whether the finish was carried out, if the caller's time ran out after it was sent (RSM-38)."""
        cause = error.__cause__
        if not (
            isinstance(error, OutcomeUnknown)
            and isinstance(cause, FilesError)
            and cause.reason == LocalReason.TIMEOUT
        ):
            return None
        self._deadline = Deadline(GRACE_SECONDS)
        self._plan.ask_last_time(cause)
        try:
            return await self._carry_plan_out()
        except OutcomeUnknown:
            return None
        except FilesError as known:
            # Nothing was published, and nothing will be: the caller gets the plain error.
            raise known from None

    async def _abandon(self) -> None:
        """Free what is staged when the client is closed, unless the caller can resume the upload."""
        if must_be_freed(self._ended(), ClientClosedError()):
            await free(self._rpc, self._address, self._plan, BACKGROUND_SECONDS)

    async def _end(self, error: BaseException, *, waits: bool) -> None:
        """Free what no caller can resume, or name the upload in the error."""
        plan = self._plan
        if must_be_freed(self._ended(), error):
            if isinstance(error, FilesError) and not isinstance(error, OutcomeUnknown):
                error.upload_id, error.staged = "", None
            freeing = partial(free, self._rpc, self._address, plan)
            if waits:
                await freeing(FREEING_SECONDS)
            else:
                self._rpc.in_background(partial(freeing, BACKGROUND_SECONDS))
        elif plan.upload_id and not isinstance(error, FilesError):
            staged = None if isinstance(plan.action, actions.Send) else plan.staged
            note_upload(error, plan.upload_id, staged, outcome_known=not plan.finish_sent)

    def _ended(self) -> EndedUpload:
        plan = self._plan
        return EndedUpload(
            upload_id=plan.upload_id,
            announced=plan.announced,
            inline=plan.inline,
            replayable=self._content.size is not None,
            id_given=self._id_given,
            id_told=self._progress.id_told,
        )

    def _result(self, response: files_pb2.UploadFileResponse, seconds: float) -> UploadResult:
        file = answers.file_info(response.file)
        durability = answers.durability(response.durability)
        self._progress.published(file.size, file.size if durability is Durability.FSYNC else None)
        attempts = self._plan.attempts
        because = self._plan.started_over_because
        if self._id_given and self._content.size is None:
            because = "a stream cannot be resumed"
        return UploadResult(
            path=file.path,
            size=response.bytes_written,
            digest=file.digest,
            mode=file.mode,
            modified_ns=file.modified_ns,
            version=file.version,
            durability=durability,
            bytes_sent=self._sender.bytes_sent,
            resumed_from=response.resumed_from or self._sender.resumed_from,
            attempts=attempts,
            seconds=seconds,
            already_identical=response.already_identical,
            replayed=response.replayed or (attempts == 0 and not response.already_identical),
            upload_id=response.upload_id,
            started_over=bool(because),
            started_over_because=because,
        )


async def upload_content(
    rpc: Rpc,
    address: SandboxAddress,
    content: Content,
    remote: RemotePath,
    options: WriteOptions,
    *,
    upload_id: str,
    deadline: Deadline,
    progress: ProgressCallback | None,
) -> UploadResult:
    """Upload content to a path; for the arguments see `AsyncSandboxFiles.upload`."""
    accepted = accepted_digests(options.digest)
    # An upload keeps its algorithm, even if the server refuses it for new ones.
    digests = accepted if upload_id else rpc.promising(accepted)
    digest = ContentDigest(digests[0])
    source: Digest | None = None
    if options.skip_identical and content.size is not None:
        await hash_up_to(content, digest, content.size, deadline)
        source = digest.digest()
    plan = UploadPlan(
        address,
        upload_metadata(address, remote, content.size, options),
        inline=content.size is not None and content.size <= MIN_CHUNK_LIMIT_BYTES,
        source=source,
        resume=upload_id if content.size is not None else "",
        budget=rpc.budget(),
        new_id=lambda: str(uuid.uuid4()),
        patience=_VERDICT_SECONDS,
        digests=digests,
    )
    upload = Upload(
        rpc,
        address,
        content,
        digest,
        plan,
        deadline=deadline,
        progress=progress,
        id_given=bool(upload_id),
    )
    return await upload.run()
