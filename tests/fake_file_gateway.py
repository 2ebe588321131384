# ruff: noqa: N818 - what hooks raise are instructions, not errors
"""A gateway, supervisor and sandbox in memory that obeys docs/protocol.md, and misbehaves on demand."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar, cast

import grpc
from digest_values import BLAKE3, SHA256, Algorithm, digest_of
from fake_lanes import FakeLanes
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from openshell_files_protocol import limits, methods
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import ERROR_DOMAIN, Reason

Context = grpc.ServicerContext
_Request = TypeVar("_Request", bound=Message)


class Stall(Exception):
    """Raised by a hook: the server says nothing until the client leaves."""


class EndWithoutWord(Exception):
    """Raised by a hook: the server ends the stream with status OK."""


@dataclass
class PlainStatus(Exception):
    """Raised by a hook: a status without details, as gRPC itself or a proxy makes it."""

    code: grpc.StatusCode
    details: str = ""
    #: Of the trailing metadata, as they are.
    status: bytes = b""


@dataclass
class FakeFile:
    content: bytes
    mode: int = 0o644
    modified_ns: int = 1_700_000_000_123_456_789
    version: str = "v1"
    holes: tuple[tuple[int, int], ...] = ()


@dataclass
class FakeUpload:
    upload_id: str
    metadata: files_pb2.UploadFileMetadata
    state: files_pb2.UploadState.ValueType = files_pb2.UPLOAD_STATE_RECEIVING
    staged: bytearray = field(default_factory=bytearray)
    holes: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    epoch: int = 1
    result: files_pb2.UploadFileResponse | None = None
    finish: files_pb2.UploadFinish | None = None
    failure: str = ""
    algorithm: Algorithm = SHA256


#: Called for each message of an upload stream, with the stream's number from 1.
UploadHook = Callable[[int, FakeUpload, files_pb2.UploadFileRequest], None]
#: Turns what a download would send into what it sends.
DownloadHook = Callable[
    [int, Iterator[files_pb2.DownloadFileResponse]], Iterable["files_pb2.DownloadFileResponse | bytes"]
]


def _nothing() -> None:
    """Nobody wants to know."""


class FakeGateway:
    """Serves on a free loopback port from `start` to `stop`."""

    def __init__(self, *, max_chunk_bytes: int = limits.MAX_CHUNK_BYTES) -> None:
        self.max_chunk_bytes = max_chunk_bytes
        #: Which digests it computes (DIG-3).
        self.digests: list[Algorithm] = [BLAKE3, SHA256]
        #: Answers with this one whatever was asked for.
        self.insists_on: Algorithm | None = None
        #: How many streams an upload may have (LAN-1).
        self.upload_lanes = 0
        #: Whether it has WriteFile (UPL-16), and how often it was called without.
        self.has_write = True
        self.unknown_writes = 0
        #: Whether it forgets an unfinished WriteFile when the call ends (UPL-59).
        self.forgets_writes = False
        #: How many transfers one caller may run (RLY-9); 0 says nothing.
        self.max_concurrent_transfers = 0
        #: How long a caller may say `waiting`, and how soon standing still ends an upload (WAI-2), in seconds.
        self.max_pause = 0.0
        self.idle_timeout = 0.0
        #: Per unary method: called for each call, before anything else is done with it.
        self.before: dict[str, Callable[[], object]] = {}
        #: Methods that it does not have.
        self.lacks: set[str] = set()
        self.lanes = FakeLanes()
        self.files: dict[str, FakeFile] = {}
        self.uploads: dict[str, FakeUpload] = {}
        #: (method, request or first message), in order.
        self.calls: list[tuple[str, Message]] = []
        self.tokens: list[str | None] = []
        self.accepted_tokens: set[str] | None = None
        #: Per method: what the next calls fail with. None lets one pass.
        self.failures: dict[str, deque[Exception | None]] = defaultdict(deque)
        # Most tests ask what becomes of an upload, whichever of the two carries it.
        self.failures[methods.WRITE_FILE] = self.failures[methods.UPLOAD_FILE]
        #: Per method: what is answered instead of the truth. WriteFile answers what is in its terms.
        self.answers: dict[str, bytes] = {}
        self.on_upload_message: UploadHook | None = None
        self.after_publish: Callable[[int], None] | None = None
        self.on_download: DownloadHook | None = None
        #: GetUpload answers VERIFYING so many times before the truth.
        self.verifying_answers = 0
        self.upload_messages: list[list[files_pb2.UploadFileRequest]] = []
        self.keep_messages = True
        self.download_chunk = 64 * 1024
        self.stopping = threading.Event()
        self._numbers = itertools.count(1)
        self._versions = itertools.count(2)
        self._lock = threading.RLock()
        self._streams = {methods.UPLOAD_FILE: 0, methods.DOWNLOAD_FILE: 0}
        self._server: grpc.Server | None = None
        self.address = ""

    # Life

    def start(self, credentials: grpc.ServerCredentials | None = None) -> None:
        server = grpc.server(
            ThreadPoolExecutor(16),
            options=[("grpc.max_receive_message_length", limits.MAX_MESSAGE_BYTES), ("grpc.so_reuseport", 0)],
        )
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "UploadFile": grpc.stream_unary_rpc_method_handler(
                self._upload, files_pb2.UploadFileRequest.FromString, _serialize
            ),
            "DownloadFile": grpc.unary_stream_rpc_method_handler(
                self._download, files_pb2.DownloadFileRequest.FromString, _serialize
            ),
            "StartUpload": self._unary(
                methods.START_UPLOAD, self._start_upload, files_pb2.StartUploadRequest.FromString
            ),
            "GetUpload": self._unary(
                methods.GET_UPLOAD, self._get_upload, files_pb2.GetUploadRequest.FromString
            ),
            "ListUploads": self._unary(
                methods.LIST_UPLOADS, self._list_uploads, files_pb2.ListUploadsRequest.FromString
            ),
            "AbortUpload": self._unary(
                methods.ABORT_UPLOAD, self._abort_upload, files_pb2.AbortUploadRequest.FromString
            ),
            "WriteFile": grpc.unary_unary_rpc_method_handler(
                self._write, files_pb2.WriteFileRequest.FromString, _serialize
            ),
            "StatFile": self._unary(methods.STAT_FILE, self._stat, files_pb2.StatFileRequest.FromString),
            "GetTransferCapabilities": self._unary(
                methods.GET_TRANSFER_CAPABILITIES,
                self._capabilities,
                files_pb2.GetTransferCapabilitiesRequest.FromString,
            ),
        }
        for name in self.lacks:
            del handlers[name]
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(methods.SERVICE, handlers),))
        where = "127.0.0.1:0" if not self.address else self.address
        port = (
            server.add_insecure_port(where)
            if credentials is None
            else server.add_secure_port(where, credentials)
        )
        self.address = f"127.0.0.1:{port}"
        self.stopping.clear()
        server.start()
        self._server = server

    def stop(self) -> None:
        self.stopping.set()
        if self._server is not None:
            self._server.stop(None).wait(10)
            self._server = None

    def method_calls(self, method: str) -> list[Message]:
        return [request for name, request in self.calls if name == method]

    def streams(self, method: str) -> int:
        """Count the calls that carried content; those of WriteFile are uploads."""
        return self._streams[method]

    # Every call

    def _admit(self, method: str, request: Message, context: Context) -> None:
        self.calls.append((method, request))
        sent = dict(context.invocation_metadata() or ())
        authorization = cast("str | None", sent.get("authorization"))
        self.tokens.append(authorization)
        if self.accepted_tokens is not None:
            token = (authorization or "").removeprefix("Bearer ")
            if token not in self.accepted_tokens:
                raise TransferError(Reason.TOKEN_EXPIRED, "the token has expired")
        if self.failures[method]:
            failure = self.failures[method].popleft()
            if failure is not None:
                raise failure

    def _unary(
        self,
        method: str,
        behaviour: Callable[[_Request], Message],
        parse: Callable[[bytes], _Request],
    ) -> grpc.RpcMethodHandler[Any, Any]:
        def handler(request: _Request, context: Context) -> Message | bytes:
            self.before.get(method, _nothing)()
            with self._failing(context), self._lock:
                self._admit(method, request, context)
                truth = behaviour(request) if method not in self.answers else None
                return self.answers[method] if truth is None else truth
            raise AssertionError

        return grpc.unary_unary_rpc_method_handler(handler, parse, _serialize)

    def _failing(self, context: Context) -> _Failing:
        return _Failing(self, context)

    # Uploads

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
            upload = self._find(metadata.upload_id, metadata.request_id)
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

    def _choose(self, accepted: Iterable[Algorithm]) -> Algorithm:
        if self.insists_on is not None:
            return self.insists_on
        for algorithm in list(accepted) or [SHA256]:
            if algorithm in self.digests:
                return algorithm
        raise TransferError(Reason.DIGEST_UNSUPPORTED, "none of these is computed here")

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
            file=_info(upload.metadata.remote_path, file, upload.algorithm),
            upload_id=upload.upload_id,
            durability=upload.metadata.durability,
        )

    def _capabilities(
        self, _request: files_pb2.GetTransferCapabilitiesRequest
    ) -> files_pb2.GetTransferCapabilitiesResponse:
        told = files_pb2.GetTransferCapabilitiesResponse(
            max_chunk_bytes=self.max_chunk_bytes, max_concurrent_transfers=self.max_concurrent_transfers
        )
        told.idle_timeout.FromNanoseconds(round(self.idle_timeout * 1e9))
        if self.upload_lanes > 1:
            told.lanes.max_lanes = self.upload_lanes
        if self.max_pause:
            told.waiting.max_pause.FromNanoseconds(round(self.max_pause * 1e9))
        return told

    # Downloads

    def _stat(self, request: files_pb2.StatFileRequest) -> files_pb2.StatFileResponse:
        file = self._file(request.remote_path)
        return files_pb2.StatFileResponse(
            file=_info(
                request.remote_path,
                file,
                self._choose(request.accepted_digests) if request.include_digest else None,
            ),
        )

    def _file(self, path: str) -> FakeFile:
        file = self.files.get(path)
        if file is None:
            raise TransferError(Reason.FILE_NOT_FOUND, f"{path}: no such file")
        return file

    def _download(
        self, request: files_pb2.DownloadFileRequest, context: Context
    ) -> Iterator[files_pb2.DownloadFileResponse | bytes]:
        with self._failing(context):
            with self._lock:
                self._streams[methods.DOWNLOAD_FILE] += 1
                number = self._streams[methods.DOWNLOAD_FILE]
                self._admit(methods.DOWNLOAD_FILE, request, context)
                file = self._file(request.remote_path)
            honest = self.messages_of(file, request)
            yield from honest if self.on_download is None else self.on_download(number, honest)

    def messages_of(
        self, file: FakeFile, request: files_pb2.DownloadFileRequest
    ) -> Iterator[files_pb2.DownloadFileResponse]:
        size = len(file.content)
        if request.if_version and request.if_version != file.version:
            raise TransferError(Reason.VERSION_MISMATCH, f"the file is {file.version}")
        start = max(0, size - request.tail_bytes) if request.tail_bytes else request.offset
        if start > size:
            raise TransferError(Reason.RANGE_INVALID, "behind the end")
        end = min(size, start + request.length) if request.HasField("length") else size
        algorithm = self._choose(request.accepted_digests)
        yield files_pb2.DownloadFileResponse(
            header=files_pb2.DownloadFileHeader(
                size_bytes=size,
                mode=file.mode,
                file=_info(request.remote_path, file),
                start_offset=start,
                digest_algorithm=algorithm,
            )
        )
        position = start
        while position < end:
            hole = next((h for h in file.holes if h[0] == position and sum(h) <= end), None)
            if hole is not None:
                yield files_pb2.DownloadFileResponse(
                    data=files_pb2.FileChunk(offset=position, hole_bytes=hole[1])
                )
                position += hole[1]
                continue
            data = file.content[position : min(end, position + self.download_chunk)]
            yield files_pb2.DownloadFileResponse(
                data=files_pb2.FileChunk(offset=position, data=data, crc32c=crc32c(data))
            )
            position += len(data)
        yield files_pb2.DownloadFileResponse(
            trailer=files_pb2.DownloadTrailer(
                end_offset=end,
                digest=digest_of(file.content[start:end], algorithm),
                whole_file=start == 0 and end == size,
                file=_info(request.remote_path, file),
            )
        )


class _Failing:
    """Turns what hooks raise into how a call ends."""

    def __init__(self, gateway: FakeGateway, context: Context) -> None:
        self._gateway = gateway
        self._context = context

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if isinstance(error, TransferError):
            self._context.set_trailing_metadata((("grpc-status-details-bin", details_of(error)),))
            self._context.abort(_grpc_code(error.code), error.message)
        if isinstance(error, PlainStatus):
            if error.status:
                self._context.set_trailing_metadata((("grpc-status-details-bin", error.status),))
            self._context.abort(error.code, error.details)
        if isinstance(error, Stall):
            left = threading.Event()
            if self._context.add_callback(left.set):
                while not left.wait(0.05) and not self._gateway.stopping.is_set():
                    pass
            self._context.abort(grpc.StatusCode.CANCELLED, "stalled")
        return isinstance(error, EndWithoutWord)


def _grpc_code(number: int) -> grpc.StatusCode:
    return next(code for code in grpc.StatusCode if code.value[0] == number)


def _serialize(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


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


def _info(path: str, file: FakeFile, algorithm: Algorithm | None = None) -> files_pb2.FileInfo:
    info = files_pb2.FileInfo(
        path=f"/{path.lstrip('/')}",
        type=files_pb2.FILE_TYPE_REGULAR,
        size_bytes=len(file.content),
        mode=file.mode,
        version=file.version,
        digest=None if algorithm is None else digest_of(file.content, algorithm),
    )
    info.modified_time.FromNanoseconds(file.modified_ns)
    return info


def details_of(error: TransferError) -> bytes:
    """Return google.rpc.Status for an error, as the gateway sends it."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            domain=ERROR_DOMAIN, reason=error.reason.name, metadata=dict(error.metadata)
        )
    ]
    if error.retry_delay is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_delay * 1e9))
        details.append(retry)
    if error.field_violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
                    for v in error.field_violations
                ]
            )
        )
    packed: list[AnyMessage] = []
    for detail in details:
        wrapped = AnyMessage()
        wrapped.Pack(detail)
        packed.append(wrapped)
    status = status_pb2.Status(code=int(error.code), message=error.message, details=packed)
    return status.SerializeToString()
