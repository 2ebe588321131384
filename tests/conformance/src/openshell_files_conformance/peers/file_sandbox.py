"""The sandbox of the gateway towards an SDK: files, uploads and directories in memory."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, cast

import blake3
import google_crc32c

from openshell_files_conformance.pb.openshell.v1 import files_pb2, trees_pb2

SHA256: Final = files_pb2.DIGEST_ALGORITHM_SHA256
BLAKE3: Final = files_pb2.DIGEST_ALGORITHM_BLAKE3
Algorithm: TypeAlias = files_pb2.DigestAlgorithm.ValueType

KIB: Final = 1024
MIB: Final = 1024 * KIB
#: Every server takes chunks of this size (UPL-6).
SURE_CHUNK_BYTES: Final = 256 * KIB
#: Largest message (UPL-15), and largest content of WriteFile (UPL-55).
MAX_MESSAGE_BYTES: Final = MIB
MAX_WRITE_BYTES: Final = MIB - 16 * KIB


def digest_value(content: bytes, algorithm: int) -> bytes:
    """Return the 32 bytes of a digest."""
    if algorithm == BLAKE3:
        return blake3.blake3(content).digest()
    return hashlib.sha256(content).digest()


def digest_of(content: bytes, algorithm: Algorithm) -> files_pb2.Digest:
    """Return a digest as messages have it."""
    return files_pb2.Digest(algorithm=algorithm, value=digest_value(content, algorithm))


def digest_text(digest: files_pb2.Digest) -> str:
    """Return a digest as adapters write it."""
    return f"{'blake3' if digest.algorithm == BLAKE3 else 'sha256'}:{digest.value.hex()}"


def crc32c(content: bytes) -> int:
    """Return the CRC-32C (Castagnoli)."""
    return cast(int, cast(Any, google_crc32c).value(content))


@dataclass
class RemoteFile:
    """A file of the sandbox."""

    content: bytes
    mode: int = 0o644
    modified_ns: int = 1_700_000_000_123_456_789
    version: str = "v1"
    #: Start and size of each hole, for downloads.
    holes: tuple[tuple[int, int], ...] = ()

    def info(self, path: str, algorithm: Algorithm | None = None) -> files_pb2.FileInfo:
        """Describe it, with a digest if an algorithm is given."""
        described = files_pb2.FileInfo(
            path=f"/{path.lstrip('/')}",
            type=files_pb2.FILE_TYPE_REGULAR,
            size_bytes=len(self.content),
            mode=self.mode,
            version=self.version,
            digest=None if algorithm is None else digest_of(self.content, algorithm),
            allocated_bytes=len(self.content),
        )
        described.modified_time.FromNanoseconds(self.modified_ns)
        return described


@dataclass
class Upload:
    """An upload that the sandbox knows.

    Attributes:
        first: metadata of the request that started it.
        started: it was started by StartUpload.
        epochs: number of the newest attempt.
    """

    upload_id: str
    first: files_pb2.UploadFileMetadata
    algorithm: Algorithm
    started: bool = False
    epoch: int = 1
    state: files_pb2.UploadState.ValueType = files_pb2.UPLOAD_STATE_RECEIVING
    staged: bytearray = field(default_factory=bytearray)
    failure: str = ""
    finish: files_pb2.UploadFinish | None = None
    result: files_pb2.UploadFileResponse | None = None

    def truncate(self, size: int) -> None:
        """Lose staged bytes, as an agent does that was killed before it flushed them."""
        del self.staged[size:]

    def status(self, *, with_digest: bool) -> files_pb2.UploadStatus:
        """Describe it."""
        published = self.state == files_pb2.UPLOAD_STATE_PUBLISHED
        status = files_pb2.UploadStatus(
            upload_id=self.upload_id,
            request_id=self.first.request_id,
            state=self.state,
            path=self.first.remote_path,
            size_bytes=self.first.size_bytes,
            staged_bytes=len(self.staged),
            durable_bytes=len(self.staged),
            epoch=self.epoch,
            failure_reason=self.failure,
            digest_algorithm=self.algorithm,
            result=self.result,
        )
        if with_digest or published:
            status.staged_digest.CopyFrom(digest_of(bytes(self.staged), self.algorithm))
        return status


@dataclass(frozen=True, slots=True)
class TreeNode:
    """An entry of a received or sent tree, with its content if it is a regular file."""

    entry: trees_pb2.TreeEntry
    content: bytes = b""


class Sandbox:
    """Files by path, uploads by id, and what became of trees.

    Attributes:
        directories: paths that are directories.
        trees: received trees by their path, each a mapping of relative paths.
        tree: what a download of a tree sends.
    """

    def __init__(self) -> None:
        self.files = dict[str, RemoteFile]()
        self.uploads = dict[str, Upload]()
        self.directories = set[str]()
        self.trees = dict[bytes, Mapping[bytes, TreeNode]]()
        self.tree = list[TreeNode]()
        self._numbers = itertools.count(1)

    def upload_named(self, upload_id: str, request_id: str) -> Upload | None:
        """Find an upload by either id."""
        if upload_id:
            return self.uploads.get(upload_id)
        return next(
            (one for one in self.uploads.values() if request_id and one.first.request_id == request_id), None
        )

    def new_upload(self, first: files_pb2.UploadFileMetadata, algorithm: Algorithm) -> Upload:
        """Admit an upload."""
        upload = Upload(f"upload-{next(self._numbers)}", first, algorithm)
        self.uploads[upload.upload_id] = upload
        return upload

    def publish(self, upload: Upload, *, with_digest: bool) -> files_pb2.UploadFileResponse:
        """Give the staged content its name."""
        metadata = upload.first
        before = self.files.get(metadata.remote_path)
        kept = before.mode if before else 0o644
        file = RemoteFile(
            bytes(upload.staged),
            metadata.mode & 0o777 if metadata.mode else kept,
            metadata.modified_time.ToNanoseconds() if metadata.HasField("modified_time") else 1,
            f"v{next(self._numbers) + 100}",
        )
        self.files[metadata.remote_path] = file
        upload.state = files_pb2.UPLOAD_STATE_PUBLISHED
        upload.result = files_pb2.UploadFileResponse(
            bytes_written=len(file.content),
            file=file.info(metadata.remote_path, upload.algorithm if with_digest else None),
            upload_id=upload.upload_id if upload.started else "",
            durability=metadata.durability or files_pb2.DURABILITY_FSYNC,
        )
        return upload.result


def chosen(accepted: Iterable[Algorithm], known: Iterable[Algorithm]) -> Algorithm | None:
    """Return the first accepted algorithm that the server knows (DIG-2); None if there is none."""
    knows = set(known)
    return next((one for one in list(accepted) or [SHA256] if one in knows), None)
