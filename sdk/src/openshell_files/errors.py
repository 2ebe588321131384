# ruff: noqa: N818 - the names are those of the error table and of the RPCs' statuses
"""Exceptions of the SDK, one class per kind of failure.

`_known_errors.py` chooses the class by the reason of the error table. A class
inherits the builtin that a caller expects (`FileNotFoundError`,
`PermissionError`, ...), so that code for local files handles it, too.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Final

from openshell_files_protocol.errors import FieldViolation
from openshell_files_protocol.reasons import Code, Retry


class LocalReason(StrEnum):
    """Reasons of failures that this side found."""

    LOCAL_FILE = "LOCAL_FILE"
    LOCAL_FILE_CHANGED = "LOCAL_FILE_CHANGED"
    LOCAL_IS_A_DIRECTORY = "LOCAL_IS_A_DIRECTORY"
    NOTHING_MATCHED = "NOTHING_MATCHED"
    SOURCE_NOT_REPLAYABLE = "SOURCE_NOT_REPLAYABLE"
    DOWNLOAD_INCOMPLETE = "DOWNLOAD_INCOMPLETE"
    DOWNLOAD_CORRUPT = "DOWNLOAD_CORRUPT"
    ANSWER_MISMATCH = "ANSWER_MISMATCH"
    MAX_BYTES_EXCEEDED = "MAX_BYTES_EXCEEDED"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    TIMEOUT = "TIMEOUT"
    CREDENTIALS = "CREDENTIALS"
    EXTENSIONS_MISSING = "EXTENSIONS_MISSING"


@dataclass(frozen=True, slots=True)
class ErrorFacts:
    """Facts about a failure besides its message.

    Attributes:
        reason: name in the error table, a `LocalReason`, or the name of the
            gRPC code if the server gave no reason.
        code: gRPC status; None if the failure is local.
        retry: retry class of the error table.
        fix: instruction that mends the error, for a person.
        metadata: facts for programs, e.g. ``expected_offset``.
        field_violations: wrong fields of the request.
        retry_delay: pause before a retry that the server asked for, in seconds;
            None if it did not.
    """

    reason: str
    code: Code | None = None
    retry: Retry = Retry.NEVER
    fix: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    field_violations: Sequence[FieldViolation] = ()
    retry_delay: float | None = None


class FilesError(Exception):
    """Base class of the SDK's errors.

    Attributes:
        message: the failure, with the names and numbers of this case.
        facts: the other facts about it.
        path: the file, if the error is about one.
        upload_id: the upload that a later call can resume; empty if there is none.
        staged: its staged bytes; None if unknown.
    """

    #: For classes that are an `OSError` as well.
    error_number: ClassVar[int | None] = None

    def __init__(self, message: str, facts: ErrorFacts, *, path: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts
        self.path = path
        self.upload_id = ""
        self.staged: int | None = None
        if isinstance(self, OSError):
            _fill_os_error(self, self.error_number, message, path)

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), self.message, self.facts, self.path, (self.upload_id, self.staged))

    def about(self, path: str) -> None:
        """Set the path, unless the error has one."""
        if not self.path and path:
            self.path = path
            if isinstance(self, OSError):
                _fill_os_error(self, self.errno, self.message, path)

    def reword(self, message: str) -> None:
        """Replace the message by a more precise one."""
        self.message = message
        self.args = (message,)
        if isinstance(self, OSError):
            _fill_os_error(self, self.errno, message, self.path)

    @property
    def reason(self) -> str:
        """Name in the error table; the same in every language."""
        return self.facts.reason

    @property
    def code(self) -> Code | None:
        """The gRPC status; None if the failure is local."""
        return self.facts.code

    @property
    def retry(self) -> Retry:
        """Retry class of the error table."""
        return self.facts.retry

    @property
    def fix(self) -> str:
        """Instruction that mends the error, for a person."""
        return self.facts.fix

    @property
    def metadata(self) -> Mapping[str, str]:
        """Facts for programs."""
        return self.facts.metadata

    @property
    def field_violations(self) -> Sequence[FieldViolation]:
        """Wrong fields of the request."""
        return self.facts.field_violations

    @property
    def retry_delay(self) -> float | None:
        """Pause before a retry that the server asked for, in seconds; None if it did not."""
        return self.facts.retry_delay


@dataclass(frozen=True, slots=True)
class UnfinishedUpload:
    """An upload that an interrupted call left in the sandbox.

    Attributes:
        upload_id: id to resume or abort it.
        staged: bytes that the sandbox reported as staged; None if it did not, or if content was sent since.
        outcome_known: False if the finish was sent: the file may be published,
            and `upload_status(upload_id)` of the sandbox tells.
    """

    upload_id: str
    staged: int | None
    outcome_known: bool


def unfinished_upload(error: BaseException) -> UnfinishedUpload | None:
    """Return the upload that an interrupted call left in the sandbox; None if a later call cannot resume any.

    For errors that are not this SDK's, such as `asyncio.CancelledError`, the
    `TimeoutError` of `asyncio.wait_for`, or `KeyboardInterrupt`; a `FilesError` has `upload_id`.

    Args:
        error: the exception of the call; its causes are searched, too.
    """
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        left: object = getattr(found, "openshell_upload", None)
        if isinstance(left, UnfinishedUpload):
            return left
        if isinstance(found, FilesError) and found.upload_id:
            return UnfinishedUpload(found.upload_id, found.staged, not isinstance(found, OutcomeUnknown))
        found = found.__cause__ or found.__context__
    return None


def note_upload(error: BaseException, upload_id: str, staged: int | None, *, outcome_known: bool) -> None:
    """Attach the upload that a later call can resume to an error of another library."""
    left = UnfinishedUpload(upload_id, staged, outcome_known)
    error.openshell_upload = left  # type: ignore[attr-defined]  # the only attribute that the SDK adds to foreign exceptions
    held = f", {staged} bytes are staged" if staged else ""
    error.add_note(
        f"upload {upload_id} can be resumed{held}"
        if outcome_known
        else f"upload {upload_id} was sent completely; whether it was published is unknown{held}"
    )


def _fill_os_error(error: OSError, number: int | None, message: str, path: str) -> None:
    """Set the attributes of an `OSError`."""
    error.errno, error.strerror, error.filename = number, message, path or None


def _restore(
    kind: type[FilesError], message: str, facts: ErrorFacts, path: str, upload: tuple[str, int | None]
) -> FilesError:
    error = kind(message, facts, path=path)
    error.upload_id, error.staged = upload
    return error


# The request


class InvalidRequest(FilesError, ValueError):
    """A field, or the order of the messages, is wrong."""


class InvalidPath(InvalidRequest):
    """The path cannot name a file (PTH-2)."""


class NothingMatched(InvalidRequest):
    """The patterns of a tree leave nothing of it."""


class RangeInvalid(InvalidRequest):
    """The range begins past the end of the file (DWN-12)."""


class UploadConflict(InvalidRequest):
    """The request differs from the one that started or finished the upload (RSM-11, RSM-21)."""


class InvalidArchive(InvalidRequest):
    """The content is no complete tar archive (ARC-2, ARC-6)."""


class FileTooLarge(FilesError):
    """The file is larger than a limit: the server's, or this call's `max_bytes`."""


class Unsupported(FilesError, NotImplementedError):
    """Gateway, supervisor or agent does not support the request."""


# The caller and its rights


class Unauthenticated(FilesError):
    """The token is missing, expired or not accepted."""


class CredentialsError(Unauthenticated):
    """There is no token; the gateway was not called."""


class PermissionDenied(FilesError, PermissionError):
    """The caller's role or scopes do not allow this."""

    error_number = errno.EPERM


class AccessDenied(FilesError, PermissionError):
    """The sandbox's user may not use this path."""

    error_number = errno.EACCES


class PathForbidden(AccessDenied):
    """The path leads to a kernel interface that is never transferred (PTH-5)."""


class ReadOnlyFileSystem(FilesError, OSError):
    """The file system in the sandbox is mounted read-only."""

    error_number = errno.EROFS


# The sandbox


class SandboxNotFound(FilesError, LookupError):
    """The sandbox does not exist, or not for this caller (AUT-5)."""


class SandboxNotReady(FilesError):
    """The sandbox exists but does not run."""


# The file


class FileNotFound(FilesError, FileNotFoundError):
    """There is no file at the path (PTH-6)."""

    error_number = errno.ENOENT


class ParentNotFound(FileNotFound):
    """A directory on the way to the file does not exist (PTH-16)."""


class IsADirectory(FilesError, IsADirectoryError):
    """The path is a directory (PTH-4)."""

    error_number = errno.EISDIR


class NotADirectory(FilesError, NotADirectoryError):
    """A component on the way to the file is not a directory (PTH-17)."""

    error_number = errno.ENOTDIR


class NotARegularFile(FilesError, OSError):
    """The path is a FIFO, socket or device (PTH-4)."""

    error_number = errno.EINVAL


class LeafIsLink(FilesError, OSError):
    """The path is a symbolic link (PTH-14)."""

    error_number = errno.ELOOP


class FileExists(FilesError, FileExistsError):
    """The path exists, and the condition requires that it does not (CND-1)."""

    error_number = errno.EEXIST


class ConditionFailed(FilesError):
    """The existing file does not meet the condition (CND-2)."""


class TreeIncomplete(ConditionFailed):
    """An entry has a problem, so the tree was not published as a whole (TRE-13); see `tree_so_far`."""


class DirectoryNotEmpty(FilesError, OSError):
    """The directory has entries, and is not removed or replaced (DIR-13)."""

    error_number = errno.ENOTEMPTY


class OtherFileSystem(FilesError, OSError):
    """Source and destination of a move are on different file systems (DIR-27)."""

    error_number = errno.EXDEV


class MountPoint(FilesError, OSError):
    """A file system is mounted at the path or below it (DIR-12)."""

    error_number = errno.EBUSY


class FileChanged(FilesError):
    """The file changed while it was read, or is not the wanted version (DWN-6, DWN-14)."""


class ResourceExhausted(FilesError):
    """A limit is reached."""


class DiskFull(ResourceExhausted, OSError):
    """The file system in the sandbox is full."""

    error_number = errno.ENOSPC


class QuotaExceeded(ResourceExhausted, OSError):
    """A quota in the sandbox would be exceeded."""

    error_number = errno.EDQUOT


class StorageError(FilesError, OSError):
    """The file system in the sandbox failed."""

    error_number = errno.EIO


# The transfer


class IntegrityError(FilesError):
    """The received content is not the sent content."""


class IncompleteDownload(IntegrityError):
    """The stream ended before the trailer, so the content is incomplete (DWN-2)."""


class UploadUnknown(FilesError, LookupError):
    """The sandbox does not know the upload, or it is another caller's (RSM-2)."""


class UploadAborted(FilesError):
    """The upload was aborted."""


class UploadSuperseded(FilesError):
    """A newer attempt has taken the upload over (RSM-18)."""


class Unavailable(FilesError, ConnectionError):
    """Gateway, supervisor or connection is away; a later retry may succeed."""

    error_number = errno.ECONNABORTED


class UploadInterrupted(Unavailable):
    """The connection broke and the retries are used up; `upload_id` resumes the upload."""


class DeadlineExceeded(FilesError, TimeoutError):
    """A time limit was reached."""

    error_number = errno.ETIMEDOUT


class OutcomeUnknown(DeadlineExceeded):
    """The finish was sent, and it is unknown whether it was carried out (RSM-25).

    `upload_status(error.upload_id)` of the sandbox tells later.
    """


class InternalError(FilesError):
    """The gateway, the supervisor or the agent failed, or is misconfigured; see their logs."""


# This side


class LocalFileError(FilesError, OSError):
    """The local file cannot be read or written."""

    error_number = errno.EIO


class LocalIsADirectory(LocalFileError, IsADirectoryError):
    """The local path is a directory."""

    error_number = errno.EISDIR


class LocalFileChanged(LocalFileError):
    """The local file changed during the upload; nothing was published."""


class SourceNotReplayable(LocalFileError):
    """The connection broke, and the source cannot be read again."""


#: Fixes by the error number of the operating system.
_LOCAL_FIXES: Final[Mapping[int, str]] = {
    errno.ENOENT: "Check the local path.",
    errno.EISDIR: "Give the path of a file; a directory is sent as a tree.",
    errno.ENOSPC: "Free space on this side.",
    errno.EDQUOT: "Free space on this side.",
}


def in_place_error(error: OSError, path: str) -> LocalFileError:
    """Return the error for a file that was renamed, but whose directory could not be flushed.

    Args:
        error: error of the flush.
        path: the local path.
    """
    made = LocalFileError(
        f"{path} is in place and whole, but may not survive a power loss: {error.strerror or error}",
        ErrorFacts(LocalReason.LOCAL_FILE, fix="Check the local disk, then download it again."),
        path=path,
    )
    _fill_os_error(made, error.errno, made.message, path)
    return made


def local_file_error(error: OSError, path: str, doing: str) -> LocalFileError:
    """Return the error for a failed operation on a local file.

    Args:
        error: error of the operating system.
        path: the local path.
        doing: the operation, as in "cannot read".
    """
    directory = isinstance(error, IsADirectoryError)
    kind = LocalIsADirectory if directory else LocalFileError
    reason = LocalReason.LOCAL_IS_A_DIRECTORY if directory else LocalReason.LOCAL_FILE
    made = kind(
        f"{doing} {path}: {error.strerror or error}",
        ErrorFacts(
            reason, fix=_LOCAL_FIXES.get(error.errno or 0, "Check the local path and its permissions.")
        ),
        path=path,
    )
    _fill_os_error(made, error.errno, made.message, path)
    return made
