"""Checks every byte of a directory that is downloaded as an archive (ARC-11 to ARC-14)."""

from __future__ import annotations

from dataclasses import replace

from openshell_files_protocol.pb.openshell.v1 import files_pb2

from openshell_files._core.download.download_check import DownloadCheck
from openshell_files._core.download.events import Closed, Opened
from openshell_files._core.retry import Decision
from openshell_files.errors import FilesError


class ArchiveCheck(DownloadCheck):
    """One call of `download_archive`, over all its attempts.

    An archive is made while it is sent, so it has no size before its end, and an attempt never
    resumes the one before.

    Attributes:
        archive: what the trailer says of the entries; None before it came.
    """

    archive: files_pb2.ArchiveResult | None = None

    @property
    def total(self) -> int | None:
        """None: the size is not known."""
        return None

    def request(self) -> files_pb2.DownloadFileRequest:
        """Begin an attempt and return its request."""
        self._forget()
        request = super().request()
        request.as_archive = True
        return request

    def on_error(self, error: FilesError) -> Decision:
        """Return the retry after a failed attempt, which drops what came; see `DownloadCheck.on_error`."""
        came = self.received > 0
        # What came is dropped, so it is no progress that would allow further retries.
        self._advanced = False
        decision = super().on_error(error)
        if came and not decision.restart:
            if not self.restartable:
                raise error
            self._forget()
            decision = replace(decision, restart=True)
        return decision

    def _check_kind(self, header: files_pb2.DownloadFileHeader) -> None:
        if not header.is_archive:
            raise self._corrupt("the content is a file, and an archive was requested")

    def _header(self, header: files_pb2.DownloadFileHeader) -> Opened | None:
        self.archive = None
        return super()._header(header)

    def _trailer(self, trailer: files_pb2.DownloadTrailer) -> Closed:
        closed = super()._trailer(trailer)
        if not trailer.HasField("archive"):
            raise self._corrupt("the trailer does not tell what is in the archive")
        self.archive = trailer.archive
        return closed
