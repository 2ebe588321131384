"""What an error tells about a change in the sandbox: nothing happened, the agent's verdict, or unknown (DIR-16)."""

from __future__ import annotations

from typing import Final

from openshell_files_protocol.reasons import Reason

from openshell_files._core.upload.finish_outcome import refused_before_the_sandbox
from openshell_files.errors import ErrorFacts, FilesError, LocalReason, OutcomeUnknown

#: The agent carried the request out as far as the error tells, or not at all.
_VERDICTS: Final = frozenset(
    reason.name
    for reason in (
        Reason.ACCESS_DENIED,
        Reason.CONDITION_FAILED,
        Reason.DIGEST_UNSUPPORTED,
        Reason.DIRECTORY_NOT_EMPTY,
        Reason.DISK_FULL,
        Reason.FILE_CHANGED,
        Reason.FILE_EXISTS,
        Reason.FILE_NOT_FOUND,
        Reason.FILE_TOO_LARGE,
        Reason.INVALID_PATH,
        Reason.INVALID_REQUEST,
        Reason.IO_ERROR,
        Reason.IS_A_DIRECTORY,
        Reason.LEAF_IS_LINK,
        Reason.MOUNT_POINT,
        Reason.NOT_A_DIRECTORY,
        Reason.NOT_A_REGULAR_FILE,
        Reason.OTHER_FILE_SYSTEM,
        Reason.PARENT_NOT_FOUND,
        Reason.PATH_FORBIDDEN,
        Reason.QUOTA_EXCEEDED,
        Reason.READ_ONLY_FILE_SYSTEM,
    )
)


def nothing_happened(error: FilesError) -> bool:
    """Return whether a call ended before the sandbox changed, so that it may be repeated.

    A timeout of this process is one before the request is sent; later ones are statuses of gRPC.
    """
    if error.reason == LocalReason.TIMEOUT:
        return True
    return refused_before_the_sandbox(error) and error.reason not in _VERDICTS


def is_verdict(error: FilesError) -> bool:
    """Return whether the agent answered: a removal may have removed a part, which the metadata counts."""
    return error.reason in _VERDICTS


def outcome_unknown(error: FilesError, what: str) -> OutcomeUnknown:
    """Return the error of a change that may or may not have been made.

    Args:
        error: error of the call.
        what: the change, as in "removed".
    """
    return OutcomeUnknown(
        f"the request was sent, but whether it was {what} is unknown: {error.message}",
        ErrorFacts(
            LocalReason.OUTCOME_UNKNOWN, fix="Look at the path in the sandbox before you repeat the call."
        ),
        path=error.path,
    )
