"""Converts checked answers to values of the SDK."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from openshell_files_protocol.digests import Digest
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files._known_errors import error_from_reason
from openshell_files.options import Durability
from openshell_files.results import FileInfo, FileType, UploadInfo, UploadState

_FILE_TYPES: Final[Mapping[int, FileType]] = {
    files_pb2.FILE_TYPE_REGULAR: FileType.REGULAR,
    files_pb2.FILE_TYPE_DIRECTORY: FileType.DIRECTORY,
    files_pb2.FILE_TYPE_SYMLINK: FileType.SYMLINK,
    files_pb2.FILE_TYPE_SPECIAL: FileType.SPECIAL,
}
_STATES: Final[Mapping[int, UploadState]] = {
    files_pb2.UPLOAD_STATE_RECEIVING: UploadState.RECEIVING,
    files_pb2.UPLOAD_STATE_VERIFYING: UploadState.VERIFYING,
    files_pb2.UPLOAD_STATE_PUBLISHED: UploadState.PUBLISHED,
    files_pb2.UPLOAD_STATE_ABORTED: UploadState.ABORTED,
    files_pb2.UPLOAD_STATE_EXPIRED: UploadState.EXPIRED,
}
_DURABILITIES: Final[Mapping[int, Durability]] = {
    files_pb2.DURABILITY_RENAME: Durability.RENAME,
    files_pb2.DURABILITY_FSYNC: Durability.FSYNC,
}

#: Permission and set-id bits.
_MODE_BITS: Final = 0o7777


def file_type(value: int) -> FileType:
    """Convert a file type; a type that this SDK does not know is UNKNOWN."""
    return _FILE_TYPES.get(value, FileType.UNKNOWN)


def mode_bits(mode: int) -> int:
    """Return the permission and set-id bits of a mode."""
    return mode & _MODE_BITS


def file_info(message: files_pb2.FileInfo) -> FileInfo:
    """Convert the description of a file."""
    return FileInfo(
        path=message.path,
        type=file_type(message.type),
        size=message.size_bytes,
        mode=mode_bits(message.mode),
        modified_ns=nanoseconds(message.modified_time) if message.HasField("modified_time") else None,
        version=message.version,
        digest=_in_words(message.digest) if message.HasField("digest") else None,
        allocated=message.allocated_bytes,
        link_target=message.link_target.decode("utf-8", "surrogateescape") or None,
    )


def hashed_file_info(message: files_pb2.FileInfo) -> FileInfo:
    """Convert the description of a file whose digest was requested.

    Raises:
        InternalError: the file is regular, and the digest is missing.
    """
    info = file_info(message)
    if info.type is FileType.REGULAR and info.digest is None:
        raise error_from_reason(
            Reason.AGENT_PROTOCOL_ERROR, "the file's digest was requested and is missing", path=info.path
        )
    return info


def upload_info(message: files_pb2.UploadStatus) -> UploadInfo:
    """Convert the state of an upload."""
    times = [
        nanoseconds(getattr(message, name)) if message.HasField(name) else None
        for name in ("created_time", "updated_time", "expiration_time")
    ]
    return UploadInfo(
        upload_id=message.upload_id,
        request_id=message.request_id,
        state=upload_state(message),
        path=message.path,
        size=message.size_bytes or None,
        staged=message.staged_bytes,
        durable=message.durable_bytes,
        created_ns=times[0],
        updated_ns=times[1],
        expires_ns=times[2],
        file=file_info(message.result.file) if message.result.HasField("file") else None,
        failure_reason=message.failure_reason,
    )


def _in_words(message: files_pb2.Digest) -> str | None:
    digest = Digest.of(message)
    return None if digest is None else str(digest)


def upload_state(message: files_pb2.UploadStatus) -> UploadState:
    """Convert the state alone; a state that this SDK does not know is UNKNOWN."""
    return _STATES.get(message.state, UploadState.UNKNOWN)


def durability(value: int) -> Durability | None:
    """Convert a durability; None if it is unset."""
    return _DURABILITIES.get(value)


def written(answer: files_pb2.WriteFileResponse) -> files_pb2.UploadFileResponse:
    """Convert the answer of WriteFile to that of UploadFile (UPL-16)."""
    return files_pb2.UploadFileResponse(
        bytes_written=answer.file.size_bytes,
        file=answer.file,
        durability=answer.durability,
        replayed=answer.replayed,
        already_identical=answer.already_identical,
    )


def nanoseconds(time: Timestamp) -> int:
    """Return nanoseconds since the epoch of a checked time."""
    return time.seconds * 1_000_000_000 + time.nanos
