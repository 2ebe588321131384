# ruff: noqa: N818 - the names are those of the error table and of the RPCs' statuses
"""The exceptions, one class per kind of trouble.

Which class an error gets is decided by the reason of the error table, in
`_core/error_mapping.py`. Classes inherit the builtin that a caller would
expect (`FileNotFoundError`, `PermissionError`, ...), so that code which knows
only local files handles them too.
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
    """Reasons of failures that no server told of."""

    LOCAL_FILE = "LOCAL_FILE"
    LOCAL_FILE_CHANGED = "LOCAL_FILE_CHANGED"
    LOCAL_IS_A_DIRECTORY = "LOCAL_IS_A_DIRECTORY"
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
    """What is known of a failure besides its message.

    Attributes:
        reason: name in the error table, a `LocalReason`, or the gRPC code's
            name if the server gave no reason.
        code: gRPC status; None if the failure is local.
        retry: what may be done by a program without asking anybody.
        fix: what a person can do.
        metadata: facts for programs, e.g. ``expected_offset``.
        field_violations: the fields of the request at fault.
        retry_delay: seconds to wait before trying again, if the server said.
    """

    reason: str
    code: Code | None = None
    retry: Retry = Retry.NEVER
    fix: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    field_violations: Sequence[FieldViolation] = ()
    retry_delay: float | None = None


class FilesError(Exception):
    """Base of everything the SDK raises about a transfer.

    Attributes:
        message: what happened, with the names and numbers of this case.
        facts: everything else that is known.
        path: the file it is about, if one is.
        upload_id: the upload that can be resumed, if there is one.
        staged: bytes that the sandbox keeps of it, if known.
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
        """Note which file it is about, unless that is known."""
        if not self.path and path:
            self.path = path
            if isinstance(self, OSError):
                _fill_os_error(self, self.errno, self.message, path)

    def reword(self, message: str) -> None:
        """Replace the message by one that says more."""
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
        """What may be done without asking anybody."""
        return self.facts.retry

    @property
    def fix(self) -> str:
        """What a person can do."""
        return self.facts.fix

    @property
    def metadata(self) -> Mapping[str, str]:
        """Facts for programs."""
        return self.facts.metadata

    @property
    def field_violations(self) -> Sequence[FieldViolation]:
        """The fields of the request at fault."""
        return self.facts.field_violations

    @property
    def retry_delay(self) -> float | None:
        """Seconds to wait before trying again, if the server said."""
        return self.facts.retry_delay


@dataclass(frozen=True, slots=True)
class UnfinishedUpload:
    """An upload that an interrupted call left in the sandbox.

    Attributes:
        upload_id: goes on with it, or aborts it.
        staged: bytes that the sandbox said it keeps; None if it has not said.
        outcome_known: False if the finish had left: the file may be published,
            and `Sandbox.upload_status(upload_id)` tells.
    """

    upload_id: str
    staged: int | None
    outcome_known: bool


def unfinished_upload(error: BaseException) -> UnfinishedUpload | None:
    """Return the upload that the interrupted call behind an error left, if it can be gone on with.

    For errors that are not this SDK's, such as `asyncio.CancelledError`, the
    `TimeoutError` of `asyncio.wait_for`, or `KeyboardInterrupt`; a `FilesError` has `upload_id`.

    Args:
        error: what the call raised, or what was made of it; causes are looked at too.
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
    """Tell with an error that is not this SDK's which upload can be gone on with."""
    left = UnfinishedUpload(upload_id, staged, outcome_known)
    error.openshell_upload = left  # type: ignore[attr-defined]  # the one place where an exception carries more
    kept = f", {staged} bytes are kept" if staged else ""
    error.add_note(
        f"upload {upload_id} can be gone on with{kept}"
        if outcome_known
        else f"upload {upload_id} was sent completely; whether it was published is not known{kept}"
    )


def _fill_os_error(error: OSError, number: int | None, message: str, path: str) -> None:
    """Give an error that is an `OSError` as well what handlers of those look at."""
    error.errno, error.strerror, error.filename = number, message, path or None


def _restore(
    kind: type[FilesError], message: str, facts: ErrorFacts, path: str, upload: tuple[str, int | None]
) -> FilesError:
    error = kind(message, facts, path=path)
    error.upload_id, error.staged = upload
    return error


# The request


class InvalidRequest(FilesError, ValueError):
    """A field, or the order of messages, is wrong."""


class InvalidPath(InvalidRequest):
    """The path cannot name a file (PTH-2)."""


class RangeInvalid(InvalidRequest):
    """The range begins behind the end of the file (DWN-4)."""


class UploadConflict(InvalidRequest):
    """The request differs from the one that started or finished the upload (RSM-1, RSM-6)."""


class FileTooLarge(FilesError):
    """The file is larger than a limit: the server's, or this call's `max_bytes`."""


class Unsupported(FilesError, NotImplementedError):
    """Server, supervisor or protocol cannot do this."""


# Who is asking, and what they may do


class Unauthenticated(FilesError):
    """The token is missing, expired or not accepted."""


class CredentialsError(Unauthenticated):
    """No token could be had; the gateway was not asked."""


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
    """There is no such sandbox, or not for this caller (AUT-5)."""


class SandboxNotReady(FilesError):
    """The sandbox is there but does not run."""


# The file


class FileNotFound(FilesError, FileNotFoundError):
    """There is no file at the path (PTH-6)."""

    error_number = errno.ENOENT


class ParentNotFound(FileNotFound):
    """A directory on the way to the file does not exist (PTH-6)."""


class IsADirectory(FilesError, IsADirectoryError):
    """The path is a directory (PTH-4)."""

    error_number = errno.EISDIR


class NotADirectory(FilesError, NotADirectoryError):
    """Something on the way to the file is not a directory (PTH-6)."""

    error_number = errno.ENOTDIR


class NotARegularFile(FilesError, OSError):
    """The path is a FIFO, socket or device (PTH-4)."""

    error_number = errno.EINVAL


class LeafIsLink(FilesError, OSError):
    """The path is a symbolic link (PTH-4)."""

    error_number = errno.ELOOP


class FileExists(FilesError, FileExistsError):
    """Something is there already, and the condition says nothing may be (CND-1)."""

    error_number = errno.EEXIST


class ConditionFailed(FilesError):
    """The file there is not the one that the condition names (CND-2)."""


class FileChanged(FilesError):
    """The file changed while it was read, or is not the wanted version (DWN-5, DWN-6)."""


class ResourceExhausted(FilesError):
    """Something that is limited is used up."""


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
    """What arrived is not what was sent."""


class IncompleteDownload(IntegrityError):
    """The stream ended before the trailer; what came is not the whole (DWN-2)."""


class UploadUnknown(FilesError, LookupError):
    """The sandbox does not know the upload (any more), or it is not this caller's (RSM-2)."""


class UploadAborted(FilesError):
    """The upload was given up."""


class UploadSuperseded(FilesError):
    """A newer attempt has taken the upload over (RSM-5)."""


class Unavailable(FilesError, ConnectionError):
    """Gateway, supervisor or connection is not there; trying again later may help."""

    error_number = errno.ECONNABORTED


class UploadInterrupted(Unavailable):
    """The connection broke and all attempts are used up; `upload_id` goes on with it."""


class DeadlineExceeded(FilesError, TimeoutError):
    """A time limit was reached."""

    error_number = errno.ETIMEDOUT


class OutcomeUnknown(DeadlineExceeded):
    """The finish was sent, but nobody could say in time whether it was carried out (RSM-7).

    `Sandbox.upload_status(error.upload_id)` tells later.
    """


class InternalError(FilesError):
    """The gateway, the supervisor or the agent failed, or is set up wrongly; their logs say more."""


# This side


class LocalFileError(FilesError, OSError):
    """The file on this side cannot be read or written."""

    error_number = errno.EIO


class LocalIsADirectory(LocalFileError, IsADirectoryError):
    """The local path is a directory."""

    error_number = errno.EISDIR


class LocalFileChanged(LocalFileError):
    """The local file changed while it was sent; nothing was published."""


class SourceNotReplayable(LocalFileError):
    """The connection broke, and the source cannot give its bytes a second time."""


#: What to do on this side, by what the operating system said.
_LOCAL_FIXES: Final[Mapping[int, str]] = {
    errno.ENOENT: "Check the local path.",
    errno.ENOSPC: "Free space on this side.",
    errno.EDQUOT: "Free space on this side.",
}


def in_place_error(error: OSError, path: str) -> LocalFileError:
    """Make the error for a file that has its name, though it is not known to be on the disk.

    Args:
        error: what the operating system said of the directory.
        path: the local path.
    """
    made = LocalFileError(
        f"{path} is in place and whole, but may not survive a power loss: {error.strerror or error}",
        ErrorFacts(LocalReason.LOCAL_FILE, fix="Look at the local disk, then download it again."),
        path=path,
    )
    _fill_os_error(made, error.errno, made.message, path)
    return made


def local_file_error(error: OSError, path: str, doing: str) -> LocalFileError:
    """Make the error for a failed operation on a local file.

    Args:
        error: what the operating system said.
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
