"""Table of errors that prove that a finish was not carried out (RSM-25).

Every other error proves nothing: statuses that gRPC or a proxy makes, errors
on the way to the sandbox, of the token, bugs, and a peer that breaks the
protocol. A new reason proves nothing until it is added here.
"""

from __future__ import annotations

from typing import Final

from openshell_files_protocol.reasons import Code, Reason

from openshell_files.errors import FilesError, PermissionDenied, Unauthenticated

#: The call ended before its content could reach the agent: the gateway refused it, found no
#: supervisor to relay it to, or gateway and agent did not authenticate each other.
_BEFORE_THE_SANDBOX: Final = frozenset(
    reason.name
    for reason in (
        Reason.AGENT_UNAUTHENTICATED,
        Reason.FILES_UNSUPPORTED,
        Reason.ISSUER_UNAVAILABLE,
        Reason.METHOD_UNSUPPORTED,
        Reason.RELAY_REFUSED,
        Reason.RELAY_TIMEOUT,
        Reason.SANDBOX_NOT_FOUND,
        Reason.SANDBOX_NOT_READY,
        Reason.SUPERVISOR_NOT_CONNECTED,
        Reason.TOO_MANY_CALLS,
        Reason.TOO_MANY_LANES,
        Reason.TOO_MANY_TRANSFERS,
        Reason.WORKSPACE_NOT_FOUND,
    )
)

#: The gateway or the sandbox refused the stream and its content.
_VERDICTS: Final = frozenset(
    reason.name
    for reason in (
        Reason.ACCESS_DENIED,
        Reason.ARCHIVE_INCOMPLETE,
        Reason.ARCHIVE_INVALID,
        Reason.ARCHIVE_TOO_LARGE,
        Reason.ARCHIVE_UNSUPPORTED,
        Reason.CHUNK_CHECKSUM,
        Reason.CHUNK_TOO_LARGE,
        Reason.CONDITION_FAILED,
        Reason.DIGEST_MISMATCH,
        Reason.DIGEST_UNSUPPORTED,
        Reason.DISK_FULL,
        Reason.FILE_EXISTS,
        Reason.FILE_NOT_FOUND,
        Reason.FILE_TOO_LARGE,
        Reason.FINISH_CONFLICT,
        Reason.INVALID_PATH,
        Reason.INVALID_REQUEST,
        Reason.IS_A_DIRECTORY,
        Reason.LEAF_IS_LINK,
        Reason.NOT_A_DIRECTORY,
        Reason.NOT_A_REGULAR_FILE,
        Reason.OFFSET_MISMATCH,
        Reason.PARENT_NOT_FOUND,
        Reason.PATH_FORBIDDEN,
        Reason.QUOTA_EXCEEDED,
        Reason.READ_ONLY_FILE_SYSTEM,
        Reason.SIZE_MISMATCH,
        Reason.SUPERSEDED,
        Reason.TOO_MANY_UPLOADS,
        Reason.UPLOAD_ABORTED,
        Reason.UPLOAD_CONFLICT,
        Reason.UPLOAD_EXPIRED,
        Reason.UPLOAD_UNKNOWN,
    )
)

#: Verdicts even if another call than the finish's got them. UPLOAD_UNKNOWN is none: the finish may
#: still be on its way, and a sandbox may forget an upload that it published (RSM-25).
_ON_THE_UPLOAD: Final = frozenset(reason.name for reason in (Reason.UPLOAD_ABORTED, Reason.UPLOAD_EXPIRED))


def refused_before_the_sandbox(error: FilesError) -> bool:
    """Return whether a call was refused before it reached the sandbox (AUT-6)."""
    if error.reason in _BEFORE_THE_SANDBOX or method_missing(error):
        return True
    return isinstance(error, Unauthenticated | PermissionDenied)


def method_missing(error: FilesError) -> bool:
    """Return whether the gateway or the sandbox lacks the method of a call, which was then not carried out."""
    return error.reason in {Reason.METHOD_UNSUPPORTED.name, Code.UNIMPLEMENTED.name}


def is_verdict(error: FilesError, *, of_finish: bool) -> bool:
    """Return whether an error proves that nothing was published.

    Args:
        error: error of a call after the finish was sent.
        of_finish: the call is the one that carried the finish. The refusal
            of a later question is no verdict on the finish.
    """
    return error.reason in (_VERDICTS if of_finish else _ON_THE_UPLOAD)
