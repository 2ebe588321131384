"""One stream's hold on an upload: it stages, finishes or leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason, Retry

from openshell_supervisor_sim.agent.core.upload import Publish, Stage, StageAction, checksum_error
from openshell_supervisor_sim.agent.core.upload_life import Event
from openshell_supervisor_sim.agent.filesystem.errno_reasons import mapped
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt
from openshell_supervisor_sim.agent.filesystem.handles import FileSystem
from openshell_supervisor_sim.agent.paths.location import Location
from openshell_supervisor_sim.agent.store.journal import JournalError
from openshell_supervisor_sim.agent.store.staging import Staging
from openshell_supervisor_sim.agent.trace_points import Trace, TracePoint
from openshell_supervisor_sim.agent.upload.live_upload import LiveUpload
from openshell_supervisor_sim.agent.upload.publisher import Content, FlushFailedError, Outcome, Publisher
from openshell_supervisor_sim.agent.upload.registry import Uploads
from openshell_supervisor_sim.agent.upload.status import Caller


class UploadAttempt:
    """A stream that writes to an upload. Methods block, except `displaced`.

    Args:
        upload: what it writes to.
        location: the destination; owned from now on.
        staging: the staging file; owned from now on.
        publisher: carries out the finish.
        fs: system calls.
        trace: hook, see `TracePoint`.
        on_displaced: called, perhaps from another thread, when another stream
            took the upload over or it ended; must not block.
        uploads: records how the upload ends.
        caller: whose stream it is.
    """

    def __init__(
        self,
        upload: LiveUpload,
        location: Location,
        staging: Staging,
        *,
        publisher: Publisher,
        fs: FileSystem,
        trace: Trace,
        on_displaced: Callable[[TransferError], None],
        uploads: Uploads,
        caller: Caller,
    ) -> None:
        self.upload = upload
        #: Bytes kept from earlier streams.
        self.resumed_from = 0
        #: Stops long computations of this stream.
        self.interrupt = Interrupt()
        self._withdrawn = threading.Event()
        self._location = location
        self._staging = staging
        self._publisher = publisher
        self._fs = fs
        self._trace = trace
        self._on_displaced = on_displaced
        self._uploads = uploads
        self._caller = caller
        self._displaced_by: TransferError | None = None
        self._staged_chunks = 0

    @property
    def resumable(self) -> bool:
        """Whether another stream can go on with the upload."""
        return self.upload.record is not None

    @property
    def ended(self) -> bool:
        """Whether `end` has nothing left to do."""
        return self._staging.fd < 0 and self._location.parent_fd < 0

    @property
    def staging_fd(self) -> int:
        """Descriptor of the staging file."""
        return self._staging.fd

    def displaced(self, error: TransferError) -> None:
        """Learn that the upload is another's, or over."""
        self._displaced_by = error
        self._on_displaced(error)

    def stage(self, actions: Sequence[StageAction]) -> None:
        """Check and write content, in order.

        Raises:
            TransferError: CHUNK_CHECKSUM, SUPERSEDED, DISK_FULL, ...; what
                came before stays staged.
        """
        for action in actions:
            try:
                self._stage(action)
            except TransferError as error:
                if _finds_no_room(error):
                    # It holds what the disk has no room for, and cannot go on.
                    self._refused(error)
                raise self._displaced_by or error from None
            if self._staged_chunks == 0:
                self._trace(TracePoint.UPLOAD_FIRST_CHUNK_STAGED)
            self._staged_chunks += 1
            self._trace(TracePoint.UPLOAD_CHUNK_STAGED)

    def _stage(self, action: StageAction) -> None:
        with mapped(f"writing the staging file of {self._location.path}"):
            if isinstance(action, Stage):
                # Both checksums take nothing but bytes; copied here, each need not do it.
                data = bytes(action.data)
                if action.crc32c is not None and (computed := crc32c(data)) != action.crc32c:
                    raise checksum_error(action.offset, computed, action.crc32c)
                self.upload.append(self, self._staging.fd, data)
            else:
                self.upload.append_hole(self, self._staging.fd, action.length, self.interrupt)

    def publish(self, finish: Publish) -> files_pb2.UploadFileResponse:
        """Verify what is staged and publish it.

        Raises:
            TransferError: nothing was published. The upload has ended if the
                finish was refused, and can be finished again if trying later
                can help.
        """
        upload = self.upload
        self._trace(TracePoint.UPLOAD_FINISH_RECEIVED)
        if not upload.take_finish(self):
            raise self._displaced_by or TransferError(Reason.SUPERSEDED, "the upload was taken over")
        try:
            self._trace(TracePoint.UPLOAD_VERIFYING)
            outcome = self._verify_and_publish(finish)
        except TransferError as error:
            if error.reason.row.retry in {Retry.NEVER, Retry.RESTART} or _finds_no_room(error):
                self._refused(error)
            else:
                upload.finish_failed()
            raise
        except FlushFailedError as failure:
            self._refused(failure.error)
            raise failure.error from failure
        except BaseException:
            upload.finish_failed()
            raise
        # The destination is the new file: nothing below may say otherwise.
        self._uploads.published(upload, outcome.response, durable=outcome.durable)
        self._trace(TracePoint.UPLOAD_BEFORE_REPLY)
        return outcome.response

    def _verify_and_publish(self, finish: Publish) -> Outcome:
        upload = self.upload
        with upload.lock:
            content = Content(upload.staged, upload.digest())
        if finish.size_bytes != content.size_bytes:
            raise TransferError(
                Reason.SIZE_MISMATCH,
                f"the finish says {finish.size_bytes} bytes, {content.size_bytes} are staged",
                {"expected_size": str(finish.size_bytes), "actual_size": str(content.size_bytes)},
            )
        if finish.digest is not None and finish.digest != content.digest:
            raise TransferError(
                Reason.DIGEST_MISMATCH,
                f"the finish says {finish.digest}, what is staged has {content.digest}",
                {"expected_digest": str(finish.digest), "actual_digest": str(content.digest)},
            )
        return self._publisher.publish(
            upload,
            self._location,
            self._staging,
            content,
            resumed_from=self.resumed_from,
            interrupt=self.interrupt,
            verify=partial(self._verify_staged, content.size_bytes),
            last_look=self._still_wanted,
        )

    def _verify_staged(self, size_bytes: int) -> None:
        """Compare what the staging file holds with what arrived."""
        with mapped(f"reading the staging file of {self._location.path}"):
            size = self._fs.fstat(self._staging.fd).st_size
            intact = size == size_bytes and self.upload.holds_what_arrived(self._staging.fd, self.interrupt)
        if size != size_bytes:
            raise TransferError(
                Reason.SIZE_MISMATCH, f"the staging file was changed inside the sandbox: it has {size} bytes"
            )
        if not intact:
            raise TransferError(
                Reason.DIGEST_MISMATCH,
                "the staging file was changed inside the sandbox, or damaged: its CRC-32C is not that of what arrived",
            )

    def withdraw(self) -> None:
        """Learn that the caller has cancelled although the end of its stream came; any thread may call."""
        self._withdrawn.set()

    def _still_wanted(self) -> None:
        if self._withdrawn.is_set():
            raise TransferError(
                Reason.UPLOAD_INCOMPLETE,
                "the caller cancelled before the file was published; nothing was published",
            )

    def refuse(self, error: TransferError, *, keep: bool) -> None:
        """Act on a refusal of the core: free what was staged unless it is kept."""
        if not keep:
            self._refused(error)

    def forget(self, error: TransferError) -> None:
        """End the upload as if it had never begun, unless another stream has it by now."""
        if self._uploads.end(self.upload, Event.LOST, error, holder=self):
            self._discard()

    def _refused(self, error: TransferError) -> None:
        """End the upload, record that, and then free what it occupies as well as possible."""
        if self._uploads.end(
            self.upload, Event.REFUSED, error, holder=self, failure_reason=error.reason.name
        ):
            self._discard()

    def _discard(self) -> None:
        """Remove the staging file. One that cannot be removed now is removed later."""
        name = self._staging.name
        try:
            self._staging.discard()
        except TransferError as error:
            if name is not None:
                self._uploads.leave_behind(self._location.parent_path, name, error)

    def end(self) -> None:
        """Let go: keep what can be found again, flushed; free the rest.

        Does nothing the second time. It never raises: how the stream ended is
        decided, and a clean-up that fails must not hide it.
        """
        upload = self.upload
        if self.ended:
            return
        try:
            if upload.record is None:
                self._discard()
                upload.release()
            elif upload.holder is self and upload.state == files_pb2.UPLOAD_STATE_RECEIVING:
                self._leave()
        finally:
            self._staging.close()
            self._location.close()

    def _leave(self) -> None:
        upload = self.upload
        if not self._uploads.keep(upload, self._caller):
            self._refused(
                TransferError(
                    Reason.TOO_MANY_UPLOADS, "the upload stopped, and there is no slot to keep it in"
                )
            )
            return
        content = upload.content()
        flushed = content[0] > upload.durable and self._flush()
        self._uploads.leave(upload, self, content if flushed else None)

    def _flush(self) -> bool:
        """Flush what is staged, and the name that it is found by."""
        try:
            self._fs.fdatasync(self._staging.fd)
        except OSError:
            # Nothing was promised about these bytes, and durable_bytes does
            # not promise it either.
            return False
        return self._publisher.flush_names(self.upload, self._location)


def _finds_no_room(error: TransferError) -> bool:
    """Return whether the sandbox's disk, or a quota on it, is full.

    What is staged is part of the cause, so it is freed (RSM-10). The agent's
    journal lies elsewhere: its errors do not count.
    """
    return error.reason in {Reason.DISK_FULL, Reason.QUOTA_EXCEEDED} and not isinstance(error, JournalError)
