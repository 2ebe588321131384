"""Uploads of the gateway towards an SDK: streams, WriteFile and the methods of resuming.

It carries out what an honest server does, and records every rule that a caller breaks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from google.protobuf.message import Message

from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.file_core import Core, Live, Single
from openshell_files_conformance.peers.file_lanes import Lanes
from openshell_files_conformance.peers.file_sandbox import (
    MAX_WRITE_BYTES,
    SHA256,
    Upload,
    chosen,
    crc32c,
    digest_value,
)
from openshell_files_conformance.peers.file_status import refusal
from openshell_files_conformance.peers.upload_rules import Incoming, check_metadata, differences

Answer = Message | bytes
#: How long the gateway looks for messages behind a finish, in seconds.
_AFTER_FINISH_SECONDS: Final = 0.2


class UploadCalls:
    """The methods of uploads."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lanes = Lanes(core)

    def methods(self) -> dict[str, Single]:
        """Return the methods by their names."""
        return {
            "UploadFile": self.upload_file,
            "WriteFile": self.write_file,
            "StartUpload": self.start_upload,
            "GetUpload": self.get_upload,
            "AbortUpload": self.abort_upload,
            "ListUploads": self.list_uploads,
        }

    # Streams

    async def upload_file(self, live: Live) -> Answer:
        """Receive one stream of content, or a lane of one."""
        messages = live.messages(files_pb2.UploadFileRequest)
        first = await anext(messages, None)
        if first is None:
            raise asyncio.CancelledError
        kind = first.WhichOneof("payload")
        if kind == "lane" and not self._core.settings.rfc_only:
            await self._lanes.carry(live, first.lane, messages)
            return files_pb2.UploadFileResponse()
        if kind != "metadata":
            raise self._core.refuse("UPL-4", "INVALID_REQUEST", f"{live.call.name} begins with {kind}")
        self._core.admit_sandbox(first.metadata.sandbox_id, first.metadata.sandbox)
        if self._core.settings.rfc_only:
            return await self._rfc_upload(live, first.metadata, messages)
        metadata = first.metadata
        check_metadata(self._core, live.call, metadata)
        await live.strike("metadata")
        upload = self._named(metadata)
        with self._lanes.joined(live, metadata, messages) as merged:
            return await self._receive(live, metadata, upload, merged)

    async def _rfc_upload(
        self,
        live: Live,
        metadata: files_pb2.UploadFileMetadata,
        messages: AsyncIterator[files_pb2.UploadFileRequest],
    ) -> Answer:
        """Do what a server of the RFC alone does: messages of extensions are nothing to it (RFC-8)."""
        plain = files_pb2.UploadFileMetadata(
            remote_path=metadata.remote_path, size_bytes=metadata.size_bytes, mode=metadata.mode
        )
        upload = Upload("", plain, SHA256)
        async for message in messages:
            kind = message.WhichOneof("payload")
            if kind != "chunk":
                self._core.violates("RFC-8", f"{live.call.name} sends {kind} to a server of the RFC alone")
            upload.staged += message.chunk
            await live.strike("content", upload, content=len(upload.staged))
        await self._half_closed()
        if len(upload.staged) != metadata.size_bytes:
            raise refusal("SIZE_MISMATCH", f"{len(upload.staged)} bytes instead of {metadata.size_bytes}")
        response = self._core.sandbox.publish(upload, with_digest=False)
        return files_pb2.UploadFileResponse(bytes_written=response.bytes_written)

    @staticmethod
    async def _half_closed() -> None:
        """Wait until a half-close is told from a cancellation, as UPL-33 says; the latter cancels this task."""
        await asyncio.sleep(0.02)

    async def _receive(
        self,
        live: Live,
        metadata: files_pb2.UploadFileMetadata,
        upload: Upload,
        messages: AsyncIterator[files_pb2.UploadFileRequest],
    ) -> Answer:
        explicit = metadata.explicit_finish or bool(metadata.upload_id)
        incoming = Incoming(
            self._core, live.call, upload, explicit=explicit, resumed=bool(metadata.upload_id)
        )
        async for message in messages:
            if metadata.epoch and upload.epoch != metadata.epoch:
                raise refusal("SUPERSEDED", "a newer attempt has taken over")
            if upload.state == files_pb2.UPLOAD_STATE_ABORTED:
                raise refusal("UPLOAD_ABORTED", "the upload was aborted")
            if incoming.take(message):
                await live.strike("finish", upload)
                response = self._finish(live, upload, message.finish)
                await live.strike("answer", upload)
                await self._end_of(live, messages)
                return response
            await live.strike("content", upload, content=incoming.received)
        await self._half_closed()
        if explicit:
            raise refusal("UPLOAD_INCOMPLETE", "the stream ended without a finish")
        if incoming.received != metadata.size_bytes:
            raise self._core.refuse(
                "UPL-2",
                "SIZE_MISMATCH",
                f"{live.call.name} has {incoming.received} bytes, and size_bytes is {metadata.size_bytes}",
            )
        return self._core.sandbox.publish(
            upload, with_digest=bool(metadata.request_id or metadata.accepted_digests)
        )

    async def _end_of(self, live: Live, messages: AsyncIterator[files_pb2.UploadFileRequest]) -> None:
        """Look whether the caller sends anything behind its finish. It need not half-close, so this does not wait for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_AFTER_FINISH_SECONDS):
                async for message in messages:
                    kind = message.WhichOneof("payload")
                    clause = "WAI-7" if kind == "waiting" else "UPL-20"
                    self._core.violates(clause, f"{live.call.name} sends {kind} after its finish")

    def _named(self, metadata: files_pb2.UploadFileMetadata) -> Upload:
        """Return the upload of a stream, which may be a new one.

        Raises:
            Status: there is none, or the request differs from the first.
        """
        upload = self._core.sandbox.upload_named(metadata.upload_id, metadata.request_id)
        if upload is None:
            if metadata.upload_id:
                raise refusal("UPLOAD_UNKNOWN", "there is no such upload")
            return self._core.sandbox.new_upload(metadata, self._algorithm(metadata))
        self._same_request(upload, metadata)
        if not metadata.upload_id:
            # By request id alone the upload begins again (RSM-17).
            upload.staged.clear()
            return upload
        if metadata.epoch < upload.epoch and metadata.epoch:
            raise refusal("SUPERSEDED", "a newer attempt has taken over")
        if metadata.epoch != upload.epoch:
            raise self._core.refuse(
                "RSM-20",
                "INVALID_REQUEST",
                f"epoch {metadata.epoch} was never given; the newest is {upload.epoch}",
            )
        return upload

    def _same_request(self, upload: Upload, metadata: files_pb2.UploadFileMetadata) -> None:
        fields = differences(upload.first, metadata)
        if fields:
            raise self._core.refuse(
                "RSM-11",
                "UPLOAD_CONFLICT",
                f"{', '.join(fields)} differ from the first request for {upload.upload_id}",
                fields=",".join(f"metadata.{name}" for name in fields),
            )
        if upload.algorithm not in (list(metadata.accepted_digests) or [SHA256]):
            raise self._core.refuse(
                "DIG-7",
                "UPLOAD_CONFLICT",
                "accepted_digests lacks the upload's algorithm",
                fields="metadata.accepted_digests",
            )

    def _algorithm(self, metadata: files_pb2.UploadFileMetadata) -> files_pb2.DigestAlgorithm.ValueType:
        found = chosen(metadata.accepted_digests, self._core.settings.digests)
        if found is None:
            raise refusal("DIGEST_UNSUPPORTED", "none of the accepted digests is computed here")
        return found

    def _finish(
        self, live: Live, upload: Upload, finish: files_pb2.UploadFinish
    ) -> files_pb2.UploadFileResponse:
        """Carry a finish out.

        Raises:
            Status: it is refused.
        """
        if upload.result is not None:
            if upload.finish != finish:
                raise self._core.refuse("RSM-21", "FINISH_CONFLICT", f"{live.call.name} finishes otherwise")
            upload.result.replayed = True
            return upload.result
        problem = finish_problem(upload, finish)
        if problem is not None:
            clause, reason, text = problem
            if reason != "INVALID_REQUEST":
                upload.state, upload.failure = files_pb2.UPLOAD_STATE_ABORTED, reason
            raise self._core.refuse(clause, reason, f"{live.call.name}: {text}")
        self._check_condition(upload.first)
        upload.finish = finish
        return self._core.sandbox.publish(upload, with_digest=True)

    def _check_condition(self, metadata: files_pb2.UploadFileMetadata) -> None:
        there = self._core.sandbox.files.get(metadata.remote_path)
        kind = metadata.condition.WhichOneof("condition")
        if kind == "absent" and there is not None:
            raise refusal("FILE_EXISTS", "the destination exists")
        if kind == "present" and there is None:
            raise refusal("CONDITION_FAILED", "the destination does not exist")

    # WriteFile

    async def write_file(self, live: Live) -> Answer:
        """Receive a small file in one message (UPL-16)."""
        request = await live.only(files_pb2.WriteFileRequest)
        metadata, content = request.metadata, request.content
        self._core.admit_sandbox(metadata.sandbox_id, metadata.sandbox)
        for clause, text in _write_faults(request):
            raise self._core.refuse(clause, "INVALID_REQUEST", f"{live.call.name}: {text}")
        check_metadata(self._core, live.call, metadata, small=True)
        algorithm = request.digest.algorithm
        if algorithm not in self._core.settings.digests:
            raise refusal("DIGEST_UNSUPPORTED", "the digest's algorithm is not computed here")
        upload = self._core.sandbox.upload_named("", metadata.request_id)
        if upload is None:
            upload = self._core.sandbox.new_upload(metadata, algorithm)
        else:
            self._same_request(upload, metadata)
        if crc32c(content) != request.crc32c:
            raise self._core.refuse(
                "UPL-7", "CHUNK_CHECKSUM", f"{live.call.name}: the CRC-32C is not the content's"
            )
        if upload.result is None:
            upload.staged[:] = content
        finish = files_pb2.UploadFinish(size_bytes=len(content), digest=request.digest)
        try:
            await live.strike("finish", upload)
            response = self._finish(live, upload, finish)
        finally:
            if upload.result is None:
                # A WriteFile that did not publish is forgotten (UPL-59).
                self._core.sandbox.uploads.pop(upload.upload_id, None)
        await live.strike("answer", upload)
        return files_pb2.WriteFileResponse(
            file=response.file, durability=response.durability, replayed=response.replayed
        )

    # Resuming

    async def start_upload(self, live: Live) -> Answer:
        """Start an upload, find it again, or take it over (RSM-1, RSM-5)."""
        request = await live.only(files_pb2.StartUploadRequest)
        metadata = request.metadata
        self._core.admit_sandbox(metadata.sandbox_id, metadata.sandbox)
        check_metadata(self._core, live.call, metadata)
        if request.HasField("digest") and request.digest.algorithm not in (
            list(metadata.accepted_digests) or [SHA256]
        ):
            raise self._core.refuse("DIG-6", "INVALID_REQUEST", "digest.algorithm is not in accepted_digests")
        self._check_condition(metadata)
        upload = self._core.sandbox.upload_named(metadata.upload_id, metadata.request_id)
        if upload is None:
            if metadata.upload_id:
                raise refusal("UPLOAD_UNKNOWN", "there is no such upload")
            upload = self._core.sandbox.new_upload(metadata, self._algorithm(metadata))
            upload.started = True
        else:
            self._same_request(upload, metadata)
            upload.started = True
            if upload.state == files_pb2.UPLOAD_STATE_RECEIVING:
                upload.epoch += 1
        await live.strike("answer", upload)
        return files_pb2.StartUploadResponse(upload=upload.status(with_digest=True))

    async def get_upload(self, live: Live) -> Answer:
        """Describe an upload, and change nothing (RSM-19)."""
        request = await live.only(files_pb2.GetUploadRequest)
        upload = self._known(request.sandbox, request.upload_id, request.request_id)
        return files_pb2.GetUploadResponse(upload=upload.status(with_digest=request.include_digest))

    async def abort_upload(self, live: Live) -> Answer:
        """End an upload without publishing."""
        request = await live.only(files_pb2.AbortUploadRequest)
        upload = self._known(request.sandbox, request.upload_id, "")
        if upload.state == files_pb2.UPLOAD_STATE_RECEIVING:
            upload.state = files_pb2.UPLOAD_STATE_ABORTED
            upload.staged.clear()
        return files_pb2.AbortUploadResponse(upload=upload.status(with_digest=False))

    async def list_uploads(self, live: Live) -> Answer:
        """List unfinished uploads."""
        request = await live.only(files_pb2.ListUploadsRequest)
        self._core.admit_sandbox(request.sandbox.id, request.sandbox.name)
        receiving = [
            one.status(with_digest=False)
            for one in self._core.sandbox.uploads.values()
            if one.state == files_pb2.UPLOAD_STATE_RECEIVING
        ]
        return files_pb2.ListUploadsResponse(uploads=receiving)

    def _known(self, sandbox: files_pb2.SandboxRef, upload_id: str, request_id: str) -> Upload:
        self._core.admit_sandbox(sandbox.id, sandbox.name)
        upload = self._core.sandbox.upload_named(upload_id, request_id)
        if upload is None:
            raise refusal("UPLOAD_UNKNOWN", "there is no such upload")
        return upload


def finish_problem(upload: Upload, finish: files_pb2.UploadFinish) -> tuple[str, str, str] | None:
    """Return clause, reason and words of what is wrong with a finish; None if nothing is."""
    staged = bytes(upload.staged)
    if finish.digest.algorithm != upload.algorithm:
        return (
            "DIG-5",
            "INVALID_REQUEST",
            f"the finish has algorithm {finish.digest.algorithm}, not {upload.algorithm}",
        )
    if len(finish.digest.value) != 32:
        return "UPL-30", "INVALID_REQUEST", f"the finish's digest has {len(finish.digest.value)} bytes"
    if finish.size_bytes != len(staged):
        return "UPL-28", "SIZE_MISMATCH", f"the finish says {finish.size_bytes} bytes, {len(staged)} came"
    if finish.digest.value != digest_value(staged, upload.algorithm):
        return "DIG-1", "DIGEST_MISMATCH", "the finish's digest is not that of the content"
    return None


def _write_faults(request: files_pb2.WriteFileRequest) -> Sequence[tuple[str, str]]:
    metadata, size = request.metadata, len(request.content)
    faults: list[tuple[str, str]] = []
    if metadata.size_bytes not in {0, size}:
        faults.append(("UPL-53", f"size_bytes is {metadata.size_bytes}, and the content has {size} bytes"))
    if metadata.upload_id or metadata.lanes:
        faults.append(("UPL-54", "upload_id or lanes is set"))
    if size > MAX_WRITE_BYTES:
        faults.append(("UPL-55", f"the content has {size} bytes"))
    if len(request.digest.value) != 32:
        faults.append(("UPL-30", f"the digest has {len(request.digest.value)} bytes"))
    accepted: list[Any] = list(metadata.accepted_digests)
    if accepted and request.digest.algorithm not in accepted:
        faults.append(("DIG-19", "accepted_digests lacks the algorithm of the digest"))
    return faults
