"""One stream that is unpacked: takes an archive's bytes, and answers with what became of its entries (ARC-8 to ARC-10)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from openshell_files_disk.archives.limits import ArchiveLimits
from openshell_files_disk.archives.unpacking import TakesTree, Unpacking
from openshell_files_protocol.digests import DigestAlgorithm, DigestHasher
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.chunk_check import check_chunk
from openshell_supervisor_sim.agent.core.requests import UploadRequest
from openshell_supervisor_sim.agent.core.upload import Publish, Stage, StageAction
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt

_ZEROS: Final = bytes(MIB)


class Destination(Protocol):
    """The directory that an archive is unpacked in."""

    @property
    def tree(self) -> TakesTree:
        """Takes the entries."""
        ...

    def describe(self) -> files_pb2.FileInfo:
        """Return the description of the directory."""
        ...

    @property
    def durability(self) -> files_pb2.Durability.ValueType:
        """The durability that was reached, once the tree is finished."""
        ...

    def close(self) -> None:
        """Remove what is staged, and close everything; more than once is fine."""
        ...


class Extraction:
    """The attempt of an upload that is unpacked. Methods block.

    Entries get into place as they come: an error leaves those that came before.

    Args:
        request: of the caller.
        open_destination: opens the directory; the attempt closes it.
        limits: of the archive.
        algorithm: of the digest of the archive's bytes; None for a caller that sends none.
    """

    def __init__(
        self,
        request: UploadRequest,
        open_destination: Callable[[Interrupt], Destination],
        limits: ArchiveLimits,
        algorithm: DigestAlgorithm | None,
    ) -> None:
        self.algorithm = algorithm
        #: An archive is never resumed.
        self.resumed_from = 0
        #: Stops long computations of this stream.
        self.interrupt = Interrupt()
        self._tells_problems = request.explicit_finish
        self._hasher = None if algorithm is None else DigestHasher(algorithm)
        self._received = 0
        self._withdrawn = threading.Event()
        self._destination = open_destination(self.interrupt)
        self._ended = False
        self._unpacking = Unpacking(self._destination.tree, limits, check=self.interrupt.check)

    @property
    def ended(self) -> bool:
        """True if `end` has closed everything."""
        return self._ended

    def stage(self, actions: Sequence[StageAction]) -> None:
        """Check and unpack content, in order.

        Raises:
            TransferError: CHUNK_CHECKSUM, ARCHIVE_INVALID, ARCHIVE_TOO_LARGE, DISK_FULL, ...
        """
        for action in actions:
            if isinstance(action, Stage):
                data = bytes(action.data)
                check_chunk(action.offset, data, action.crc32c)
                self._take(data)
                continue
            left = action.length
            while left:
                self.interrupt.check()
                self._take(_ZEROS[:left])
                left -= min(left, len(_ZEROS))

    def _take(self, data: bytes) -> None:
        if self._hasher is not None:
            self._hasher.update(data)
        self._received += len(data)
        with self._counted():
            self._unpacking.feed(data)

    def publish(self, finish: Publish) -> files_pb2.UploadFileResponse:
        """Complete the tree, and answer.

        The digest is compared before anything is completed: a damaged archive is never told to be unpacked.

        Raises:
            TransferError: DIGEST_MISMATCH, ARCHIVE_INVALID, ARCHIVE_INCOMPLETE, ...
        """
        self._require_wanted()
        with self._counted():
            self._verify(finish)
            for _ in self._unpacking.finish():
                self._require_wanted()
                self.interrupt.check()
        outcome = self._unpacking.outcome
        if outcome.problems and not self._tells_problems:
            raise outcome.error("unpacked")
        return files_pb2.UploadFileResponse(
            bytes_written=self._received,
            file=self._destination.describe(),
            durability=self._destination.durability,
            archive=outcome.message() if self._tells_problems else None,
        )

    def _verify(self, finish: Publish) -> None:
        received = None if self._hasher is None else self._hasher.digest()
        if finish.digest is not None and finish.digest != received:
            raise TransferError(
                Reason.DIGEST_MISMATCH,
                f"finish.digest is {finish.digest}, the bytes that arrived have {received}",
                {"expected_digest": str(finish.digest), "actual_digest": str(received)},
            )

    @contextmanager
    def _counted(self) -> Generator[None]:
        """Add to an error what had been unpacked by then."""
        try:
            yield
        except TransferError as error:
            outcome = self._unpacking.outcome
            error.metadata = {
                **error.metadata,
                "entries": str(outcome.entries),
                "files": str(outcome.files),
            }
            raise

    def withdraw(self) -> None:
        """Learn that the caller cancelled after the end of its stream; any thread may call."""
        self._withdrawn.set()

    def _require_wanted(self) -> None:
        if self._withdrawn.is_set():
            raise TransferError(
                Reason.UPLOAD_INCOMPLETE, "the caller cancelled before the archive was complete"
            )

    def refuse(self, error: TransferError, *, keep: bool) -> None:
        """Apply a refusal of the rules: what is unpacked stays, and the rest goes with `end`."""

    def end(self) -> None:
        """Close everything; more than once is fine."""
        if not self._ended:
            self._ended = True
            self._destination.close()
