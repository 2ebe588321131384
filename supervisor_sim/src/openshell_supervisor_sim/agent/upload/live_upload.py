"""State of an unfinished upload in memory, with the stream that holds it and its row in the journal."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2

from openshell_supervisor_sim.agent.core.requests import UploadRequest
from openshell_supervisor_sim.agent.core.upload_life import Event, State, UploadLife, superseded
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt
from openshell_supervisor_sim.agent.store.journal import Journal
from openshell_supervisor_sim.agent.store.upload_record import UploadRecord
from openshell_supervisor_sim.agent.upload.staged_content import HOLE_STEP, Snapshot, StagedContent

_log = logging.getLogger(__name__)


class Holder(Protocol):
    """The stream that may write to an upload."""

    def displaced(self, error: TransferError) -> None:
        """Handle the loss of the upload: it has ended, or another stream holds it. Must not block."""
        ...


class LiveUpload:
    """State machine of one unfinished upload. Its methods block; any thread may call them.

    Only this class changes the state, by the table of `core.upload_life`, together with the holder,
    the content and the row in the journal. Other modules call its methods and read the result.

    `lock` guards all fields that change. A thread takes it for one write at a
    time, never while it flushes, verifies or hashes a whole file.

    Args:
        request: the caller's request, checked.
        path: path of the destination, for logs and errors.
        record: row in the journal; None if the upload cannot be resumed.
        content: the staged bytes.
        journal: stores the row.
        clock: returns the seconds since 1970.
        algorithm: algorithm of the upload's digest; None computes no digest (DIG-9).
        state: IDLE, or the state that the recovery restored.
        parents_flushed: True if each directory that the upload created is flushed.
        takes_slot: True if the upload counts against the caller's unfinished uploads (RSM-26).
    """

    def __init__(
        self,
        request: UploadRequest,
        path: str,
        record: UploadRecord | None,
        *,
        content: StagedContent,
        journal: Journal,
        clock: Callable[[], float],
        algorithm: DigestAlgorithm | None,
        state: State = State.IDLE,
        parents_flushed: bool,
        takes_slot: bool = True,
    ) -> None:
        self.lock = threading.Lock()
        self.request = request
        self.path = path
        self.algorithm = algorithm
        self.content = content
        self.takes_slot = takes_slot
        self._record = record
        self._journal = journal
        self._clock = clock
        self._updated = record.updated if record is not None else clock()
        self._life = UploadLife(state)
        self._holder: Holder | None = None
        self._unreachable: TransferError | None = None
        self._parents_flushed = parents_flushed
        self._hashing = threading.Lock()
        self._settled: list[Callable[[], object]] = []

    # Reading

    @property
    def state(self) -> State:
        """The current state."""
        return self._life.state

    @property
    def unfinished(self) -> bool:
        """True while the upload can still be published."""
        return self.state.unfinished

    @property
    def updated(self) -> float:
        """Time of the last byte or change, in seconds since 1970."""
        return self._updated

    @property
    def resumable(self) -> bool:
        """True if another stream can find the upload and resume it."""
        return self._record is not None

    @property
    def row(self) -> UploadRecord:
        """The row in the journal.

        Raises:
            RuntimeError: the upload has no row; check `resumable` first.
        """
        if self._record is None:
            raise RuntimeError("an upload without a row cannot be found again")
        return self._record

    @property
    def upload_id(self) -> str:
        """The agent's id of the upload; empty if the upload cannot be resumed."""
        return "" if self._record is None else self._record.upload_id

    @property
    def unreachable(self) -> TransferError | None:
        """Error of opening the staging file's directory, which makes the content unknown; None without one."""
        return self._unreachable

    def is_held_by(self, holder: Holder) -> bool:
        """Return whether a stream holds the upload."""
        return self._holder is holder

    def attach(self, holder: Holder) -> None:
        """Make a stream the holder, and displace the previous one. Call with the lock held.

        Raises:
            RuntimeError: the state accepts no stream; the caller must check that first.
        """
        if not self._take(Event.STREAM_ATTACHED):
            raise RuntimeError(f"a stream was attached to an upload in state {self.state}")
        self._hand_over(holder, superseded())

    def restart(self, fd: int) -> None:
        """Drop the staged bytes and begin a new epoch, before `attach`. Call with the lock held.

        Raises:
            OSError: the disk failed.
            TransferError: the epoch cannot be recorded, and is as it was.
        """
        self.content.restart(fd)
        self._begin_epoch()

    def displace(self) -> None:
        """Detach the stream that holds the upload, if there is one, and begin a new epoch (RSM-5, RSM-18).

        Does nothing in a state that accepts no content.

        Raises:
            TransferError: the epoch cannot be recorded; the stream still holds the upload.
        """
        with self.lock:
            if self.state in {State.IDLE, State.HELD}:
                self._begin_epoch()
                self._take(Event.STREAM_DISPLACED)
                self._hand_over(None, superseded())

    def leave(self, holder: Holder, flushed: Snapshot | None) -> None:
        """Detach a stream that ended without a finish; another stream can resume the upload (RSM-10).

        Args:
            holder: the stream.
            flushed: the content that the stream flushed; None if it flushed
                none. It is durable once its row is written and flushed, too.
        """
        with self.lock:
            before = self.content.durable
            if flushed is not None:
                self.content.flushed(flushed)
            if not self._take(Event.STREAM_LEFT, holder):
                return
            self._holder = None
            try:
                self._journal.write(self._current_row(), durable=self.content.durable > before)
            except TransferError:
                # The older row promises fewer bytes, and a recovery reads the file.
                self.content.durable = before
                _log.exception("the progress of an upload is not in the journal")

    def _begin_epoch(self) -> None:
        self._updated = self._clock()
        record = replace(self._current_row(), epoch=self.row.epoch + 1)
        self._journal.write(record, durable=False)
        self._record = record

    def _hand_over(self, holder: Holder | None, error: TransferError) -> None:
        previous, self._holder = self._holder, holder
        if previous is not None and previous is not holder:
            previous.displaced(error)

    def _take(self, event: Event, holder: Holder | None = None) -> bool:
        """Apply an event; `holder` is the stream that caused it."""
        return self._life.take(event, of_holder=holder is not None and self._holder is holder)

    # Content

    def append(self, holder: Holder, fd: int, data: bytes | memoryview) -> None:
        """Append content to the staged bytes.

        Raises:
            TransferError: SUPERSEDED (RSM-18) or QUOTA_EXCEEDED (RSM-32).
            OSError: the disk failed.
        """
        with self.lock:
            self._require_holder(holder)
            try:
                self.content.append(fd, data)
            finally:
                self._updated = self._clock()

    def append_hole(self, holder: Holder, fd: int, length: int, interrupt: Interrupt) -> None:
        """Append a hole to the staged bytes, in steps.

        Raises:
            TransferError: SUPERSEDED (RSM-18).
            OSError, Interrupted: the steps before stay staged.
        """
        while length:
            step = min(length, HOLE_STEP)
            with self.lock:
                self._require_holder(holder)
                checksums, edition = self.content.checksums(), self.content.edition
            # Without the lock: other threads may need it, and only the holder writes.
            checksums.zeros(step, interrupt.check)
            with self.lock:
                self._require_holder(holder, edition)
                self.content.append_hole(fd, step, checksums)
                self._updated, length = self._clock(), length - step

    def _require_holder(self, holder: Holder, edition: int | None = None) -> None:
        """Refuse a stream that lost the upload, or is about to: another edition means that another stream restarts it."""
        if self._holder is not holder or edition not in {None, self.content.edition}:
            raise superseded()

    def snapshot(self) -> Snapshot:
        """Return the content as it is now."""
        with self.lock:
            return self.content.snapshot()

    def read_prefix(self, fd: int, interrupt: Interrupt) -> None:
        """Compute the digest of the staged bytes if it is unknown; one thread at a time (RSM-15)."""
        with self._hashing:
            with self.lock:
                if self.content.hashed:
                    return
                size = self.content.size
            # No stream writes meanwhile: each write continues the digest.
            hashed = self.content.hash_prefix(fd, size, interrupt)
            with self.lock:
                self.content.adopt_hash(*hashed)

    # Finish

    def take_finish(self, holder: Holder) -> bool:
        """Enter VERIFYING for a finish; from then on no other stream can take the upload over (RSM-7).

        Returns:
            False if the stream lost the upload, or the upload has ended.
        """
        with self.lock:
            return self._take(Event.FINISH_TAKEN, holder)

    def record_intent(self, inode: int, size: int, digest: Digest | None) -> None:
        """Write the intent of a rename to the journal, so that a recovery can tell whether the rename was done.

        Args:
            inode: of the staging file.
            size: of the content.
            digest: of the content; None if none is computed.

        Raises:
            TransferError: the journal cannot be written.
        """
        if self._record is None:
            return
        with self.lock:
            self._updated = self._clock()
            self._record = replace(
                self._current_row(),
                inode=inode,
                finish_size=size,
                finish_digest=digest.value if digest is not None else b"",
            )
            self._journal.write(self._record, durable=self.request.fsync)

    def flush_parents(self, flush: Callable[[], bool]) -> bool:
        """Flush the directories that the upload created, unless they are flushed; return True if they are."""
        if not self._parents_flushed:
            self._parents_flushed = flush()
        return self._parents_flushed

    def finish_failed(self, holder: Holder) -> None:
        """Leave VERIFYING after a finish that failed; a later finish may succeed."""
        with self.lock:
            self._take(Event.FINISH_FAILED, holder)
        self.tell_settled()

    def publish(self, holder: Holder, response: files_pb2.UploadFileResponse) -> None:
        """Enter PUBLISHED, which is final, after the rename."""
        with self.lock:
            if not self._take(Event.PUBLISHED, holder):
                raise RuntimeError(f"an upload in state {self.state} was published")
            self._ended()
            self.content.free()
            if self._record is not None:
                self._record = replace(self._current_row(), result=response.SerializeToString())

    # Ends

    def end(
        self, event: Event, error: TransferError, *, holder: Holder | None = None, failure_reason: str = ""
    ) -> bool:
        """End the upload without publishing it, and release the quota of its staged bytes.

        Args:
            event: an event that leads to ABORTED, EXPIRED or LOST.
            error: error for the stream that holds the upload, unless that is `holder`.
            holder: the stream that ends the upload; None if no stream does.
            failure_reason: answer of GetUpload.

        Returns:
            False if the table has no row for the event, or if another stream
            holds the upload; nothing changes then.
        """
        with self.lock:
            if not self._take(event, holder):
                return False
            if holder is None:
                self._hand_over(None, error)
            self._ended()
            self.content.drop()
            if self._record is not None:
                self._record = replace(self._current_row(), failure_reason=failure_reason)
            return True

    def _ended(self) -> None:
        self._holder = None
        self._updated = self._clock()

    def write_end(self, *, durable: bool) -> bool:
        """Write the row of an upload that has ended.

        Args:
            durable: flush the row, because the answer promises durability (UPL-9).

        Returns:
            False if the journal cannot be written.
        """
        record = self.row
        try:
            if self.state is State.LOST:
                self._journal.delete(record.upload_id)
            else:
                self._journal.write(record, durable=durable)
        except TransferError:
            _log.exception("the end of upload %s is not in the journal", record.upload_id)
            return False
        return True

    def _current_row(self) -> UploadRecord:
        """Bring the row up to date; call with the lock held."""
        self._record = replace(
            self.row, state=self.state.wire, updated=self._updated, durable=self.content.durable
        )
        return self._record

    def cannot_be_reached(self, error: TransferError) -> None:
        """Store the error of opening the staging file's directory, for `unreachable`."""
        self._unreachable = error

    # Waiting for a finish

    def when_settled(self, callback: Callable[[], object]) -> bool:
        """Register a callback for the end of the running finish; a disk thread calls it.

        Returns:
            False if no finish is running; the callback is not registered then.
        """
        with self.lock:
            if self.state is not State.VERIFYING:
                return False
            self._settled.append(callback)
            return True

    def tell_settled(self) -> None:
        """Run the callbacks of `when_settled`. Call without the lock."""
        with self.lock:
            callbacks, self._settled = self._settled, []
        for callback in callbacks:
            callback()
