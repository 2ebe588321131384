"""State, settings and admission of the fake gateway, which its uploads and downloads share."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import grpc
from digest_values import BLAKE3, SHA256, Algorithm, digest_of
from fake_failures import Failing
from fake_lanes import FakeLanes
from google.protobuf.message import Message
from openshell_files_protocol import limits, methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

Context = grpc.ServicerContext
_Request = TypeVar("_Request", bound=Message)


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


class FakeBase:
    """What both directions need: files, uploads, settings, and a record of every call."""

    def __init__(self, *, max_chunk_bytes: int = limits.MAX_CHUNK_BYTES) -> None:
        self.max_chunk_bytes = max_chunk_bytes
        #: Which digests it computes (DIG-13).
        self.digests: list[Algorithm] = [BLAKE3, SHA256]
        #: Answers with this one whatever was asked for.
        self.insists_on: Algorithm | None = None
        #: How many streams an upload may have (LAN-1).
        self.upload_lanes = 0
        #: Whether it has WriteFile (UPL-16), and how often it was called without.
        self.has_write = True
        self.unknown_writes: int = 0
        #: Whether it forgets an unfinished WriteFile when the call ends (UPL-59).
        self.forgets_writes = False
        #: What it says of the entries of an archive, which it does not read.
        self.archive = files_pb2.ArchiveResult()
        #: How many transfers one caller may run (RLY-24); 0 says nothing.
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
        self.verifying_answers: int = 0
        self.upload_messages: list[list[files_pb2.UploadFileRequest]] = []
        self.keep_messages = True
        self.download_chunk = 64 * 1024
        self.stopping = threading.Event()
        self._numbers = itertools.count(1)
        self._versions = itertools.count(2)
        self._lock = threading.RLock()
        self._streams: dict[str, int] = {methods.UPLOAD_FILE: 0, methods.DOWNLOAD_FILE: 0}
        self._server: grpc.Server | None = None
        self.address = ""

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

        return grpc.unary_unary_rpc_method_handler(handler, parse, serialize)

    def _failing(self, context: Context) -> Failing:
        return Failing(self.stopping, context)

    def _choose(self, accepted: Iterable[Algorithm]) -> Algorithm:
        if self.insists_on is not None:
            return self.insists_on
        for algorithm in list(accepted) or [SHA256]:
            if algorithm in self.digests:
                return algorithm
        raise TransferError(Reason.DIGEST_UNSUPPORTED, "none of these is computed here")


def serialize(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


def info_of(path: str, file: FakeFile, algorithm: Algorithm | None = None) -> files_pb2.FileInfo:
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
