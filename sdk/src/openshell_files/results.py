"""What calls answer: plain values, never protobuf messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from openshell_files.options import Durability


class FileType(StrEnum):
    """What is at a path."""

    UNKNOWN = "unknown"
    REGULAR = "regular"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    SPECIAL = "special"


class UploadState(StrEnum):
    """Where an upload stands (RSM-7).

    UNKNOWN is a state that this SDK does not know. Of an upload that the
    sandbox does not know there is no state: `UploadUnknown` is raised.
    """

    RECEIVING = "receiving"
    VERIFYING = "verifying"
    PUBLISHED = "published"
    ABORTED = "aborted"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


def time_of(nanoseconds: int | None) -> datetime | None:
    """Return the moment in UTC, with the microseconds that datetime can hold."""
    if nanoseconds is None:
        return None
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file in the sandbox.

    Attributes:
        path: absolute path inside the sandbox, as resolved.
        type: what it is.
        size: in bytes.
        mode: permission bits.
        modified_ns: nanoseconds since the epoch.
        version: opaque; changes when content or metadata change.
        digest: `blake3:` or `sha256:` and hexadecimal digits; None if none was
            computed.
        allocated: bytes that occupy storage.
        link_target: where a symbolic link leads, as it stands in the link;
            None for anything else. Bytes that are not UTF-8 are surrogates,
            as `os.fsdecode` makes them.
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
        """When the content changed, in UTC."""
        return time_of(self.modified_ns)


@dataclass(frozen=True, slots=True)
class UploadInfo:
    """An upload as the sandbox knows it.

    Attributes:
        upload_id: its name.
        request_id: the caller's name for it.
        state: where it stands.
        path: the destination.
        size: declared size in bytes; None if not known yet.
        staged: bytes kept, from the start without a gap.
        durable: bytes flushed to the device.
        created_ns: nanoseconds since the epoch.
        updated_ns: nanoseconds since the epoch.
        expires_ns: nanoseconds since the epoch.
        file: what was published; None before.
        failure_reason: why it was refused at the finish; empty otherwise.
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
        """When it is forgotten unless more bytes come, in UTC."""
        return time_of(self.expires_ns)


@dataclass(frozen=True, slots=True)
class UploadResult:
    """A file that was published.

    Attributes:
        path: absolute path inside the sandbox.
        size: in bytes.
        digest: `blake3:` or `sha256:` and hexadecimal digits, computed in the
            sandbox and compared here.
        mode: permission bits.
        modified_ns: nanoseconds since the epoch.
        version: of the published file, for a later condition.
        durability: what was reached, not what was asked for.
        bytes_sent: content sent by this call, over all its attempts.
        resumed_from: bytes that were kept from earlier attempts.
        attempts: streams this call opened; 0 if nothing had to be sent.
        seconds: duration of the call.
        already_identical: the file was there already.
        replayed: the answer belongs to a finish that had been carried out before.
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
        path: absolute path inside the sandbox.
        size: bytes that were asked for and are here.
        digest: of those bytes, computed here: `blake3:` or `sha256:` and
            hexadecimal digits.
        mode: permission bits of the file in the sandbox.
        modified_ns: nanoseconds since the epoch.
        version: the file's version when it was opened.
        file_size: size of the whole file when it was opened.
        start_offset: where in the file the content begins.
        bytes_received: content received, over all attempts.
        resumed_from: where the last attempt went on, counted from `start_offset`.
        attempts: streams this call opened.
        seconds: duration of the call.
        whole_file: the content is the whole file.
        changed: the file changed while it was read; only with `allow_changes`.
        digest_verified: one digest computed in the sandbox covers all bytes.
            False only after a resumed download of a part, or of a file that
            changed since; each chunk's CRC-32C was right all the same.
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
class Progress:
    """How far a transfer is. Every number is known, none is guessed.

    Attributes:
        transferred: bytes of the file handed to the connection (upload), or
            received and checked (download); includes what earlier attempts
            left. It falls back when a connection broke.
        total: bytes to transfer; None if not known.
        staged: bytes that the sandbox said it keeps; None if it has not said.
        durable: bytes that the sandbox said are flushed; None if it has not said.
        attempt: which stream, from 1; 0 before the first.
        upload_id: the upload's name, once it has one that can be resumed.
    """

    transferred: int
    total: int | None
    staged: int | None = None
    durable: int | None = None
    attempt: int = 0
    upload_id: str = ""


#: Called in the caller's thread or event loop; it must return quickly. An
#: exception that it raises ends the transfer, and frees what an upload has staged
#: unless the caller named the upload by `upload_id`.
ProgressCallback = Callable[[Progress], None]
