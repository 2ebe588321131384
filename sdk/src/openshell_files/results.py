"""Results of calls, as plain values instead of protobuf messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from openshell_files.options import Durability


class FileType(StrEnum):
    """Type of a file."""

    UNKNOWN = "unknown"
    REGULAR = "regular"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    SPECIAL = "special"


class UploadState(StrEnum):
    """State of an upload (RSM-7).

    UNKNOWN is a state that this SDK does not know. If the sandbox does not
    know the upload, the call raises `UploadUnknown` instead.
    """

    RECEIVING = "receiving"
    VERIFYING = "verifying"
    PUBLISHED = "published"
    ABORTED = "aborted"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


def time_of(nanoseconds: int | None) -> datetime | None:
    """Return the time in UTC, rounded down to the microseconds of `datetime`."""
    if nanoseconds is None:
        return None
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file in the sandbox.

    Attributes:
        path: absolute path in the sandbox, with links resolved.
        type: its type.
        size: in bytes.
        mode: permission bits.
        modified_ns: nanoseconds since the epoch.
        version: opaque text that changes with content or metadata.
        digest: `blake3:` or `sha256:` and hexadecimal digits; None if it was
            not computed.
        allocated: bytes of storage.
        link_target: content of a symbolic link; None for another type. Bytes
            that are not UTF-8 are surrogates, as from `os.fsdecode`.
    """

    path: str
    type: FileType
    size: int
    mode: int
    modified_ns: int | None
    version: str
    digest: str | None
    allocated: int
    link_target: str | None = None

    @property
    def modified_time(self) -> datetime | None:
        """Modification time, in UTC."""
        return time_of(self.modified_ns)


@dataclass(frozen=True, slots=True)
class UploadInfo:
    """An upload as the sandbox knows it.

    Attributes:
        upload_id: its id.
        request_id: the client's id of it.
        state: its state.
        path: the destination.
        size: declared size in bytes; None if unknown.
        staged: staged bytes, from the start without a gap.
        durable: bytes flushed to the device.
        created_ns: nanoseconds since the epoch.
        updated_ns: nanoseconds since the epoch.
        expires_ns: nanoseconds since the epoch.
        file: the published file; None before.
        failure_reason: reason of a refused finish; empty otherwise.
    """

    upload_id: str
    request_id: str
    state: UploadState
    path: str
    size: int | None
    staged: int
    durable: int
    created_ns: int | None
    updated_ns: int | None
    expires_ns: int | None
    file: FileInfo | None
    failure_reason: str

    @property
    def expires_time(self) -> datetime | None:
        """Time at which the upload expires unless more bytes arrive, in UTC."""
        return time_of(self.expires_ns)


@dataclass(frozen=True, slots=True)
class UploadResult:
    """A file that was published.

    Attributes:
        path: absolute path in the sandbox.
        size: in bytes.
        digest: `blake3:` or `sha256:` and hexadecimal digits, computed in the
            sandbox and compared by this SDK.
        mode: permission bits.
        modified_ns: nanoseconds since the epoch.
        version: of the published file, for a later condition.
        durability: the reached durability, not the requested one.
        bytes_sent: content sent by this call, over all its attempts.
        resumed_from: staged bytes of earlier attempts.
        attempts: streams opened by this call; 0 if nothing had to be sent.
        seconds: duration of the call.
        already_identical: the file was there already.
        replayed: an earlier call published the file; this answer repeats its result.
        upload_id: the upload's name.
        started_over: True if the unfinished upload that the caller named could not
            be resumed, so that all content was sent again.
        started_over_because: why; empty if it did not start over.
    """

    path: str
    size: int
    digest: str | None
    mode: int
    modified_ns: int | None
    version: str
    durability: Durability | None
    bytes_sent: int
    resumed_from: int
    attempts: int
    seconds: float
    already_identical: bool
    replayed: bool
    upload_id: str
    started_over: bool = False
    started_over_because: str = ""

    @property
    def modified_time(self) -> datetime | None:
        """The published file's modification time, in UTC."""
        return time_of(self.modified_ns)


@dataclass(frozen=True, slots=True)
class DownloadResult:
    """Content that was received and verified.

    Attributes:
        path: absolute path in the sandbox.
        size: received bytes of the requested range.
        digest: of those bytes, computed by this SDK: `blake3:` or `sha256:` and
            hexadecimal digits.
        mode: permission bits of the file in the sandbox.
        modified_ns: nanoseconds since the epoch.
        version: the file's version when it was opened.
        file_size: size of the whole file when it was opened.
        start_offset: offset in the file at which the content begins.
        bytes_received: content received, over all attempts.
        resumed_from: position at which the last attempt resumed, from `start_offset`.
        attempts: streams opened by this call.
        seconds: duration of the call.
        whole_file: the content is the whole file.
        changed: the file changed during the read; only with `allow_changes`.
        digest_verified: one digest of the sandbox covers all bytes. False only
            after a resumed download of a part, or of a file that changed since;
            the CRC-32C of each chunk was verified even then.
    """

    path: str
    size: int
    digest: str
    mode: int
    modified_ns: int | None
    version: str
    file_size: int
    start_offset: int
    bytes_received: int
    resumed_from: int
    attempts: int
    seconds: float
    whole_file: bool
    changed: bool
    digest_verified: bool

    @property
    def modified_time(self) -> datetime | None:
        """The file's modification time, in UTC."""
        return time_of(self.modified_ns)


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """An entry of a directory in the sandbox.

    Attributes:
        name: relative to the listed directory, with components joined by `/`.
            Bytes that are not UTF-8 are surrogates, as from `os.fsdecode`.
        type: its type; a link is described itself.
        size: in bytes.
        mode: permission bits.
        modified_ns: nanoseconds since the epoch.
        version: opaque text that changes with content or metadata.
        allocated: bytes of storage.
        link_target: content of a symbolic link; None for another type.
        reason: name in the error table: why the content of this directory is
            not listed, or why the entry is not described; empty otherwise.
    """

    name: str
    type: FileType
    size: int
    mode: int
    modified_ns: int | None
    version: str
    allocated: int
    link_target: str | None = None
    reason: str = ""

    @property
    def modified_time(self) -> datetime | None:
        """Modification time, in UTC."""
        return time_of(self.modified_ns)


@dataclass(frozen=True, slots=True)
class MakeDirectoryResult:
    """A directory that was made, or was there.

    Attributes:
        directory: its description.
        created: False if it was there already.
    """

    directory: FileInfo
    created: bool


@dataclass(frozen=True, slots=True)
class RemoveResult:
    """A removal.

    Attributes:
        entries: removed entries, the path itself included; 0 if it did not exist.
    """

    entries: int


@dataclass(frozen=True, slots=True)
class MoveResult:
    """A move.

    Attributes:
        file: the moved entry at its destination.
        replaced: something was replaced.
    """

    file: FileInfo
    replaced: bool


@dataclass(frozen=True, slots=True)
class CopyResult:
    """A copy inside the sandbox.

    Attributes:
        file: the copy.
        entries: copied entries, the path itself included.
        bytes: copied content, holes excluded.
        shared_bytes: part of `bytes` that shares its storage with the source.
        durability: the reached durability, not the requested one.
        replaced: a file or link was replaced.
    """

    file: FileInfo
    entries: int
    bytes: int
    shared_bytes: int
    durability: Durability | None
    replaced: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a transfer. No number is an estimate.

    Attributes:
        transferred: bytes of the file handed to the connection (upload), or
            received and checked (download), with those of earlier attempts.
            It falls back when a connection broke.
        total: bytes to transfer; None if unknown.
        staged: bytes that the sandbox reported as staged; None if it did not.
        durable: bytes that the sandbox reported as flushed; None if it did not.
        attempt: number of the stream, from 1; 0 before the first.
        upload_id: id of the upload, once it can be resumed; empty before.
    """

    transferred: int
    total: int | None
    staged: int | None = None
    durable: int | None = None
    attempt: int = 0
    upload_id: str = ""


#: Called in the caller's thread or event loop; it must return quickly. Its
#: exception ends the transfer, and frees the staged bytes of an upload unless
#: the caller passed `upload_id`.
ProgressCallback = Callable[[Progress], None]
