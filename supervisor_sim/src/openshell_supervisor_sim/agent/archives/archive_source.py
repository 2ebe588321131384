"""The archive of a directory as the source of a download (ARC-11 to ARC-14)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from openshell_files_disk.archives.packing import Packing, SendsTree, Zeros
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.digests import DigestHasher
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.digest_choice import choose
from openshell_supervisor_sim.agent.core.download import MAX_HOLE_BYTES, piece_bytes
from openshell_supervisor_sim.agent.core.limits import Limits
from openshell_supervisor_sim.agent.core.requests import DownloadRequest
from openshell_supervisor_sim.agent.download.source import Content, Hole
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt

_ZEROS: Final = bytes(MIB)


class Origin(Protocol):
    """The directory that is sent."""

    @property
    def tree(self) -> SendsTree:
        """Sends its entries."""
        ...

    def describe(self) -> files_pb2.FileInfo:
        """Return the description of the directory as it is now."""
        ...

    def close(self) -> None:
        """Close everything; more than once is fine."""
        ...


class ArchiveSource:
    """The archive of a directory, made while it is read. Methods block; close it after use.

    Args:
        request: of the caller.
        limits: of this operation.
        open_origin: opens the directory; the source closes it.
        interrupt: stops long computations.

    Raises:
        TransferError: the directory cannot be sent.
    """

    def __init__(
        self,
        request: DownloadRequest,
        limits: Limits,
        open_origin: Callable[[], Origin],
        interrupt: Interrupt,
    ) -> None:
        self.interrupt = interrupt
        self._request = request
        self._piece_bytes = piece_bytes(request, limits)
        self._hasher: DigestHasher | None = None
        if request.checked:
            self._hasher = DigestHasher(choose("accepted_digests", request.digests, limits.digests))
        #: Bytes that wait for the rest of a piece, and zeros that follow them.
        self._gathered = bytearray()
        self._ready: deque[Content | Hole] = deque()
        self._position = 0
        self._closed = False
        self._origin = open_origin()
        self._packing = Packing(self._origin.tree)

    def close(self) -> None:
        """Close the directory; more than once is fine."""
        if not self._closed:
            self._closed = True
            self._origin.close()

    @property
    def closed(self) -> bool:
        """True if the directory is closed."""
        return self._closed

    @property
    def exhausted(self) -> bool:
        """True if everything was read."""
        return self._packing.complete and not self._ready

    @property
    def bytes_sent(self) -> int:
        """Bytes of the archive that `read` has made."""
        return self._position

    def header(self) -> files_pb2.DownloadFileHeader:
        """Return the first message: the size of an archive is not known before its end."""
        info = self._origin.describe()
        header = files_pb2.DownloadFileHeader(mode=info.mode, is_archive=True, file=info)
        if self._hasher is not None:
            header.digest_algorithm = self._hasher.algorithm.wire
        return header

    def read(self, budget: int) -> Sequence[Content | Hole]:
        """Return the next pieces, about `budget` bytes; none only at the end.

        Raises:
            TransferError: the directory cannot be read.
        """
        pieces: list[Content | Hole] = []
        while budget > 0:
            self.interrupt.check()
            if not self._ready:
                if self._packing.complete:
                    break
                self._pack()
                continue
            piece = self._ready.popleft()
            pieces.append(piece)
            if isinstance(piece, Hole):
                # Its zeros took long to hash, so this small frame goes out before more is read.
                break
            budget -= len(piece.data)
        return pieces

    def _pack(self) -> None:
        for piece in self._packing.read():
            if isinstance(piece, Zeros):
                self._add_zeros(piece.length)
            else:
                self._gathered += piece
                self._cut(self._piece_bytes)
        if self._packing.complete:
            self._cut(1)

    def _add_zeros(self, length: int) -> None:
        """Add zeros: a hole for a caller that knows holes, if they are more than a piece.

        The piece before a hole is filled up with zeros: a gateway counts small ones (RLY-25).
        """
        filler = -len(self._gathered) % self._piece_bytes
        if self._hasher is not None and length - filler >= self._piece_bytes:
            self._gathered += bytes(filler)
            self._cut(self._piece_bytes)
            length -= filler
            while length:
                step = min(length, MAX_HOLE_BYTES)
                self._hasher.zeros(step, self.interrupt.check)
                self._ready.append(Hole(self._position, step))
                self._position += step
                length -= step
            return
        while length:
            self.interrupt.check()
            self._gathered += _ZEROS[:length]
            length -= min(length, len(_ZEROS))
            self._cut(self._piece_bytes)

    def _cut(self, least: int) -> None:
        """Make pieces of the gathered bytes, as long as there are `least`."""
        taken = 0
        whole = memoryview(bytes(self._gathered)) if len(self._gathered) >= least else memoryview(b"")
        while len(whole) - taken >= least:
            data = whole[taken : taken + self._piece_bytes]
            taken += len(data)
            checksum = 0
            if self._hasher is not None:
                self._hasher.update(data)
                checksum = crc32c(data)
            self._ready.append(Content(self._position, data, checksum))
            self._position += len(data)
        del self._gathered[:taken]

    def trailer(self) -> files_pb2.DownloadTrailer:
        """Return the last message: what is in the archive, and what was left out (ARC-13, ARC-14).

        Raises:
            TransferError: FILE_CHANGED, unless changes are allowed; ARCHIVE_INCOMPLETE for a caller
                that gets no trailer.
        """
        outcome, changed = self._packing.outcome, self._packing.changed
        if changed and not (self._request.allow_change and self._request.checked):
            named = ", ".join(path.decode("utf-8", "replace") for path in changed)
            raise TransferError(Reason.FILE_CHANGED, f"files changed while they were read: {named}")
        if outcome.problems and not self._request.checked:
            raise outcome.error("packed")
        digest = None if self._hasher is None else self._hasher.digest()
        return files_pb2.DownloadTrailer(
            end_offset=self._position,
            digest=digest.message if digest is not None else None,
            whole_file=True,
            changed=bool(changed),
            file=self._origin.describe(),
            archive=outcome.message(),
        )
