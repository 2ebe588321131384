"""The rules of an upload to the suite's sandbox: starting, content, finish, and repetition of each."""

from __future__ import annotations

import time
from typing import Final

from openshell_files_conformance.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_conformance.peers.model_files import (
    SHA256,
    ModelFiles,
    Refused,
    Upload,
    chosen,
    crc32c,
    differences,
    digest_value,
    invalid,
)

_RECEIVING: Final = files_pb2.UPLOAD_STATE_RECEIVING
_PUBLISHED: Final = files_pb2.UPLOAD_STATE_PUBLISHED
_MAX_WRITE: Final = 1032192
#: What a StartUpload, or the metadata of a stream, says of an upload: the frame that opens the operation.
Opened = file_relay_pb2.FileRelayOpen


def _checked(files: ModelFiles, opened: Opened, metadata: files_pb2.UploadFileMetadata) -> str:
    """Refuse what the metadata alone shows; return the destination's path."""
    if metadata.is_archive:
        raise Refused("ARCHIVE_UNSUPPORTED", "archives are not transferred")
    if metadata.mode & ~0o107777 or metadata.mode & 0o170000 not in {0, 0o100000}:
        raise invalid("metadata.mode")
    if len(metadata.accepted_digests) > 16:
        raise invalid("metadata.accepted_digests")
    if (
        metadata.HasField("modified_time")
        and not -62135596800 <= metadata.modified_time.seconds <= 253402300799
    ):
        raise invalid("metadata.modified_time")
    path = files.resolved(
        metadata.remote_path,
        field_name="metadata.remote_path",
        parents=metadata.parents,
        absent=metadata.condition.HasField("absent"),
    )
    limit = opened.limits.max_file_bytes
    if limit and metadata.size_bytes > limit:
        raise Refused("FILE_TOO_LARGE", "the declared size is too large", max_file_bytes=limit)
    return path


def _found(files: ModelFiles, opened: Opened, metadata: files_pb2.UploadFileMetadata) -> Upload | None:
    """Return the upload that a request names, if its request is the same."""
    upload = files.find(opened.principal, metadata.upload_id, metadata.request_id)
    if upload is None:
        if metadata.upload_id:
            raise Refused("UPLOAD_UNKNOWN", "there is no such upload")
        return None
    other = differences(upload.first, metadata)
    if other:
        refused = Refused("UPLOAD_CONFLICT", "the request differs from the first one")
        refused.frame.metadata["fields"] = ",".join(other)
        raise refused
    if upload.algorithm not in (list(metadata.accepted_digests) or [SHA256]):
        raise Refused(
            "UPLOAD_CONFLICT", "the upload has another digest", fields=["metadata.accepted_digests"]
        )
    return upload


def _new(
    files: ModelFiles, opened: Opened, metadata: files_pb2.UploadFileMetadata, *, named: bool, path: str
) -> Upload:
    if metadata.HasField("condition"):
        files.check_condition(path, metadata.condition, opened.digests)
    upload = Upload(
        opened.principal, metadata, path, chosen(metadata.accepted_digests, opened.digests), named
    )
    files.admit(upload, opened.limits.max_uploads_per_principal)
    return upload


def start_upload(files: ModelFiles, opened: Opened, request: files_pb2.StartUploadRequest) -> Upload:
    """Admit an upload, find it again, or take it over."""
    metadata = request.metadata
    path = _checked(files, opened, metadata)
    if request.HasField("digest") and request.digest.algorithm not in (
        list(metadata.accepted_digests) or [SHA256]
    ):
        raise invalid("digest.algorithm")
    upload = _found(files, opened, metadata)
    if upload is not None:
        if upload.state == _RECEIVING:
            upload.epoch += 1
        elif metadata.upload_id and upload.state != _PUBLISHED:
            raise _ended(upload)
        return upload
    upload = _new(files, opened, metadata, named=True, path=path)
    upload.epoch = 1
    there = files.files.get(path)
    digest = request.digest
    if (
        there is not None
        and request.HasField("digest")
        and metadata.size_bytes == len(there.content)
        and digest_value(there.content, digest.algorithm) == digest.value
    ):
        upload.algorithm = digest.algorithm
        result = files.publish(upload, there.content, with_digest=True)
        result.already_identical = True
    return upload


def _ended(upload: Upload) -> Refused:
    if upload.state == files_pb2.UPLOAD_STATE_EXPIRED:
        return Refused("UPLOAD_EXPIRED", "the upload has expired")
    return Refused("UPLOAD_ABORTED", "the upload was aborted")


def begin(files: ModelFiles, opened: Opened, metadata: files_pb2.UploadFileMetadata) -> Attempt:
    """Begin a stream of an upload."""
    path = _checked(files, opened, metadata)
    named = bool(metadata.upload_id or metadata.request_id)
    upload = _found(files, opened, metadata)
    if upload is None:
        upload = _new(files, opened, metadata, named=named, path=path)
        upload.epoch = 1
    elif upload.state == _PUBLISHED:
        return Attempt(files, opened, upload, metadata, replay=True)
    elif upload.state != _RECEIVING:
        if metadata.upload_id:
            raise _ended(upload)
        files.uploads.remove(upload)
        upload = _new(files, opened, metadata, named=True, path=path)
    elif metadata.upload_id:
        if not 0 < metadata.epoch <= upload.epoch:
            raise invalid("metadata.epoch")
        if metadata.epoch < upload.epoch:
            raise Refused("SUPERSEDED", "a newer attempt has taken the upload over")
    else:
        upload.epoch += 1
        upload.staged.clear()
    return Attempt(files, opened, upload, metadata)


class Attempt:
    """One stream of an upload.

    Attributes:
        explicit: it ends with an UploadFinish.
    """

    def __init__(
        self,
        files: ModelFiles,
        opened: Opened,
        upload: Upload,
        metadata: files_pb2.UploadFileMetadata,
        *,
        replay: bool = False,
    ) -> None:
        self.upload = upload
        self.explicit = metadata.explicit_finish or bool(metadata.upload_id)
        self._files = files
        self._opened = opened
        self._epoch = upload.epoch
        self._replay = replay
        self._kind = ""
        self._resumed_from = len(upload.staged)
        self._received = 0
        self._ended = False

    @property
    def outdated(self) -> bool:
        """Whether the stream may not go on: a newer attempt came, or the upload was ended."""
        if self._replay:
            return False
        return self.upload.epoch != self._epoch or self.upload.state not in {_RECEIVING, _PUBLISHED}

    def superseded(self) -> Refused:
        """Return why it may not."""
        if self.upload.epoch != self._epoch:
            return Refused("SUPERSEDED", "a newer attempt has taken the upload over")
        return _ended(self.upload)

    def take(self, message: files_pb2.UploadFileRequest) -> files_pb2.UploadFinish | None:
        """Take a message; return the finish if it is one."""
        if self.outdated:
            raise self.superseded()
        kind = message.WhichOneof("payload") or "payload"
        match kind:
            case "chunk" | "data":
                if self._kind and kind != self._kind:
                    raise invalid(kind)
                self._kind = kind
                self._content(message, kind)
            case "waiting":
                pass
            case "finish":
                if not self.explicit:
                    raise invalid("finish")
                return self._finish(message.finish)
            case _:
                raise invalid(kind)
        self.upload.updated = time.monotonic()
        return None

    def _content(self, message: files_pb2.UploadFileRequest, kind: str) -> None:
        chunk = message.data if kind == "data" else files_pb2.FileChunk(data=message.chunk)
        limit = self._opened.max_chunk_bytes
        if limit and len(chunk.data) > limit:
            raise Refused("CHUNK_TOO_LARGE", "the chunk is too large", max_chunk_bytes=limit)
        if kind == "data" and bool(chunk.data) == bool(chunk.hole_bytes):
            raise invalid("data.hole_bytes" if chunk.data else "data")
        if self._replay:
            self._received += len(chunk.data) + chunk.hole_bytes
            return
        at = len(self.upload.staged)
        if kind == "data" and chunk.offset != at:
            raise Refused(
                "OFFSET_MISMATCH",
                "not the end of what came",
                expected_offset=at,
                provided_offset=chunk.offset,
            )
        size = at + len(chunk.data) + chunk.hole_bytes
        most = self._opened.limits.max_file_bytes
        if most and size > most:
            raise Refused("FILE_TOO_LARGE", "the file is too large", max_file_bytes=most)
        declared = self.upload.first.size_bytes
        if size > declared and (declared or not self.explicit):
            if not self.explicit:
                self.upload.end(files_pb2.UPLOAD_STATE_ABORTED, "SIZE_MISMATCH")
            raise Refused("SIZE_MISMATCH", "more than declared", expected_size=declared, actual_size=size)
        if kind == "data" and crc32c(chunk.data) != chunk.crc32c:
            raise Refused("CHUNK_CHECKSUM", "the CRC-32C is another", expected_offset=at)
        self.upload.staged += chunk.data or bytes(chunk.hole_bytes)

    def _finish(self, finish: files_pb2.UploadFinish) -> files_pb2.UploadFinish:
        upload = self.upload
        if finish.digest.algorithm != upload.algorithm:
            raise invalid("finish.digest.algorithm")
        if len(finish.digest.value) != 32:
            raise invalid("finish.digest.value")
        if self._replay:
            if finish != upload.finish:
                raise Refused("FINISH_CONFLICT", "the upload was finished otherwise")
            return finish
        size, declared = len(upload.staged), upload.first.size_bytes
        if finish.size_bytes != size:
            raise self._refused("SIZE_MISMATCH", expected_size=finish.size_bytes, actual_size=size)
        if declared and declared != size:
            raise self._refused("SIZE_MISMATCH", expected_size=declared, actual_size=size)
        if digest_value(bytes(upload.staged), upload.algorithm) != finish.digest.value:
            raise self._refused("DIGEST_MISMATCH")
        return finish

    def _refused(self, reason: str, **metadata: object) -> Refused:
        self.upload.end(files_pb2.UPLOAD_STATE_ABORTED, reason)
        refused = Refused(reason, "the finish does not fit the content")
        refused.frame.metadata.update({name: str(value) for name, value in metadata.items()})
        return refused

    def input_end(self, *, cancelled: bool) -> files_pb2.UploadFinish | None:
        """Take the end of the caller's stream; return the finish if it is one."""
        received = self._received if self._replay else len(self.upload.staged)
        if cancelled or self.explicit:
            raise Refused("UPLOAD_INCOMPLETE", "the stream ended without a finish", received_bytes=received)
        if received != self.upload.first.size_bytes:
            raise self._refused(
                "SIZE_MISMATCH", expected_size=self.upload.first.size_bytes, actual_size=received
            )
        return files_pb2.UploadFinish(size_bytes=received)

    def publish(self, finish: files_pb2.UploadFinish) -> files_pb2.UploadFileResponse:
        """Carry a finish out, or repeat its answer."""
        upload = self.upload
        if self._replay and upload.result is not None:
            repeated = files_pb2.UploadFileResponse()
            repeated.CopyFrom(upload.result)
            repeated.replayed = True
            return repeated
        if self.outdated:
            raise self.superseded()
        if upload.first.HasField("condition"):
            try:
                self._files.check_condition(upload.path, upload.first.condition, self._opened.digests)
            except Refused as refused:
                upload.end(files_pb2.UPLOAD_STATE_ABORTED, refused.reason)
                raise
        upload.finish = finish
        digested = self.explicit or bool(upload.first.request_id or upload.first.accepted_digests)
        result = self._files.publish(upload, bytes(upload.staged), with_digest=digested)
        result.resumed_from = self._resumed_from
        return result

    def leave(self) -> None:
        """End the stream; what nobody can name again is forgotten (RSM-36)."""
        self.upload.streams -= 1
        if not self.upload.named and self.upload in self._files.uploads:
            self._files.uploads.remove(self.upload)


def write_file(
    files: ModelFiles, opened: Opened, request: files_pb2.WriteFileRequest
) -> files_pb2.WriteFileResponse:
    """Carry out a WriteFile as an upload with a finish (UPL-16)."""
    metadata, content = files_pb2.UploadFileMetadata(), request.content
    metadata.CopyFrom(request.metadata)
    if metadata.size_bytes not in {0, len(content)}:
        raise invalid("metadata.size_bytes")
    for name in ("upload_id", "lanes"):
        if getattr(metadata, name):
            raise invalid(f"metadata.{name}")
    if len(content) > _MAX_WRITE:
        raise invalid("content")
    if not metadata.accepted_digests:
        metadata.accepted_digests.append(request.digest.algorithm)
    if request.digest.algorithm not in metadata.accepted_digests:
        raise invalid("digest.algorithm")
    metadata.explicit_finish, metadata.size_bytes = True, len(content)
    wide = Opened()
    wide.CopyFrom(opened)
    wide.max_chunk_bytes = 0
    only = files_pb2.UploadFileMetadata()
    only.CopyFrom(metadata)
    del only.accepted_digests[:]
    only.accepted_digests.append(request.digest.algorithm)
    attempt = begin(files, wide, only)
    attempt.upload.streams += 1
    try:
        if content:
            chunk = files_pb2.FileChunk(data=content, crc32c=request.crc32c)
            attempt.take(files_pb2.UploadFileRequest(data=chunk))
        elif request.crc32c:
            raise Refused("CHUNK_CHECKSUM", "the CRC-32C is another", expected_offset=0)
        finish = files_pb2.UploadFinish(size_bytes=len(content), digest=request.digest)
        attempt.take(files_pb2.UploadFileRequest(finish=finish))
        result = attempt.publish(finish)
    finally:
        attempt.leave()
        if attempt.upload.result is None and attempt.upload in files.uploads and not attempt.upload.failure:
            files.uploads.remove(attempt.upload)
    return files_pb2.WriteFileResponse(
        file=result.file, durability=result.durability, replayed=result.replayed
    )
