"""Checks every byte of a download, and decides where the next attempt resumes.

A sandbox is not trusted: offsets have to follow each other, the CRC-32C of
each chunk has to be right, sizes have to be the announced ones, and the
trailer's digest has to match the received bytes (DWN-10). Only then does the
content appear under its name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from google.protobuf.message import DecodeError
from openshell_files_protocol.chunks import Chunk, crc32c, decode_chunk
from openshell_files_protocol.digests import Digest, DigestAlgorithm, DigestHasher
from openshell_files_protocol.limits import MAX_CHUNK_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason, Retry

from openshell_files._core import answers
from openshell_files._core.answer_check import fault_of
from openshell_files._core.download.events import Closed, Event, Opened, Piece
from openshell_files._core.requests import SandboxAddress, accepted_digests, download_request
from openshell_files._core.retry import Decision, RetryBudget
from openshell_files._known_errors import EXTENSIONS_FIX, error_from_reason
from openshell_files.errors import (
    ErrorFacts,
    FileChanged,
    FilesError,
    FileTooLarge,
    IncompleteDownload,
    IntegrityError,
    LocalReason,
    Unsupported,
)
from openshell_files.options import ReadOptions
from openshell_files.results import FileInfo

#: Longest hole that is hashed in one step, so that one message cannot keep
#: the client busy for hours.
HOLE_STEP_BYTES: Final = 64 * 1024 * 1024

_LAST_FIELD_OF_THE_RFC: Final = 5


class DownloadCheck:
    """One call of `download`, over all its attempts.

    Args:
        address: the sandbox.
        path: the remote path.
        options: part and version of the file.
        budget: retries of this call.

    Attributes:
        restartable: the receiver can drop content that it got already.
    """

    def __init__(
        self,
        address: SandboxAddress,
        path: str,
        options: ReadOptions,
        *,
        budget: RetryBudget,
    ) -> None:
        self._address = address
        self._path = path
        self._options = options
        self._budget = budget
        self.restartable = False
        # Replaced when the header announces the algorithm.
        self._whole = self._this_stream = DigestHasher(DigestAlgorithm.SHA256)
        self._start: int | None = None
        self._position: int = 0
        self._header_seen = False
        self._trailer_seen = False
        self._advanced = False
        self._hole_left: int = 0
        self.attempts = 0
        self.bytes_received = 0
        self.resumed_from: int = 0
        self.file: FileInfo | None = None
        self.file_size = 0
        self.whole_file = False
        self.changed = False
        self.digest_verified = False

    @property
    def received(self) -> int:
        """Verified bytes so far."""
        return self._position

    @property
    def start_offset(self) -> int:
        """Offset in the file at which the content begins."""
        return self._start or 0

    @property
    def total(self) -> int | None:
        """Bytes of content; None if unknown."""
        if self._start is None or self._options.allow_changes:
            return None
        return self._expected_end(self.file_size) - self._start

    def digest(self) -> Digest:
        """Return the digest of all the content, by the algorithm of the first stream."""
        return self._whole.digest()

    def request(self) -> files_pb2.DownloadFileRequest:
        """Begin an attempt and return its request, which resumes after the last verified byte of the same version."""
        self.attempts += 1
        self._header_seen = self._trailer_seen = self._advanced = False
        self._hole_left = 0
        request = download_request(self._address, self._path, self._options, MAX_CHUNK_BYTES)
        if self._position and self._start is not None and self.file is not None:
            self.resumed_from = self._position
            request.ClearField("tail_bytes")
            request.offset = self._start + self._position
            request.if_version = self.file.version
            # A tail ends at the end of the file; a given length shrinks.
            if self._options.length is not None:
                request.length = self._options.length - self._position
        else:
            self._forget()
        return request

    def take(self, message: bytes) -> Event | None:
        """Check one message of the stream and return its event.

        After a hole, call `hash_hole` until it returns False.

        Raises:
            IntegrityError: the message is wrong at this place.
            FileTooLarge: the content exceeds `max_bytes`.
            Unsupported: the gateway does not know checked downloads.
        """
        if self._trailer_seen:
            raise self._corrupt("a message came after the trailer")
        chunk = decode_chunk(message)
        if chunk is not None:
            return self._content(chunk)
        try:
            parsed = files_pb2.DownloadFileResponse.FromString(message)
        except DecodeError:
            raise self._corrupt("a message cannot be parsed") from None
        if parsed.HasField("header") and not self._position and not _is_extended(parsed.header):
            raise Unsupported(
                "the gateway has DownloadFile only as in the RFC, without the digest that verifies the content",
                ErrorFacts(LocalReason.EXTENSIONS_MISSING, fix=EXTENSIONS_FIX),
                path=self._path,
            )
        if fault := fault_of(parsed):
            raise self._corrupt(fault)
        match parsed.WhichOneof("payload"):
            case "header":
                return self._header(parsed.header)
            case "data":
                data = parsed.data
                return self._content(Chunk(data.offset, data.data, data.crc32c, data.hole_bytes))
            case "trailer":
                return self._trailer(parsed.trailer)
            case _:
                raise self._corrupt("a message has no payload of a checked download")

    def hash_hole(self) -> bool:
        """Hash the next part of a hole that `take` returned.

        A hole of many gigabytes takes long to hash, and to write into a sink
        without holes; between the parts the driver can report progress and be
        cancelled.

        Returns:
            True if a part of the hole is left.
        """
        step = min(HOLE_STEP_BYTES, self._hole_left)
        self._whole.zeros(step)
        if self._this_stream is not self._whole:
            self._this_stream.zeros(step)
        self._position += step
        self._hole_left -= step
        return self._hole_left > 0

    def on_end(self) -> None:
        """Take the end of a stream with status OK.

        Raises:
            IncompleteDownload: the stream had no trailer (DWN-2).
        """
        if not self._trailer_seen:
            raise IncompleteDownload(
                f"the stream ended after {self._position} bytes without a trailer",
                self._facts(LocalReason.DOWNLOAD_INCOMPLETE),
                path=self._path,
            )

    def on_error(self, error: FilesError) -> Decision:
        """Return the retry after a failed attempt.

        Raises:
            FilesError: it must not be retried, or the retries are used up.
        """
        error.about(self._path)
        self._address.name_in(error)
        if self._advanced and error.retry is not Retry.RESTART:
            self._budget.progressed()
        resumed = self._position > 0
        if isinstance(error, FileChanged) and error.reason == Reason.VERSION_MISMATCH.name and not resumed:
            # The caller asked for that version; a restart would not change it.
            raise error
        decision = self._budget.decide(error)
        if resumed and self.file is not None and not self.file.version:
            # Without a version, the rest could be of another file.
            decision = replace(decision, restart=True)
        if decision.restart:
            if resumed and not self.restartable:
                raise error
            self._forget()
        return decision

    @property
    def needs_confirmation(self) -> bool:
        """True if all bytes were received but no digest of the sandbox covers them all.

        A trailer covers its stream only. After a resume, StatFile has to return
        the digest of the whole file.
        """
        return (
            self._trailer_seen and not self.digest_verified and not self.changed and self._options.everything
        )

    def confirm(self, now: FileInfo) -> None:
        """Compare all bytes with the digest of the whole file.

        Args:
            now: the file with its digest. If it is another version, the
                comparison is impossible and `digest_verified` stays False.

        Raises:
            IntegrityError: the digest differs.
        """
        own, said = self.digest(), now.digest or ""
        comparable = said.startswith(f"{own.algorithm.word}:")
        if self.file is None or now.version != self.file.version or not comparable:
            return
        if said != str(own):
            raise error_from_reason(
                Reason.DIGEST_MISMATCH,
                "the digest of the resumed download is not the file's",
                path=self._path,
            )
        self.digest_verified = True

    def _forget(self) -> None:
        self._whole = self._this_stream = DigestHasher(DigestAlgorithm.SHA256)
        self._position = 0
        self._start = None
        self.resumed_from = 0
        self.file = None
        self.digest_verified = False

    def _header(self, header: files_pb2.DownloadFileHeader) -> Opened | None:
        if self._header_seen:
            raise self._corrupt("a second header came")
        self._header_seen = True
        self._check_kind(header)
        self._this_stream = DigestHasher(self._announced_digest(header))
        file = answers.file_info(header.file)
        if self._position and self._start is not None:
            if header.start_offset != self._start + self._position or (
                self.file is not None and file.version != self.file.version
            ):
                raise self._corrupt("the resumed stream has another offset or version")
            return None
        if self._options.if_version and file.version != self._options.if_version:
            raise self._corrupt(
                f"the header has version {file.version!r}, requested was {self._options.if_version!r}"
            )
        start = header.start_offset
        if self._options.tail is not None:
            wanted = max(0, header.size_bytes - self._options.tail)
        else:
            wanted = self._options.offset
        if start != wanted:
            raise self._corrupt(f"the content begins at {start}, requested was {wanted}")
        self._whole = self._this_stream
        self._start, self.file, self.file_size = start, file, header.size_bytes
        self._within_limit(self.total or 0)
        return Opened(file, start, self.total)

    def _check_kind(self, header: files_pb2.DownloadFileHeader) -> None:
        """Check that the content is of the requested kind."""
        if header.is_archive:
            raise self._corrupt("the content is an archive, which was not requested")

    def _announced_digest(self, header: files_pb2.DownloadFileHeader) -> DigestAlgorithm:
        """Return the algorithm of the trailer's digest (DIG-4)."""
        algorithm = DigestAlgorithm.known(header.digest_algorithm)
        if algorithm is None or algorithm not in accepted_digests(self._options.digest):
            raise self._corrupt(
                f"the header announces digest {header.digest_algorithm}, which was not requested"
            )
        return algorithm

    def _content(self, chunk: Chunk) -> Piece:
        if not self._header_seen or self._start is None:
            raise self._corrupt("content came before the header")
        if chunk.offset is None:
            raise self._corrupt("a chunk has no offset and CRC")
        here = self._start + self._position
        if chunk.offset != here:
            raise self._corrupt(f"a chunk begins at {chunk.offset}, expected was {here}")
        if bool(chunk.hole_bytes) == bool(len(chunk.data)):
            raise self._corrupt("a chunk has neither content nor a hole, or both")
        total = self.total
        if total is not None and self._position + chunk.size > total:
            raise self._corrupt(f"the content exceeds the announced {total} bytes")
        self._within_limit(self._position + chunk.size)
        if chunk.hole_bytes:
            self._advanced = True
            self._hole_left = chunk.hole_bytes
            return Piece(self._position, b"", chunk.hole_bytes)
        if crc32c(chunk.data) != chunk.crc32c:
            raise error_from_reason(
                Reason.CHUNK_CHECKSUM,
                f"the chunk at {here} does not match its CRC-32C",
                path=self._path,
            )
        # After the check, because a connection that damages every chunk never advances.
        self._advanced = True
        self._hash(chunk.data)
        piece = Piece(self._position, chunk.data)
        self._position += chunk.size
        self.bytes_received += chunk.size
        return piece

    def _hash(self, data: bytes | memoryview) -> None:
        self._whole.update(data)
        if self._this_stream is not self._whole:
            self._this_stream.update(data)

    def _trailer(self, trailer: files_pb2.DownloadTrailer) -> Closed:
        if self._start is None:
            raise self._corrupt("the trailer came before the header")
        here = self._start + self._position
        total = self.total
        if trailer.end_offset != here or (total is not None and self._position != total):
            raise self._corrupt(
                f"the trailer ends at {trailer.end_offset}, received was the content up to {here}, "
                f"announced {'no end' if total is None else f'up to {self._start + total}'}"
            )
        if Digest.of(trailer.digest) != self._this_stream.digest():
            raise error_from_reason(
                Reason.DIGEST_MISMATCH,
                "the received bytes do not match the trailer's digest",
                path=self._path,
            )
        if trailer.changed and not self._options.allow_changes:
            raise error_from_reason(
                Reason.FILE_CHANGED, "the file changed while it was read", path=self._path
            )
        self._trailer_seen = True
        self.changed = trailer.changed
        self.digest_verified = self._this_stream is self._whole
        self.whole_file = self._options.everything and (trailer.whole_file or self.resumed_from > 0)
        return Closed()

    def _expected_end(self, file_size: int) -> int:
        start = self._start or 0
        if self._options.length is None:
            return max(start, file_size)
        return max(start, min(file_size, self._options.offset + self._options.length))

    def _within_limit(self, size: int) -> None:
        limit = self._options.max_bytes
        if limit is not None and size > limit:
            raise FileTooLarge(
                f"the content has at least {size} bytes, and max_bytes is {limit}",
                ErrorFacts(
                    LocalReason.MAX_BYTES_EXCEEDED, fix="Raise max_bytes, or request a part of the file."
                ),
                path=self._path,
            )

    def _corrupt(self, what: str) -> IntegrityError:
        return IntegrityError(
            f"download at byte {self._position}: {what}",
            self._facts(LocalReason.DOWNLOAD_CORRUPT),
            path=self._path,
        )

    @staticmethod
    def _facts(reason: LocalReason) -> ErrorFacts:
        return ErrorFacts(reason, retry=Retry.AGAIN, fix="Try again; report it if it happens again.")


def _is_extended(header: files_pb2.DownloadFileHeader) -> bool:
    """Return whether a header has any field that the RFC does not have."""
    return any(field.number > _LAST_FIELD_OF_THE_RFC for field, _ in header.ListFields())
