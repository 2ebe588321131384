"""Errors of trees: of the engine as errors of this SDK, of gateways without trees, of an unknown outcome."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Code, Reason

from openshell_files._core.directories.outcome import is_verdict
from openshell_files._core.trees.stream import broken
from openshell_files._core.upload.finish_outcome import method_missing, refused_before_the_sandbox
from openshell_files._known_errors import error_from_reason
from openshell_files.errors import (
    ErrorFacts,
    FilesError,
    LocalReason,
    NothingMatched,
    OutcomeUnknown,
    local_file_error,
)

_WITHOUT_TREES: Final = (
    "Use a gateway and a supervisor with trees. Without them send each file with upload_path, or a tar archive "
    "that a command in the sandbox unpacks."
)

#: Error numbers of reasons that the engine finds without a system call.
_NUMBERS: Final[Mapping[Reason, int]] = {
    Reason.FILE_EXISTS: errno.EEXIST,
    Reason.FILE_NOT_FOUND: errno.ENOENT,
    Reason.PARENT_NOT_FOUND: errno.ENOENT,
    Reason.NOT_A_DIRECTORY: errno.ENOTDIR,
    Reason.LEAF_IS_LINK: errno.ELOOP,
    Reason.ACCESS_DENIED: errno.EACCES,
    Reason.READ_ONLY_FILE_SYSTEM: errno.EROFS,
    Reason.DISK_FULL: errno.ENOSPC,
    Reason.QUOTA_EXCEEDED: errno.EDQUOT,
    Reason.MOUNT_POINT: errno.EBUSY,
    Reason.OTHER_FILE_SYSTEM: errno.EXDEV,
    Reason.IO_ERROR: errno.EIO,
}


def local_failure(error: TransferError, path: str, doing: str) -> FilesError:
    """Return the error for a failure on the local disk.

    Args:
        error: of the engine.
        path: the local directory.
        doing: the operation, as in "cannot read".
    """
    name = error.metadata.get("errno", "")
    number: int | None = getattr(errno, name, None) if name else _NUMBERS.get(error.reason)
    if number is not None:
        return local_file_error(OSError(number, error.message), path, doing)
    return error_from_reason(
        error.reason,
        error.message,
        metadata=error.metadata,
        field_violations=tuple(error.field_violations),
        path=path,
    )


def receiving_failure(error: TransferError, path: str, method: str) -> FilesError:
    """Return the error of a receiver: of the local disk, or of a sandbox that breaks the protocol.

    Args:
        error: of the engine.
        path: the local directory.
        method: name of the method, for messages.
    """
    if error.reason in {Reason.INVALID_REQUEST, Reason.AGENT_PROTOCOL_ERROR}:
        return broken(method, error.message)
    return local_failure(error, path, "cannot write")


def without_trees(error: FilesError) -> None:
    """Name the alternatives in the error of a gateway or a sandbox that does not have trees (TRE-1)."""
    if method_missing(error):
        error.facts = replace(error.facts, fix=_WITHOUT_TREES)
        if error.reason == Code.UNIMPLEMENTED.name:
            error.reword(f"the gateway cannot transfer directories ({error.message})")


def nothing_matched(path: str) -> NothingMatched:
    """Return the error of patterns that leave nothing of a tree."""
    return NothingMatched(
        f"nothing of {path} is left by include, exclude, gitignore and links",
        ErrorFacts(
            LocalReason.NOTHING_MATCHED, fix="Check the patterns: they are relative to the directory."
        ),
        path=path,
    )


def proves_nothing(error: FilesError) -> bool:
    """Return whether a tree may be published although its stream failed with `error` after its end was sent."""
    verdict = is_verdict(error) or error.reason in {Reason.TREE_INCOMPLETE.name, Reason.TREE_TOO_LARGE.name}
    return error.code is not None and not verdict and not refused_before_the_sandbox(error)


def outcome_unknown(error: FilesError, path: str) -> OutcomeUnknown:
    """Return the error of a tree that may or may not have been published."""
    return OutcomeUnknown(
        f"the whole tree was sent, but whether it was published is unknown: {error.message}",
        ErrorFacts(
            LocalReason.OUTCOME_UNKNOWN, fix="Look at the path in the sandbox before you repeat the call."
        ),
        path=path,
    )
