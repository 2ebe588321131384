"""One stream that holds an upload: it stages content, finishes or leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from openshell_files_disk.filesystem.errno_reasons import mapped
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason, Retry

from openshell_supervisor_sim.agent.core.chunk_check import check_chunk
from openshell_supervisor_sim.agent.core.upload import Publish, Stage, StageAction
from openshell_supervisor_sim.agent.core.upload_life import Event, State
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt
from openshell_supervisor_sim.agent.paths.location import Location
from openshell_supervisor_sim.agent.store.journal import JournalError
from openshell_supervisor_sim.agent.store.staging import Staging
from openshell_supervisor_sim.agent.trace_points import Trace, TracePoint
from openshell_supervisor_sim.agent.upload.live_upload import LiveUpload
from openshell_supervisor_sim.agent.upload.publisher import FlushFailedError, Outcome, Publisher
from openshell_supervisor_sim.agent.upload.registry import Uploads
from openshell_supervisor_sim.agent.upload.staged_content import Snapshot


class UploadAttempt:
    """A stream that writes to an upload. Methods block, except `displaced`.

    Args:
        upload: that the stream writes to.
        location: of the destination; the attempt closes it.
        staging: the upload's staging file; the attempt closes it.
        publisher: carries out the finish.
        fs: system calls.
        trace: hook, see `TracePoint`.
        on_displaced: called, perhaps from another thread, when another stream
            took the upload over or it ended; must not block.
        uploads: records the end of the upload.
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
    ) -> None:
        self.upload = upload
        #: Bytes that earlier streams staged.
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
        self._displaced_by: TransferError | None = None
        self._staged_chunks = 0

    @property
    def ended(self) -> bool:
        """True if `end` has closed everything."""
        return self._staging.fd < 0 and self._location.parent_fd < 0

    @property
    def algorithm(self) -> DigestAlgorithm | None:
        """Algorithm of the upload's digest; None without one."""
        return self.upload.algorithm

    @property
    def staging_fd(self) -> int:
        """Descriptor of the staging file."""
        return self._staging.fd

    def displaced(self, error: TransferError) -> None:
        """Learn that the upload has ended or has another holder."""
        self._displaced_by = error
        self._on_displaced(error)

    def stage(self, actions: Sequence[StageAction]) -> None:
        """Check and write content, in order.

        Raises:
            TransferError: CHUNK_CHECKSUM, SUPERSEDED, DISK_FULL, ...; earlier
                content stays staged.
        """
        for action in actions:
            try:
                self._stage(action)
            except TransferError as error:
                if _finds_no_room(error):
                    # Its own staged bytes help to fill the disk.
                    self._refused(error)
                raise self._displaced_by or error from None
            if self._staged_chunks == 0:
                self._trace(TracePoint.UPLOAD_FIRST_CHUNK_STAGED)
            self._staged_chunks += 1
            self._trace(TracePoint.UPLOAD_CHUNK_STAGED)

    def _stage(self, action: StageAction) -> None:
        with mapped(f"writing the staging file of {self._location.path}"):
            if isinstance(action, Stage):
                # Both checksums need bytes: one copy here saves each its own.
                data = bytes(action.data)
                check_chunk(action.offset, data, action.crc32c)
                self.upload.append(self, self._staging.fd, data)
            else:
                self.upload.append_hole(self, self._staging.fd, action.length, self.interrupt)

    def publish(self, finish: Publish) -> files_pb2.UploadFileResponse:
        """Verify the staged content and publish it.

        Raises:
            TransferError: nothing was published. The upload has ended if the finish was refused;
                otherwise a later finish may succeed.
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
                upload.finish_failed(self)
            raise
        except FlushFailedError as failure:
            self._refused(failure.error)
            raise failure.error from failure
        except BaseException:
            upload.finish_failed(self)
            raise
        # The destination is the new file: a failure below must not deny that.
        self._uploads.publish(upload, self, outcome.response, durable=outcome.durable)
        self._trace(TracePoint.UPLOAD_BEFORE_REPLY)
        return outcome.response

    def _verify_and_publish(self, finish: Publish) -> Outcome:
        content = self.upload.snapshot()
        if finish.size_bytes != content.size:
            raise TransferError(
                Reason.SIZE_MISMATCH,
                f"finish.size_bytes is {finish.size_bytes}, {content.size} bytes are staged",
                {"expected_size": str(finish.size_bytes), "actual_size": str(content.size)},
            )
        if finish.digest is not None and finish.digest != content.digest:
            raise TransferError(
                Reason.DIGEST_MISMATCH,
                f"finish.digest is {finish.digest}, the staged bytes have {content.digest}",
                {"expected_digest": str(finish.digest), "actual_digest": str(content.digest)},
            )
        return self._publisher.publish(
            self.upload,
            self._location,
            self._staging,
            content,
            resumed_from=self.resumed_from,
            interrupt=self.interrupt,
            verify=partial(self._verify_staged, content),
            last_look=self._require_wanted,
        )

    def _verify_staged(self, content: Snapshot) -> None:
        """Compare the staging file with the content that arrived."""
        with mapped(f"reading the staging file of {self._location.path}"):
            size = self._fs.fstat(self._staging.fd).st_size
            intact = size == content.size and self.upload.content.equals_file(
                self._staging.fd, content, self.interrupt
            )
        if size != content.size:
            raise TransferError(
                Reason.SIZE_MISMATCH, f"the staging file was changed inside the sandbox: it has {size} bytes"
            )
        if not intact:
            raise TransferError(
                Reason.DIGEST_MISMATCH,
                "the staging file was changed inside the sandbox, or damaged: its CRC-32C is not that of the "
                "bytes that arrived",
            )

    def withdraw(self) -> None:
        """Learn that the caller cancelled after the end of its stream; any thread may call."""
        self._withdrawn.set()

    def _require_wanted(self) -> None:
        if self._withdrawn.is_set():
            raise TransferError(
                Reason.UPLOAD_INCOMPLETE,
                "the caller cancelled before the file was published; nothing was published",
            )

    def refuse(self, error: TransferError, *, keep: bool) -> None:
        """Apply a refusal of the rules: free the staged bytes unless `keep`."""
        if not keep:
            self._refused(error)

    def forget(self, error: TransferError) -> None:
        """End an unfinished upload as if it had never begun, unless another stream holds it (UPL-59)."""
        if self._uploads.end(self.upload, Event.FORGOTTEN, error, holder=self):
            self._discard()

    def _refused(self, error: TransferError) -> None:
        """End the upload, record that, and then remove the staging file."""
        if self._uploads.end(
            self.upload, Event.REFUSED, error, holder=self, failure_reason=error.reason.name
        ):
            self._discard()

    def _discard(self) -> None:
        """Remove the staging file; if that fails, the sweeper tries again."""
        name = self._staging.name
        try:
            self._staging.discard()
        except TransferError as error:
            if name is not None:
                self._uploads.leftovers.note(self._location.parent_path, name, error)

    def end(self) -> None:
        """Leave the upload: flush and keep it if it is resumable, free it if not. More than once is fine.

        It never raises: the outcome of the stream is decided, and a clean-up
        that fails must not hide it.
        """
        upload = self.upload
        if self.ended:
            return
        try:
            if not upload.resumable:
                self._discard()
                with upload.lock:
                    upload.content.free()
            elif upload.is_held_by(self) and upload.state is State.HELD:
                content = upload.snapshot()
                flushed = content.size > upload.content.durable and self._flush()
                upload.leave(self, content if flushed else None)
        finally:
            self._staging.close()
            self._location.close()

    def _flush(self) -> bool:
        """Flush the staged bytes and the name of the staging file; False if that fails."""
        try:
            self._fs.fdatasync(self._staging.fd)
        except OSError:
            # durable_bytes does not count these bytes.
            return False
        return self._publisher.flush_names(self.upload, self._location)


def _finds_no_room(error: TransferError) -> bool:
    """Return whether the sandbox's disk, or a quota on it, is full.

    The staged bytes are part of the cause, so they are freed (RSM-34, RSM-35). The
    journal lies on another file system, so its errors do not count.
    """
    return error.reason in {Reason.DISK_FULL, Reason.QUOTA_EXCEEDED} and not isinstance(error, JournalError)
