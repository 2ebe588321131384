"""One stream's hold on an upload: it stages, finishes or leaves."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Sequence

from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason, Retry

from openshell_supervisor_sim.agent.core.upload import Publish, Stage, StageAction, checksum_error
from openshell_supervisor_sim.agent.errno_reasons import mapped
from openshell_supervisor_sim.agent.file_info import Interrupt
from openshell_supervisor_sim.agent.filesystem import FileSystem
from openshell_supervisor_sim.agent.live_upload import LiveUpload
from openshell_supervisor_sim.agent.paths import Location
from openshell_supervisor_sim.agent.publisher import Content, FlushFailedError, Publisher
from openshell_supervisor_sim.agent.staging import Staging
from openshell_supervisor_sim.agent.trace_points import Trace, TracePoint

_log = logging.getLogger(__name__)

#: Ends an upload: its state, and why.
Retire = Callable[[LiveUpload, files_pb2.UploadState.ValueType, str], None]
#: Writes an upload's row to the journal; called with its lock held.
Save = Callable[[LiveUpload], None]


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
        retire: ends the upload.
        save: writes the upload's row.
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
        retire: Retire,
        save: Save,
    ) -> None:
        self.upload = upload
        #: Bytes kept from earlier streams.
        self.resumed_from = 0
        #: Stops long computations of this stream.
        self.interrupt = Interrupt()
        self._location = location
        self._staging = staging
        self._publisher = publisher
        self._fs = fs
        self._trace = trace
        self._on_displaced = on_displaced
        self._retire = retire
        self._save = save
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
        with upload.lock:
            if upload.holder is not self:
                raise self._displaced_by or TransferError(Reason.SUPERSEDED, "the upload was taken over")
            # From here on nobody takes it over; GetUpload says VERIFYING.
            upload.state = files_pb2.UPLOAD_STATE_VERIFYING
        try:
            self._trace(TracePoint.UPLOAD_VERIFYING)
            response = self._verify_and_publish(finish)
        except TransferError as error:
            if error.reason.row.retry in {Retry.NEVER, Retry.RESTART}:
                self._refused(error)
            else:
                upload.settle(files_pb2.UPLOAD_STATE_RECEIVING)
            raise
        except FlushFailedError as failure:
            self._refused(failure.error)
            raise failure.error from failure
        except BaseException:
            upload.settle(files_pb2.UPLOAD_STATE_RECEIVING)
            raise
        self._retire(upload, files_pb2.UPLOAD_STATE_PUBLISHED, "")
        self._trace(TracePoint.UPLOAD_BEFORE_REPLY)
        return response

    def _verify_and_publish(self, finish: Publish) -> files_pb2.UploadFileResponse:
        upload = self.upload
        with upload.lock:
            content = Content(upload.staged, upload.digest())
        if finish.size_bytes != content.size_bytes:
            raise TransferError(
                Reason.SIZE_MISMATCH,
                f"the finish says {finish.size_bytes} bytes, {content.size_bytes} are staged",
                {"expected_size": str(finish.size_bytes), "actual_size": str(content.size_bytes)},
            )
        computed = content.digest.value
        if finish.digest is not None and not hmac.compare_digest(finish.digest, computed):
            field = content.digest.algorithm.field
            raise TransferError(
                Reason.DIGEST_MISMATCH,
                f"the finish says {field} {finish.digest.hex()}, what is staged has {computed.hex()}",
                {f"expected_{field}": finish.digest.hex(), f"actual_{field}": computed.hex()},
            )
        with mapped(f"looking at the staging file of {self._location.path}"):
            size = self._fs.fstat(self._staging.fd).st_size
        if size != content.size_bytes:
            raise TransferError(
                Reason.SIZE_MISMATCH, f"the staging file was changed inside the sandbox: it has {size} bytes"
            )
        with mapped(f"reading the staging file of {self._location.path}"):
            intact = upload.holds_what_arrived(self._staging.fd)
        if not intact:
            raise TransferError(
                Reason.DIGEST_MISMATCH,
                "the staging file was changed inside the sandbox, or damaged: its CRC-32C is not that of what arrived",
            )
        return self._publisher.publish(
            upload,
            self._location,
            self._staging,
            content,
            resumed_from=self.resumed_from,
            interrupt=self.interrupt,
        )

    def _refused(self, error: TransferError) -> None:
        self._staging.discard()
        self._retire(self.upload, files_pb2.UPLOAD_STATE_ABORTED, error.reason.name)

    def refuse(self, error: TransferError, *, keep: bool) -> None:
        """Act on a refusal of the core: free what was staged unless it is kept."""
        if keep:
            return
        with self.upload.lock:
            if self.upload.holder is not self or self.upload.state != files_pb2.UPLOAD_STATE_RECEIVING:
                return
            self.upload.state = files_pb2.UPLOAD_STATE_ABORTED
        self._refused(error)

    def end(self) -> None:
        """Let go: keep what can be found again, flushed; free the rest.

        Does nothing the second time.
        """
        upload = self.upload
        if self.ended:
            return
        try:
            if upload.record is None:
                self._staging.discard()
                with upload.lock:
                    upload.release()
            elif upload.holder is self and upload.state == files_pb2.UPLOAD_STATE_RECEIVING:
                self._leave()
        finally:
            self._staging.close()
            self._location.close()

    def _leave(self) -> None:
        upload = self.upload
        with upload.lock:
            staged = upload.staged
        flushed = False
        try:
            if staged > upload.durable:
                self._fs.fdatasync(self._staging.fd)
                flushed = True
        except OSError:
            # Nothing was promised about these bytes, and durable_bytes does
            # not promise it either.
            flushed = False
        with upload.lock:
            if flushed:
                upload.durable = max(upload.durable, staged)
            if upload.holder is self:
                upload.holder = None
                try:
                    self._save(upload)
                except TransferError:
                    # The older row promises less, and the file tells the rest.
                    _log.exception("the progress of an upload is not in the journal")
