"""Uploads of the fake gateway: admission, streams, WriteFile and status."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import NoReturn

import grpc
from digest_values import SHA256, digest_of
from fake_base import Context, FakeBase, FakeFile, FakeUpload, info_of
from openshell_files_protocol import methods
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason


class FakeUploads(FakeBase):
    """The methods of uploads."""

    def _start_upload(self, request: files_pb2.StartUploadRequest) -> files_pb2.StartUploadResponse:
        metadata = request.metadata
        upload = self._find(metadata.upload_id, metadata.request_id)
        if metadata.upload_id and upload is None:
            raise TransferError(Reason.UPLOAD_UNKNOWN, "no such upload")
        if upload is None:
            upload = self._new_upload(metadata)
            there = self.files.get(metadata.remote_path)
            given = request.digest
            comparable = given.algorithm in self.digests and there is not None
            if comparable and there is not None and given == digest_of(there.content, given.algorithm):
                upload.algorithm = given.algorithm
                upload.state = files_pb2.UPLOAD_STATE_PUBLISHED
                upload.result = self._response(upload, there)
                upload.result.already_identical = True
        elif fields := _differences(upload, metadata):
            raise TransferError(
                Reason.UPLOAD_CONFLICT, "the request differs from the first", {"fields": ",".join(fields)}
            )
        elif upload.state == files_pb2.UPLOAD_STATE_RECEIVING:
            upload.epoch += 1
        return files_pb2.StartUploadResponse(upload=self._status(upload))

    def _get_upload(self, request: files_pb2.GetUploadRequest) -> files_pb2.GetUploadResponse:
        upload = self._find(request.upload_id, request.request_id)
        if upload is None:
            raise TransferError(Reason.UPLOAD_UNKNOWN, "no such upload")
        status = self._status(upload)
        if request.include_digest and upload.staged:
            status.staged_digest.CopyFrom(digest_of(bytes(upload.staged), upload.algorithm))
        if self.verifying_answers:
            self.verifying_answers -= 1
            status.ClearField("result")
            status.state = files_pb2.UPLOAD_STATE_VERIFYING
        return files_pb2.GetUploadResponse(upload=status)

    def _list_uploads(self, _request: files_pb2.ListUploadsRequest) -> files_pb2.ListUploadsResponse:
        receiving = [u for u in self.uploads.values() if u.state == files_pb2.UPLOAD_STATE_RECEIVING]
        return files_pb2.ListUploadsResponse(
            uploads=[self._status(u) for u in receiving], staged_bytes=sum(len(u.staged) for u in receiving)
        )

    def _abort_upload(self, request: files_pb2.AbortUploadRequest) -> files_pb2.AbortUploadResponse:
        upload = self._find(request.upload_id, "")
        if upload is None:
            raise TransferError(Reason.UPLOAD_UNKNOWN, "no such upload")
        if upload.state == files_pb2.UPLOAD_STATE_RECEIVING:
            upload.state = files_pb2.UPLOAD_STATE_ABORTED
            upload.staged.clear()
        return files_pb2.AbortUploadResponse(upload=self._status(upload))

    def _upload(
        self, requests: Iterator[files_pb2.UploadFileRequest], context: Context
    ) -> files_pb2.UploadFileResponse | bytes:
        with self._failing(context):
            truth = self._receive(requests, context)
            return self.answers.get(methods.UPLOAD_FILE, truth)
        raise AssertionError

    def _write(
        self, request: files_pb2.WriteFileRequest, context: Context
    ) -> files_pb2.WriteFileResponse | bytes:
        """Carry the messages out that the request stands for (UPL-16)."""
        if not self.has_write:
            self.unknown_writes += 1
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        finish = files_pb2.UploadFinish(size_bytes=len(request.content), digest=request.digest)
        messages = [files_pb2.UploadFileRequest(finish=finish)]
        if request.content:
            data = files_pb2.FileChunk(data=request.content, crc32c=request.crc32c)
            messages.insert(0, files_pb2.UploadFileRequest(data=data))
        first = files_pb2.UploadFileRequest(metadata=request.metadata)
        with self._forgetting(request.metadata.request_id), self._failing(context):
            response = self._receive_upload(first, iter(messages), context, methods.WRITE_FILE)
            return self.answers.get(
                methods.WRITE_FILE,
                files_pb2.WriteFileResponse(
                    file=response.file, durability=response.durability, replayed=response.replayed
                ).SerializeToString(),
            )
        raise AssertionError

    @contextmanager
    def _forgetting(self, request_id: str) -> Generator[None]:
        try:
            yield
        finally:
            upload = self._find("", request_id)
            if (
                self.forgets_writes
                and upload is not None
                and upload.state == files_pb2.UPLOAD_STATE_RECEIVING
            ):
                del self.uploads[upload.upload_id]

    def _receive(
        self, requests: Iterator[files_pb2.UploadFileRequest], context: Context
    ) -> files_pb2.UploadFileResponse:
        first = next(requests)
        if first.WhichOneof("payload") == "lane":
            return self._carry_lane(first, requests, context)
        try:
            return self._receive_upload(
                first, self.lanes.merged(first.metadata, requests, self._gone(context)), context
            )
        finally:
            self.lanes.end(first.metadata)

    def _carry_lane(
        self,
        first: files_pb2.UploadFileRequest,
        requests: Iterator[files_pb2.UploadFileRequest],
        context: Context,
    ) -> files_pb2.UploadFileResponse:
        with self._lock:
            self._admit("lane", first, context)
        self.lanes.carry(first.lane, requests, self._gone(context))
        return files_pb2.UploadFileResponse()

    def _gone(self, context: Context) -> Callable[[], bool]:
        return lambda: self.stopping.is_set() or not context.is_active()

    def _receive_upload(
        self,
        first: files_pb2.UploadFileRequest,
        requests: Iterator[files_pb2.UploadFileRequest],
        context: Context,
        method: str = methods.UPLOAD_FILE,
    ) -> files_pb2.UploadFileResponse:
        with self._lock:
            self._streams[methods.UPLOAD_FILE] += 1
            number = self._streams[methods.UPLOAD_FILE]
            messages = [first]
            self.upload_messages.append(messages)
            self._admit(method, first, context)
            metadata = first.metadata
            upload = None if metadata.is_archive else self._find(metadata.upload_id, metadata.request_id)
            if upload is None:
                if metadata.upload_id:
                    raise TransferError(Reason.UPLOAD_UNKNOWN, "no such upload")
                upload = self._new_upload(metadata)
                upload.epoch = metadata.epoch
        received = len(upload.staged)
        for request in requests:
            if self.keep_messages:
                messages.append(request)
            if self.on_upload_message is not None:
                self.on_upload_message(number, upload, request)
            with self._lock:
                if upload.epoch != metadata.epoch:
                    raise TransferError(Reason.SUPERSEDED, "a newer attempt has taken over")
                if upload.state == files_pb2.UPLOAD_STATE_ABORTED:
                    raise TransferError(Reason.UPLOAD_ABORTED, "it was given up")
                if request.WhichOneof("payload") == "finish":
                    response = self._finish(upload, request.finish)
                    if self.after_publish is not None:
                        self.after_publish(number)
                    return response
                if request.HasField("waiting"):
                    continue
                received = self._stage(upload, request.data, received)
        raise TransferError(Reason.UPLOAD_INCOMPLETE, "the stream ended without a finish")

    def _stage(self, upload: FakeUpload, chunk: files_pb2.FileChunk, received: int) -> int:
        if chunk.offset != received:
            raise TransferError(
                Reason.OFFSET_MISMATCH,
                "a gap",
                {"expected_offset": str(received), "provided_offset": str(chunk.offset)},
            )
        if chunk.hole_bytes:
            upload.holes.append((chunk.offset, chunk.hole_bytes))
            upload.staged += bytes(chunk.hole_bytes)
            return len(upload.staged)
        if len(chunk.data) > self.max_chunk_bytes:
            raise TransferError(Reason.CHUNK_TOO_LARGE, f"{len(chunk.data)} bytes")
        if crc32c(chunk.data) != chunk.crc32c:
            raise TransferError(Reason.CHUNK_CHECKSUM, "wrong CRC-32C")
        upload.staged += chunk.data
        return len(upload.staged)

    def _finish(self, upload: FakeUpload, finish: files_pb2.UploadFinish) -> files_pb2.UploadFileResponse:
        if upload.finish is not None and upload.result is not None:
            if upload.finish != finish:
                raise TransferError(Reason.FINISH_CONFLICT, "finished otherwise before")
            upload.result.replayed = True
            return upload.result
        content = bytes(upload.staged)
        self._check_condition(upload)
        if len(content) != finish.size_bytes:
            self._refuse(upload, Reason.SIZE_MISMATCH)
        if finish.digest != digest_of(content, upload.algorithm):
            self._refuse(upload, Reason.DIGEST_MISMATCH)
        metadata = upload.metadata
        file = FakeFile(
            content,
            metadata.mode & 0o777 if metadata.mode else 0o644,
            metadata.modified_time.ToNanoseconds() if metadata.HasField("modified_time") else 1,
            f"v{next(self._versions)}",
            tuple(upload.holes),
        )
        self.files[metadata.remote_path] = file
        upload.finish = finish
        upload.state = files_pb2.UPLOAD_STATE_PUBLISHED
        upload.result = self._response(upload, file)
        return upload.result

    def publish(self, upload: FakeUpload) -> None:
        """Carry a finish of the staged bytes out."""
        content = bytes(upload.staged)
        with self._lock:
            finish = files_pb2.UploadFinish(
                size_bytes=len(content), digest=digest_of(content, upload.algorithm)
            )
            self._finish(upload, finish)

    def _refuse(self, upload: FakeUpload, reason: Reason) -> NoReturn:
        upload.state = files_pb2.UPLOAD_STATE_ABORTED
        upload.failure = reason.name
        upload.staged.clear()
        raise TransferError(reason, reason.row.meaning)

    def _check_condition(self, upload: FakeUpload) -> None:
        condition = upload.metadata.condition
        there = self.files.get(upload.metadata.remote_path)
        match condition.WhichOneof("condition"):
            case "absent" if there is not None:
                raise TransferError(Reason.FILE_EXISTS, "something is there")
            case "present" if there is None:
                raise TransferError(Reason.CONDITION_FAILED, "nothing is there")
            case "version" if there is None or there.version != condition.version:
                raise TransferError(Reason.CONDITION_FAILED, "another version")
            case "digest" if there is None or condition.digest != digest_of(
                there.content, condition.digest.algorithm
            ):
                raise TransferError(Reason.CONDITION_FAILED, "another content")
            case _:
                pass

    def _find(self, upload_id: str, request_id: str) -> FakeUpload | None:
        if upload_id:
            return self.uploads.get(upload_id)
        return next((u for u in self.uploads.values() if u.metadata.request_id == request_id), None)

    def _new_upload(self, metadata: files_pb2.UploadFileMetadata) -> FakeUpload:
        algorithm = self._choose(metadata.accepted_digests)
        upload = FakeUpload(f"upload-{next(self._numbers)}", metadata, algorithm=algorithm)
        self.uploads[upload.upload_id] = upload
        return upload

    def _status(self, upload: FakeUpload) -> files_pb2.UploadStatus:
        return files_pb2.UploadStatus(
            upload_id=upload.upload_id,
            request_id=upload.metadata.request_id,
            state=upload.state,
            path=upload.metadata.remote_path,
            size_bytes=upload.metadata.size_bytes,
            staged_bytes=len(upload.staged),
            durable_bytes=len(upload.staged) // 2,
            epoch=upload.epoch,
            result=upload.result,
            failure_reason=upload.failure,
            digest_algorithm=upload.algorithm,
        )

    def _response(self, upload: FakeUpload, file: FakeFile) -> files_pb2.UploadFileResponse:
        return files_pb2.UploadFileResponse(
            bytes_written=len(file.content),
            file=info_of(upload.metadata.remote_path, file, upload.algorithm),
            upload_id=upload.upload_id,
            durability=upload.metadata.durability,
            archive=self.archive if upload.metadata.is_archive else None,
        )


def _anonymous(metadata: files_pb2.UploadFileMetadata) -> files_pb2.UploadFileMetadata:
    copy = files_pb2.UploadFileMetadata()
    copy.CopyFrom(metadata)
    for name in ("request_id", "upload_id", "epoch", "accepted_digests"):
        copy.ClearField(name)
    return copy


def _differences(upload: FakeUpload, metadata: files_pb2.UploadFileMetadata) -> list[str]:
    """Return the fields of a request in which it differs from the upload's first (RSM-11)."""
    first, now = _anonymous(upload.metadata), _anonymous(metadata)
    names = [
        field.name
        for field in first.DESCRIPTOR.fields
        if getattr(first, field.name) != getattr(now, field.name)
    ]
    if upload.algorithm not in (metadata.accepted_digests or [SHA256]):
        names.append("accepted_digests")
    return [f"metadata.{name}" for name in names]
