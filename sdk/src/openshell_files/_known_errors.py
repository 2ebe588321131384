"""Exceptions of the error table's rows, by their reasons.

It does not import protobuf, which the checks of arguments do not need.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from openshell_files_protocol.errors import FieldViolation
from openshell_files_protocol.reasons import Reason

from openshell_files import errors
from openshell_files.errors import ErrorFacts, FilesError, LocalReason

#: Class of each reason, even of calls that this SDK does not make. A test checks that none is missing.
CLASS_BY_REASON: Final[Mapping[Reason, type[FilesError]]] = {
    Reason.INVALID_REQUEST: errors.InvalidRequest,
    Reason.INVALID_PATH: errors.InvalidPath,
    Reason.ARCHIVE_UNSUPPORTED: errors.Unsupported,
    Reason.DIGEST_UNSUPPORTED: errors.Unsupported,
    Reason.METHOD_UNSUPPORTED: errors.Unsupported,
    Reason.CHUNK_TOO_LARGE: errors.InvalidRequest,
    Reason.FILE_TOO_LARGE: errors.FileTooLarge,
    Reason.TREE_TOO_LARGE: errors.FileTooLarge,
    Reason.ARCHIVE_INVALID: errors.InvalidArchive,
    Reason.ARCHIVE_TOO_LARGE: errors.FileTooLarge,
    Reason.TOKEN_MISSING: errors.Unauthenticated,
    Reason.TOKEN_MALFORMED: errors.Unauthenticated,
    Reason.TOKEN_EXPIRED: errors.Unauthenticated,
    Reason.TOKEN_NOT_YET_VALID: errors.Unauthenticated,
    Reason.TOKEN_WRONG_AUDIENCE: errors.Unauthenticated,
    Reason.TOKEN_WRONG_ISSUER: errors.Unauthenticated,
    Reason.TOKEN_UNKNOWN_KEY: errors.Unauthenticated,
    Reason.TOKEN_BAD_ALGORITHM: errors.Unauthenticated,
    Reason.TOKEN_BAD_SIGNATURE: errors.Unauthenticated,
    Reason.TOKEN_CLAIM_INVALID: errors.Unauthenticated,
    Reason.ISSUER_UNAVAILABLE: errors.Unavailable,
    Reason.ROLE_REQUIRED: errors.PermissionDenied,
    Reason.SCOPE_REQUIRED: errors.PermissionDenied,
    Reason.PRINCIPAL_NOT_ALLOWED: errors.PermissionDenied,
    Reason.SANDBOX_MISMATCH: errors.PermissionDenied,
    Reason.SANDBOX_NOT_FOUND: errors.SandboxNotFound,
    Reason.SANDBOX_NOT_READY: errors.SandboxNotReady,
    Reason.SUPERVISOR_NOT_CONNECTED: errors.Unavailable,
    Reason.FILES_UNSUPPORTED: errors.Unsupported,
    Reason.EXEC_UNSUPPORTED: errors.Unsupported,
    Reason.SESSION_OUTDATED: errors.Unavailable,
    Reason.WORKSPACE_NOT_FOUND: errors.SandboxNotFound,
    Reason.SANDBOX_EXISTS: errors.InvalidRequest,
    Reason.SANDBOX_NOT_MANAGED: errors.Unsupported,
    Reason.COMPUTE_UNAVAILABLE: errors.Unsupported,
    Reason.TOO_MANY_SANDBOXES: errors.ResourceExhausted,
    Reason.REQUEST_ID_PAYLOAD_MISMATCH: errors.InvalidRequest,
    Reason.RELAY_REFUSED: errors.Unavailable,
    Reason.RELAY_TIMEOUT: errors.DeadlineExceeded,
    Reason.RELAY_LOST: errors.Unavailable,
    Reason.RELAY_UNKNOWN: errors.InternalError,
    Reason.RELAY_REQUESTER_GONE: errors.InternalError,
    Reason.AGENT_PROTOCOL_ERROR: errors.InternalError,
    Reason.AGENT_UNAUTHENTICATED: errors.InternalError,
    Reason.TRANSFER_IDLE: errors.DeadlineExceeded,
    Reason.GATEWAY_SHUTTING_DOWN: errors.Unavailable,
    Reason.FILE_NOT_FOUND: errors.FileNotFound,
    Reason.PARENT_NOT_FOUND: errors.ParentNotFound,
    Reason.IS_A_DIRECTORY: errors.IsADirectory,
    Reason.NOT_A_DIRECTORY: errors.NotADirectory,
    Reason.NOT_A_REGULAR_FILE: errors.NotARegularFile,
    Reason.LEAF_IS_LINK: errors.LeafIsLink,
    Reason.PATH_FORBIDDEN: errors.PathForbidden,
    Reason.ACCESS_DENIED: errors.AccessDenied,
    Reason.READ_ONLY_FILE_SYSTEM: errors.ReadOnlyFileSystem,
    Reason.FILE_EXISTS: errors.FileExists,
    Reason.CONDITION_FAILED: errors.ConditionFailed,
    Reason.DIRECTORY_NOT_EMPTY: errors.DirectoryNotEmpty,
    Reason.OTHER_FILE_SYSTEM: errors.OtherFileSystem,
    Reason.MOUNT_POINT: errors.MountPoint,
    Reason.DISK_FULL: errors.DiskFull,
    Reason.QUOTA_EXCEEDED: errors.QuotaExceeded,
    Reason.IO_ERROR: errors.StorageError,
    Reason.OFFSET_MISMATCH: errors.IntegrityError,
    Reason.RANGE_INVALID: errors.RangeInvalid,
    Reason.CHUNK_CHECKSUM: errors.IntegrityError,
    Reason.SIZE_MISMATCH: errors.IntegrityError,
    Reason.DIGEST_MISMATCH: errors.IntegrityError,
    Reason.UPLOAD_INCOMPLETE: errors.Unavailable,
    Reason.UPLOAD_UNKNOWN: errors.UploadUnknown,
    Reason.UPLOAD_EXPIRED: errors.UploadUnknown,
    Reason.UPLOAD_ABORTED: errors.UploadAborted,
    Reason.UPLOAD_CONFLICT: errors.UploadConflict,
    Reason.FINISH_CONFLICT: errors.UploadConflict,
    Reason.SUPERSEDED: errors.UploadSuperseded,
    Reason.ARCHIVE_INCOMPLETE: errors.IntegrityError,
    Reason.TREE_INCOMPLETE: errors.TreeIncomplete,
    Reason.FILE_CHANGED: errors.FileChanged,
    Reason.VERSION_MISMATCH: errors.FileChanged,
    Reason.SUPERVISOR_FLOODS: errors.ResourceExhausted,
    Reason.TOO_MANY_UPLOADS: errors.ResourceExhausted,
    Reason.TOO_MANY_TRANSFERS: errors.ResourceExhausted,
    Reason.TOO_MANY_CALLS: errors.ResourceExhausted,
    Reason.TOO_MANY_LANES: errors.ResourceExhausted,
    Reason.LANE_LOST: errors.Unavailable,
    Reason.COMMAND_NOT_STARTED: errors.Unavailable,
    Reason.COMMAND_LOST: errors.InternalError,
    Reason.TOO_MANY_COMMANDS: errors.ResourceExhausted,
    Reason.INTERNAL: errors.InternalError,
}

#: Fix for a gateway that has fewer methods or fields than this SDK needs.
EXTENSIONS_FIX: Final = (
    "Use a gateway that has the extensions of docs/protocol.md; UploadFile and DownloadFile of the RFC alone "
    "cannot be verified."
)


def error_from_reason(
    reason: Reason,
    message: str,
    *,
    metadata: Mapping[str, str] | None = None,
    field_violations: tuple[FieldViolation, ...] = (),
    retry_delay: float | None = None,
    path: str = "",
) -> FilesError:
    """Return the exception of a row of the error table."""
    facts = ErrorFacts(
        reason.name,
        reason.row.code,
        reason.row.retry,
        reason.row.fix,
        metadata or {},
        field_violations,
        retry_delay,
    )
    return CLASS_BY_REASON[reason](message, facts, path=path)


def idle_error(seconds: float, doing: str) -> FilesError:
    """Return the error for an idle call.

    Args:
        seconds: the idle timeout.
        doing: the missing movement: "sent", "received" or "answered".
    """
    return error_from_reason(Reason.TRANSFER_IDLE, f"nothing was {doing} for {seconds:g} seconds")


def timeout_error(seconds: float) -> FilesError:
    """Return the error for a call that exceeds the caller's timeout."""
    return errors.DeadlineExceeded(
        f"the call took longer than its timeout of {seconds:g} seconds",
        ErrorFacts(LocalReason.TIMEOUT, fix="Allow more time, or resume it."),
    )
