# Written by sdk/unasync.py from _async/upload.py. Change that file instead.
"""Carries an upload's plan out: calls, content, progress."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial

from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files._core import answers, upload_plan
from openshell_files._core.digests import ContentDigest
from openshell_files._core.error_mapping import say_which_sandbox
from openshell_files._core.outgoing import Span, finish_message, first_message, whole_file
from openshell_files._core.requests import SandboxAddress
from openshell_files._core.upload_plan import UploadPlan
from openshell_files._local import source_file
from openshell_files._sync import _io
from openshell_files._sync._calls import CallEndedError
from openshell_files._sync.content import Content, SourceFailedError, hash_up_to, sealed
from openshell_files._sync.rpc import Deadline, Rpc
from openshell_files.errors import (
    DeadlineExceeded,
    FilesError,
    LocalFileError,
    SourceNotReplayable,
    Unavailable,
)
from openshell_files.options import Durability
from openshell_files.results import Progress, ProgressCallback, UploadResult


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
    ) -> None:
        self._rpc = rpc
        self._address = address
        self._content = content
        self._digest = digest
        self._plan = plan
        self._deadline = deadline
        self._progress = progress
        self._bytes_sent = 0
        self._resumed_from = 0
        self._complete = False
        self._last_error: FilesError | None = None

    def run(self) -> UploadResult:
        """Upload the content.

        Raises:
            FilesError: it was refused, or all attempts are used up.
        """
        began = _io.monotonic()
        try:
            while not isinstance(self._plan.action, upload_plan.Finished):
                self._step(self._plan.action)
        except SourceNotReplayable as error:
            self._abandon(self._plan.upload_id)
            if self._last_error is not None and not isinstance(
                self._last_error, Unavailable | DeadlineExceeded
            ):
                # Nothing broke: the server refused it, and says why.
                raise self._last_error from error
            raise error from self._last_error
        except SourceFailedError as failure:
            self._abandon(self._plan.upload_id)
            raise failure.__cause__ or failure from None
        except LocalFileError:
            self._abandon(self._plan.upload_id)
            raise
        response = self._plan.action.response
        return self._result(response, _io.monotonic() - began)

    def _step(self, action: upload_plan.Action) -> None:
        try:
            report = self._carry_out(action)
        except LocalFileError:
            raise
        except FilesError as error:
            self._last_error = error
            say_which_sandbox(error, self._address.described())
            if error.reason == Reason.LANE_LOST.name:
                self._rpc.lanes.lost()
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
                return partial(plan.on_started, self._rpc.start_upload(request, self._deadline))
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
                self._abandon(request.upload_id)
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
        whole = self._whole(action)
        if whole is not None:
            return self._send_whole(whole)
        messages = sealed(self._content, self._digest, action.offset, action.chunk_bytes)
        metadata = self._with_lanes(action)
        with self._rpc.upload_file(metadata, self._deadline) as call:
            try:
                call.write(first_message(metadata))
                self._report(action.offset)
                with _io.produced_ahead(messages) as ready:
                    for message in ready:
                        call.write(message.message)
                        self._bytes_sent += message.content
                        self._report(message.end)
                self._content.check_unchanged()
                size = self._digest.position
                if self._content.size is not None and size != self._content.size:
                    raise source_file.changed(self._content.name)
                self._complete = True
                self._plan.on_finish_sent()
                digest = self._digest.named
                call.finish(finish_message(size, digest.sha256, digest.sha256_blocks))
            except CallEndedError:
                # The server has spoken before everything was sent: its words count.
                pass
            return self._rpc.uploaded(call.response())

    def _whole(self, action: upload_plan.Send) -> files_pb2.UploadFileMetadata | None:
        """Return the metadata with the whole file in it, if the gateway takes that and it is one piece (UPL-16)."""
        size = self._content.size
        if size is None or size > self._rpc.max_whole_bytes or action.metadata.upload_id:
            return None
        pieces = list[Span]()
        with closing(self._content.spans(0, action.chunk_bytes)) as spans:
            for span in spans:
                pieces.append(span)
        if len(pieces) > 1 or not self._digest.rewind(0):
            return None
        return whole_file(action.metadata, self._digest, pieces)

    def _send_whole(self, metadata: files_pb2.UploadFileMetadata) -> files_pb2.UploadFileResponse:
        """Send content and finish in the first message, which is the only one."""
        self._report(0)
        self._content.check_unchanged()
        if self._digest.position != self._content.size:
            raise source_file.changed(self._content.name)
        self._complete = True
        self._plan.on_finish_sent()
        self._bytes_sent += len(metadata.whole.data.data)
        response = self._rpc.upload_whole(metadata, self._deadline)
        self._report(self._digest.position)
        return response

    def _with_lanes(self, action: upload_plan.Send) -> files_pb2.UploadFileMetadata:
        """Return the metadata, with as many lanes as are allowed and pay (UPL-15)."""
        left = None if self._content.size is None else self._content.size - action.offset
        lanes = self._rpc.lanes.choose(action.lanes, left)
        if lanes == 1:
            return action.metadata
        metadata = files_pb2.UploadFileMetadata()
        metadata.CopyFrom(action.metadata)
        metadata.lanes = lanes
        return metadata

    def _begin_digest(self, algorithm: DigestAlgorithm) -> None:
        """Begin anew if what was hashed so far was for the other digest (DIG-3)."""
        if self._digest.algorithm is not algorithm:
            self._digest = ContentDigest(algorithm)

    def _source_digest(self) -> Digest:
        self._begin_digest(self._plan.algorithm)
        hash_up_to(self._content, self._digest, self._content.size or 0)
        return self._digest.named

    def _prefix_matches(self, length: int, digest: Digest) -> bool:
        """Whether the source begins with what is staged (RSM-4)."""
        self._begin_digest(digest.algorithm)
        if not self._digest.rewind(length):
            hash_up_to(self._content, self._digest, length)
        return self._digest.position == length and self._digest.named == digest

    def _whole_matches(self, size: int, digest: Digest) -> bool:
        """Whether what was published is the source."""
        own_size = self._content.size
        if own_size is None and not self._complete:
            raise SourceNotReplayable(
                "the upload was published already, and the stream cannot be compared with it",
                source_file.not_replayable_facts(),
            )
        if own_size is not None:
            if own_size != size:
                return False
            self._begin_digest(digest.algorithm)
            hash_up_to(self._content, self._digest, own_size)
        return self._digest.position == size and self._digest.named == digest

    def _abandon(self, upload_id: str) -> None:
        """Free what is staged, if that can be done now; otherwise it expires (RSM-8)."""
        if not upload_id:
            return
        request = files_pb2.AbortUploadRequest(sandbox=self._address.ref(), upload_id=upload_id)
        with suppress(FilesError):
            self._rpc.abort_upload(request, self._deadline)

    def _report(self, transferred: int) -> None:
        if self._progress is None:
            return
        plan = self._plan
        self._progress(
            Progress(
                transferred=transferred,
                total=self._content.size,
                staged=plan.staged,
                durable=plan.durable,
                attempt=plan.attempts,
                upload_id=plan.upload_id,
            )
        )

    def _result(self, response: files_pb2.UploadFileResponse, seconds: float) -> UploadResult:
        file = answers.file_info(response.file)
        durability = answers.durability(response.durability)
        if self._progress is not None:
            durable = file.size if durability is Durability.FSYNC else None
            self._progress(
                Progress(file.size, file.size, file.size, durable, self._plan.attempts, self._plan.upload_id)
            )
        return UploadResult(
            path=file.path,
            size=response.bytes_written,
            sha256=file.sha256,
            sha256_blocks=file.sha256_blocks,
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
        )
