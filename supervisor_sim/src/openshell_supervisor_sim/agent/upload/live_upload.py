"""An unfinished upload in memory: its state, the stream that holds it, and its row in the journal."""

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
        """Learn that the upload has ended or has another holder; must not block."""
        ...


class LiveUpload:
    """An upload while it is unfinished. Methods block, and any thread may call them.

    It alone changes its state, by the table of `core.upload_life`, together with its holder, its
    content and its row in the journal. Other modules call its methods and read the result.

    `lock` guards everything that changes. It is held for one write at a time,
    never while something is flushed, verified or hashed from the start.

    Args:
        request: of the caller.
        path: of the destination, for people.
        record: its row in the journal; None if nobody can find the upload again.
        content: its staged bytes.
        journal: has the row.
        clock: seconds since 1970.
        algorithm: of its digest; None computes no digest (DIG-9).
        state: IDLE, or the state that a start-up restored.
        parents_flushed: each directory made on the way to the destination was flushed.
        takes_slot: it counts against the caller's unfinished uploads (RSM-26).
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
        """Its row in the journal.

        Raises:
            RuntimeError: it has none, and the caller should not have asked.
        """
        if self._record is None:
            raise RuntimeError("an upload without a row cannot be found again")
        return self._record

    @property
    def upload_id(self) -> str:
        """The agent's name of the upload; empty if nobody can find it again."""
        return "" if self._record is None else self._record.upload_id

    @property
    def unreachable(self) -> TransferError | None:
        """Why the staging file's directory cannot be opened; until it can, the content is unknown."""
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
        """Take the upload from its stream, if one holds it, and begin a new epoch (RSM-5).

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
        """Note that a stream ended whose upload another stream can resume.

        Args:
            holder: the stream.
            flushed: the content that it flushed. It counts as durable once
                the row says so, and the row is flushed too.
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
                # The older row promises less, and a start-up reads the file.
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
        """Write content behind the staged bytes.

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
        """Put a hole behind the staged bytes.

        Raises:
            TransferError: SUPERSEDED (RSM-18).
            OSError, Interrupted: earlier steps stay staged.
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
        """Refuse a stream that lost the upload, or is about to: only another stream drops staged bytes."""
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
            # Nobody writes meanwhile: writing needs the digest.
            hashed = self.content.hash_prefix(fd, size, interrupt)
            with self.lock:
                self.content.adopt_hash(*hashed)

    # Finish

    def take_finish(self, holder: Holder) -> bool:
        """Start to carry a finish out; afterwards no other stream can take the upload over (RSM-7).

        Returns:
            False if the stream lost the upload, or the upload has ended.
        """
        with self.lock:
            return self._take(Event.FINISH_TAKEN, holder)

    def record_intent(self, inode: int, size: int, digest: Digest | None) -> None:
        """Write the intent of a rename to the journal, so that a start-up can find out whether it happened.

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
        """Flush the directories that were made on the way, once; return whether they are flushed."""
        if not self._parents_flushed:
            self._parents_flushed = flush()
        return self._parents_flushed

    def finish_failed(self, holder: Holder) -> None:
        """Take back a finish that failed; a later one may succeed."""
        with self.lock:
            self._take(Event.FINISH_FAILED, holder)
        self.tell_settled()

    def publish(self, holder: Holder, response: files_pb2.UploadFileResponse) -> None:
        """Note that the destination is the new file. Nothing undoes that."""
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
        """End the upload without publishing it; its staged bytes count no longer.

        Args:
            event: one that leads to ABORTED, EXPIRED or LOST.
            error: for a stream that holds the upload, unless it is `holder`.
            holder: the stream that ends the upload; None if none does.
            failure_reason: for GetUpload.

        Returns:
            False if the table has no row for the event, or another stream
            holds the upload; then nothing changed.
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
            durable: flush it, because the answer promises that (UPL-9).

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
        """Note that the directory of the staging file cannot be opened now."""
        self._unreachable = error

    # Waiting for a finish

    def when_settled(self, callback: Callable[[], object]) -> bool:
        """Call back from a disk thread once no finish is being carried out.

        Returns:
            False if none is being carried out; then there is no call.
        """
        with self.lock:
            if self.state is not State.VERIFYING:
                return False
            self._settled.append(callback)
            return True

    def tell_settled(self) -> None:
        """Call the callbacks of `when_settled`; call without the lock."""
        with self.lock:
            callbacks, self._settled = self._settled, []
        for callback in callbacks:
            callback()
