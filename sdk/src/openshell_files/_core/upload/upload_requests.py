"""Builds the calls of one upload, which name it by its id or by the caller's request id (RSM-1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.pb.openshell.v1 import files_pb2

from openshell_files._core.requests import SandboxAddress
from openshell_files._core.upload.actions import Abort, Look, Send, Start
from openshell_files._core.upload.send_limits import SendLimits
from openshell_files._core.upload.upload_digest import UploadDigest


class UploadRequests:
    """Builds each call as the action that carries it out.

    Args:
        address: the sandbox.
        metadata: first message, without ids of the upload.
        digest: algorithm of the upload's digest.
        limits: size of chunks and number of streams.
        new_id: makes a UUID.
        upload_id: id of an upload to resume; empty for a new one.
        inline: send without StartUpload.

    Attributes:
        upload_id: the sandbox's id of the upload; empty before it gave one.
        request_id: this client's id of the upload.
        epoch: number of the stream that may write to the upload (RSM-5).
        inline: send without StartUpload.
    """

    def __init__(
        self,
        address: SandboxAddress,
        metadata: files_pb2.UploadFileMetadata,
        *,
        digest: UploadDigest,
        limits: SendLimits,
        new_id: Callable[[], str],
        upload_id: str,
        inline: bool,
    ) -> None:
        self._address = address
        self._template = metadata
        self._digest = digest
        self._limits = limits
        self._new_id = new_id
        self.upload_id = upload_id
        self.request_id = new_id()
        self.epoch = 0
        self.inline = inline

    @property
    def path(self) -> str:
        """The destination."""
        return self._template.remote_path

    def name_new_upload(self) -> None:
        """Name a new upload from here on."""
        self.request_id, self.upload_id, self.epoch = self._new_id(), "", 0

    def first(self) -> Start | Send:
        """Return the call that begins an upload."""
        return self.send(0) if self.inline else self.start()

    def start(self) -> Start:
        """Return the call that admits or resumes the upload, and compares the source's digest if there is one (RSM-9)."""
        request = self.takeover()
        if self._digest.source is not None:
            request.digest.CopyFrom(self._digest.source.message)
        return Start(request)

    def takeover(self) -> files_pb2.StartUploadRequest:
        """Return the request after which no older stream can write to the upload or finish it (RSM-5, RSM-18)."""
        return files_pb2.StartUploadRequest(metadata=self._metadata(self._digest.accepted))

    def send(self, offset: int) -> Send:
        """Return the call that sends the content from `offset` to the finish."""
        # Without StartUpload no answer tells which of several algorithms the server takes (DIG-8).
        metadata = self._metadata(self._digest.accepted if self.upload_id else [self._digest.algorithm])
        metadata.epoch = self.epoch
        lanes = 1 if self.inline else self._limits.lanes
        return Send(metadata, offset, self._limits.chunk_bytes, lanes, self._limits.waiting)

    def look(self, *, hashed_bytes: int = 0) -> Look:
        """Return the call that asks for the upload's state.

        Args:
            hashed_bytes: also ask for the digest of this many staged bytes; 0 does not.
        """
        request = files_pb2.GetUploadRequest(
            sandbox=self._address.ref(),
            upload_id=self.upload_id,
            request_id="" if self.upload_id else self.request_id,
            include_digest=hashed_bytes > 0,
        )
        return Look(request, hashed_bytes)

    def abort(self) -> Abort:
        """Return the call that frees what is staged."""
        return Abort(files_pb2.AbortUploadRequest(sandbox=self._address.ref(), upload_id=self.upload_id))

    def _metadata(self, digests: Sequence[DigestAlgorithm]) -> files_pb2.UploadFileMetadata:
        metadata = files_pb2.UploadFileMetadata()
        metadata.CopyFrom(self._template)
        metadata.request_id = self.request_id
        metadata.upload_id = self.upload_id
        metadata.accepted_digests.extend(algorithm.wire for algorithm in digests)
        return metadata
