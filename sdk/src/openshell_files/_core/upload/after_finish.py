"""What an error says of a finish that was sent: not carried out for certain, or nothing (RSM-7).

Everything that is not named here says nothing: statuses that gRPC or a proxy
makes, the way to the sandbox, the token, bugs, and a peer that breaks the
protocol. A reason that is added says nothing until somebody names it.
"""

from __future__ import annotations

from typing import Final

from openshell_files_protocol.reasons import Code, Reason

from openshell_files.errors import FilesError, PermissionDenied, Unauthenticated

#: With these a call ends before any of its content can reach the agent: the gateway did not
#: let it in, found nobody to relay it to, or the agent and the gateway did not know each other.
_AT_THE_DOOR: Final = frozenset(
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

#: With these the gateway or the sandbox refuses the stream itself, and what it carried.
_VERDICTS: Final = frozenset(
    reason.name
    for reason in (
        Reason.ACCESS_DENIED,
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

#: So much of it is true of the upload also when another call than the finish's is answered so.
_OF_THE_UPLOAD: Final = frozenset(
    reason.name for reason in (Reason.UPLOAD_ABORTED, Reason.UPLOAD_EXPIRED, Reason.UPLOAD_UNKNOWN)
)


def at_the_door(error: FilesError) -> bool:
    """Return whether a call was refused before it reached the sandbox (AUT-1)."""
    return error.reason in _AT_THE_DOOR or isinstance(error, Unauthenticated | PermissionDenied)


def no_such_method(error: FilesError) -> bool:
    """Return whether a call was not carried out because the gateway or the sandbox does not have its method."""
    return error.reason in {Reason.METHOD_UNSUPPORTED.name, Code.UNIMPLEMENTED.name}


def is_verdict(error: FilesError, *, of_finish: bool) -> bool:
    """Return whether an error says for certain that nothing was published.

    Args:
        error: of a call behind the finish.
        of_finish: it ended the call that the finish was sent in. What a later
            question is refused with is no word on the finish.
    """
    return error.reason in (_VERDICTS if of_finish else _OF_THE_UPLOAD)
