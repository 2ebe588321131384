"""An unfinished upload in memory: how far it is, and who may write to it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.requests import UploadRequest
from openshell_supervisor_sim.agent.core.upload_life import Event, State, UploadLife
from openshell_supervisor_sim.agent.core.wire_numbers import set_clock_time
from openshell_supervisor_sim.agent.filesystem.file_digest import put_file
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt
from openshell_supervisor_sim.agent.filesystem.handles import FileSystem
from openshell_supervisor_sim.agent.store.upload_record import UploadRecord
from openshell_supervisor_sim.agent.upload.staged_digest import StagedDigest, checksums_of_file

#: Zeros of a hole that are hashed one by one while the upload is locked.
_HOLE_STEP: Final = 64 * MIB


class Holder(Protocol):
    """The stream that may write to an upload."""

    def displaced(self, error: TransferError) -> None:
        """Learn that another has the upload now; must not block."""
        ...


class StagedBudget:
    """Counts the bytes that unfinished uploads occupy, up to a limit (RSM-8)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes occupied."""
        return self._used

    def take(self, count: int) -> None:
        """Occupy bytes.

        Raises:
            TransferError: QUOTA_EXCEEDED.
        """
        with self._lock:
            if self._used + count > self._limit:
                raise TransferError(
                    Reason.QUOTA_EXCEEDED,
                    f"unfinished uploads may occupy {self._limit} bytes, {self._used} are in use",
                    {"max_staged_bytes": str(self._limit), "staged_bytes": str(self._used)},
                )
            self._used += count

    def adopt(self, count: int) -> None:
        """Count bytes that are there already, also above the limit."""
        with self._lock:
            self._used += count

    def give(self, count: int) -> None:
        """Give bytes back."""
        with self._lock:
            self._used -= count


class LiveUpload:
    """What is known of an upload while it is unfinished.

    It alone changes the upload's state, by the table of `core.upload_life`.
    `lock` guards everything that changes. It is held for one write at a time,
    never while something is flushed, verified or hashed from the start.

    Attributes:
        request: what was asked for.
        path: of the destination, for people.
        algorithm: of its digest; None if none is computed (DIG-9).
        record: its row in the journal; None if nobody can find it again.
        staged: bytes in the staging file, from the start without a gap.
        hasher: checksums of exactly these; None until they are read again.
        occupied: bytes of them that are not holes.
        durable: bytes flushed to the device.
        updated: when the last byte came, seconds since 1970.
        holder: the stream that may write.
        counted: it takes one of its principal's slots (RSM-8).
        unreachable: why a start-up could not look at its directory; until
            that is possible nobody knows how far the upload is.
        parents_flushed: each directory made on the way to it was flushed.
    """

    def __init__(
        self,
        request: UploadRequest,
        path: str,
        record: UploadRecord | None,
        *,
        algorithm: DigestAlgorithm | None,
        fs: FileSystem,
        budget: StagedBudget,
        clock: Callable[[], float],
        state: State = files_pb2.UPLOAD_STATE_RECEIVING,
    ) -> None:
        self.lock = threading.Lock()
        self.request = request
        self.path = path
        self.algorithm = algorithm
        self.record = record
        self.staged = 0
        self.hasher: StagedDigest | None = self._new_hasher()
        self.occupied = 0
        self.durable = 0
        self.updated = clock()
        self.holder: Holder | None = None
        self.counted = True
        self.unreachable: TransferError | None = None
        self.parents_flushed = True
        self._life = UploadLife(state)
        #: Rises whenever staged bytes are dropped: a flush counts for its content only.
        self._edition = 0
        self._fs = fs
        self._budget = budget
        self._clock = clock
        self._hashing = threading.Lock()
        self._settled: list[Callable[[], object]] = []

    @property
    def state(self) -> State:
        """RECEIVING, VERIFYING, or the end of it."""
        return self._life.state

    @property
    def unfinished(self) -> bool:
        """Whether it can still be published."""
        return self._life.unfinished

    @property
    def row(self) -> UploadRecord:
        """Its row in the journal.

        Raises:
            RuntimeError: it has none, and should not have been asked for it.
        """
        if self.record is None:
            raise RuntimeError("an upload without a row cannot be found again")
        return self.record

    def take_finish(self, holder: Holder) -> bool:
        """Begin to carry a finish out: from here on nobody takes the upload over (RSM-7).

        Returns:
            False if the upload is another stream's by now, or over.
        """
        with self.lock:
            return self.holder is holder and self._life.take(Event.FINISH_TAKEN)

    def finish_failed(self) -> None:
        """Take back a finish that could not be carried out: a later one may be."""
        with self.lock:
            self._life.take(Event.FINISH_FAILED)
        self.tell_settled()

    def publish(self, response: files_pb2.UploadFileResponse) -> None:
        """Note that the destination is the new file. Nothing undoes that."""
        with self.lock:
            if not self._life.take(Event.PUBLISHED):
                raise RuntimeError(f"an upload was published while {self.state}")
            self.holder = None
            self.updated = self._clock()
            self._release()
            if self.record is not None:
                self.record = replace(
                    self.record,
                    state=self.state,
                    updated=self.updated,
                    durable=self.durable,
                    result=response.SerializeToString(),
                )

    def end(
        self,
        event: Event,
        error: TransferError,
        *,
        holder: Holder | None = None,
        idle: bool = False,
        failure_reason: str = "",
    ) -> bool:
        """End the upload without publishing it; its staged bytes count no more.

        Args:
            event: why it ends.
            error: for a stream that still writes to it.
            holder: only if this stream has it.
            idle: only if no stream has it.
            failure_reason: for GetUpload.

        Returns:
            False if it goes on: the event means nothing now, or one of the
            conditions does not hold.
        """
        with self.lock:
            if holder is not None and self.holder is not holder:
                return False
            if idle and self.holder is not None:
                return False
            if not self._life.take(event):
                return False
            if holder is None:
                self.take_over(None, error)
            self.holder = None
            self.updated = self._clock()
            self.staged = self.durable = 0
            self._edition += 1
            self._release()
            if self.record is not None:
                self.record = replace(
                    self.record, state=self.state, updated=self.updated, failure_reason=failure_reason
                )
            return True

    def require_holder(self, holder: Holder) -> None:
        """Refuse a stream that has been displaced; call with the lock held.

        Raises:
            TransferError: SUPERSEDED (RSM-5).
        """
        if self.holder is not holder:
            raise superseded()

    def take_over(self, holder: Holder | None, error: TransferError) -> None:
        """Make `holder` the one that may write; call with the lock held."""
        previous, self.holder = self.holder, holder
        if previous is not None and previous is not holder:
            previous.displaced(error)

    def content(self) -> tuple[int, int]:
        """Return how much is staged, and of which edition, for `flushed`."""
        with self.lock:
            return self.staged, self._edition

    def flushed(self, content: tuple[int, int]) -> None:
        """Note that content is on the device, unless it was dropped meanwhile; call with the lock held."""
        staged, edition = content
        if edition == self._edition:
            self.durable = max(self.durable, staged)

    def append(self, holder: Holder, fd: int, data: bytes | memoryview) -> None:
        """Put content behind what is staged.

        If the disk fails midway, what it took is staged.

        Raises:
            TransferError: SUPERSEDED or QUOTA_EXCEEDED.
            OSError: the disk failed.
        """
        view = memoryview(data)
        written = 0
        self._budget.take(len(view))
        try:
            with self.lock:
                self.require_holder(holder)
                hasher = self._require_hasher()
                try:
                    while written < len(view):
                        count = self._fs.pwrite(fd, view[written:], self.staged + written)
                        if not count:
                            raise OSError(errno.EIO, "the file system takes no more")
                        written += count
                finally:
                    hasher.update(data if written == len(view) else view[:written])
                    self.staged += written
                    self.occupied += written
                    self.updated = self._clock()
        finally:
            self._budget.give(len(view) - written)

    def append_hole(self, holder: Holder, fd: int, length: int, interrupt: Interrupt) -> None:
        """Put a hole behind what is staged.

        Raises:
            TransferError: SUPERSEDED.
            OSError: the disk failed.
        """
        while length:
            step = min(length, _HOLE_STEP)
            with self.lock:
                self.require_holder(holder)
                # Copied, so that an interrupt leaves digest and size in step.
                hasher = self._require_hasher().copy()
                hasher.zeros(step, interrupt.check)
                self._fs.truncate(fd, self.staged + step)
                self.hasher = hasher
                self.staged += step
                self.updated = self._clock()
            length -= step

    def restart(self, fd: int) -> None:
        """Drop what is staged; call with the lock held."""
        self._fs.truncate(fd, 0)
        self._edition += 1
        self.staged = self.durable = 0
        self.hasher = self._new_hasher()
        self._release()

    def matches_file(self, fd: int) -> bool:
        """Make memory and staging file agree; call with the lock held.

        Returns:
            False if the file lost bytes, so that the digest has to be
            computed again by `read_prefix`.
        """
        status = self._fs.fstat(fd)
        if status.st_size > self.staged:
            self._fs.truncate(fd, self.staged)
        elif status.st_size < self.staged:
            self._shortened(status.st_size, status)
            self.hasher = None
        return self.hasher is not None

    def read_prefix(self, fd: int, interrupt: Interrupt) -> None:
        """Compute the digest of the staged bytes if it is not known; once (RSM-4)."""
        with self._hashing:
            with self.lock:
                if self.hasher is not None:
                    return
                staged = self.staged
            # Nobody writes meanwhile: writing needs the digest.
            hasher = self._new_hasher()
            count = put_file(self._fs, fd, staged, hasher, interrupt)
            status = self._fs.fstat(fd)
            with self.lock:
                if count < self.staged:
                    self._shortened(count, status)
                self.hasher = hasher

    def _shortened(self, size: int, status: os.stat_result) -> None:
        """Take note that the file lost bytes inside the sandbox; call with the lock held."""
        self.staged = size
        self._edition += 1
        self.durable = min(self.durable, size)
        occupied = min(self.occupied, occupied_bytes(status))
        self._budget.give(self.occupied - occupied)
        self.occupied = occupied

    def holds_what_arrived(self, fd: int, interrupt: Interrupt) -> bool:
        """Read the staging file again, and compare it with what was written to it.

        Call without the lock, while nobody may write.

        Raises:
            OSError: it cannot be read.
            Interrupted: the stream that wants to know was ended.
        """
        with self.lock:
            staged, expected = self.staged, self._require_hasher().checksums
        return checksums_of_file(self._fs, fd, staged, interrupt) == expected

    def found(self, *, staged: int, occupied: int, updated: float) -> None:
        """Take note of the staging file that a start-up found."""
        self.staged = staged
        self.durable = min(self.row.durable, staged)
        self.updated = updated
        self.hasher = None
        self.occupied = occupied
        self._budget.adopt(occupied)

    def release(self) -> None:
        """Give the bytes back to the budget."""
        with self.lock:
            self._release()

    def _release(self) -> None:
        self._budget.give(self.occupied)
        self.occupied = 0

    def status(self, *, digest: bool) -> files_pb2.UploadStatus:
        """Return the state as callers see it; `digest` needs `read_prefix` before."""
        with self.lock:
            record = self.record
            # What was given up, or expired, is freed.
            kept = self.unfinished or self.state == files_pb2.UPLOAD_STATE_PUBLISHED
            status = files_pb2.UploadStatus(
                state=self.state,
                path=self.path,
                size_bytes=self.request.size_bytes or 0,
                staged_bytes=self.staged if kept else 0,
                durable_bytes=self.durable if kept else 0,
            )
            if self.algorithm is not None:
                status.digest_algorithm = self.algorithm.wire
            if self.state == files_pb2.UPLOAD_STATE_PUBLISHED and record is not None:
                status.result.ParseFromString(record.result)
            if digest and self.hasher is not None and (staged := self.hasher.digest()) is not None:
                status.staged_digest.CopyFrom(staged.message)
            if record is not None:
                status.upload_id, status.request_id = record.upload_id, record.request_id
                status.epoch = record.epoch
                status.failure_reason = record.failure_reason
                set_clock_time(status.created_time, record.created)
                set_clock_time(status.expiration_time, self.updated + record.expiry)
            set_clock_time(status.updated_time, self.updated)
            return status

    def digest(self) -> Digest | None:
        """Return the digest of the staged bytes, if there is one; call with the lock held."""
        return self._require_hasher().digest()

    def current_record(self) -> UploadRecord:
        """Return the row as it should be in the journal now; call with the lock held."""
        self.record = replace(self.row, state=self.state, updated=self.updated, durable=self.durable)
        return self.record

    def when_settled(self, callback: Callable[[], object]) -> bool:
        """Call back from a disk thread when verifying is over.

        Returns:
            False if it is over already; then nobody is called.
        """
        with self.lock:
            if self.state != files_pb2.UPLOAD_STATE_VERIFYING:
                return False
            self._settled.append(callback)
            return True

    def tell_settled(self) -> None:
        """Tell whoever waits that a finish is over; call without the lock."""
        with self.lock:
            callbacks, self._settled = self._settled, []
        for callback in callbacks:
            callback()

    def _new_hasher(self) -> StagedDigest:
        return StagedDigest(self.algorithm)

    def _require_hasher(self) -> StagedDigest:
        if self.hasher is None:
            raise RuntimeError("the staged bytes were not read before more were written")
        return self.hasher


def superseded() -> TransferError:
    """Make the error for a stream whose upload was taken over (RSM-5)."""
    return TransferError(Reason.SUPERSEDED, "a newer attempt has taken the upload over")


def occupied_bytes(status: os.stat_result) -> int:
    """Return the bytes of a file that are not holes, as the budget counts them."""
    return min(status.st_size, status.st_blocks * 512)
