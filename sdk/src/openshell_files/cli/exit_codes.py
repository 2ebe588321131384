"""Exit status: one number per kind of failure, for scripts.

| status | meaning | what a script can do |
|---|---|---|
| 0 | done, and verified | continue |
| 1 | a bug in this command | report it, with OPENSHELL_FILES_TRACEBACK=1 |
| 2 | wrong usage | change the command line |
| 3 | a local file cannot be read or written, or changed meanwhile | check the local file |
| 4 | sandbox, file, directory or upload not found | check the names |
| 5 | the path is refused: not a regular file, a link, forbidden, malformed, not empty | choose another path |
| 6 | not permitted | ask for the permission |
| 7 | not authenticated | get a token |
| 8 | a condition does not hold: it exists, it changed, it was superseded | check the file, and decide again |
| 9 | the content arrived damaged or incomplete | try again |
| 10 | gateway, supervisor or sandbox not available | try again later; an upload with `--resume` |
| 11 | disk, quota or a limit is exhausted, also memory or threads of this process | free something, or raise the limit |
| 12 | a time limit was reached | try again, or allow more time |
| 13 | gateway or sandbox failed | check their logs |
| 14 | gateway or sandbox does not support this | update it |
| 15 | done, and verified, but the report could not be written | do not send it again |
| 16 | the file was sent, and whether it was published is unknown | check with `openshell-files stat`, or repeat it with `--resume`, before it is sent again |
| 17 | a directory arrived, except for the entries that are listed | mend what is listed, and repeat the command |
| 129 | hung up (SIGHUP) | `--resume` resumes an upload; of a directory the same command does |
| 130 | interrupted (SIGINT) | `--resume` resumes an upload; of a directory the same command does |
| 143 | terminated (SIGTERM) | `--resume` resumes an upload; of a directory the same command does |
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from openshell_files import errors


class ExitCode(IntEnum):
    """See the table in this module's docstring."""

    OK = 0
    BUG = 1
    USAGE = 2
    LOCAL_FILE = 3
    NOT_FOUND = 4
    PATH_REFUSED = 5
    NOT_PERMITTED = 6
    NOT_AUTHENTICATED = 7
    CONDITION = 8
    DAMAGED = 9
    UNAVAILABLE = 10
    EXHAUSTED = 11
    TIME_LIMIT = 12
    FAILED = 13
    UNSUPPORTED = 14
    REPORT_LOST = 15
    OUTCOME_UNKNOWN = 16
    PARTIAL = 17
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


#: The first match counts, so subclasses come before their base classes.
_BY_CLASS: Final[tuple[tuple[type[errors.FilesError], ExitCode], ...]] = (
    (errors.LocalFileError, ExitCode.LOCAL_FILE),
    (errors.SandboxNotFound, ExitCode.NOT_FOUND),
    (errors.FileNotFound, ExitCode.NOT_FOUND),
    (errors.UploadUnknown, ExitCode.NOT_FOUND),
    (errors.PathForbidden, ExitCode.PATH_REFUSED),
    (errors.InvalidPath, ExitCode.PATH_REFUSED),
    (errors.IsADirectory, ExitCode.PATH_REFUSED),
    (errors.NotADirectory, ExitCode.PATH_REFUSED),
    (errors.NotARegularFile, ExitCode.PATH_REFUSED),
    (errors.LeafIsLink, ExitCode.PATH_REFUSED),
    (errors.DirectoryNotEmpty, ExitCode.PATH_REFUSED),
    (errors.OtherFileSystem, ExitCode.PATH_REFUSED),
    (errors.MountPoint, ExitCode.PATH_REFUSED),
    (errors.AccessDenied, ExitCode.NOT_PERMITTED),
    (errors.PermissionDenied, ExitCode.NOT_PERMITTED),
    (errors.ReadOnlyFileSystem, ExitCode.NOT_PERMITTED),
    (errors.Unauthenticated, ExitCode.NOT_AUTHENTICATED),
    (errors.FileExists, ExitCode.CONDITION),
    (errors.ConditionFailed, ExitCode.CONDITION),
    (errors.FileChanged, ExitCode.CONDITION),
    (errors.UploadConflict, ExitCode.CONDITION),
    (errors.UploadAborted, ExitCode.CONDITION),
    (errors.UploadSuperseded, ExitCode.CONDITION),
    (errors.InvalidArchive, ExitCode.DAMAGED),
    (errors.InvalidRequest, ExitCode.USAGE),
    (errors.IntegrityError, ExitCode.DAMAGED),
    (errors.Unavailable, ExitCode.UNAVAILABLE),
    (errors.SandboxNotReady, ExitCode.UNAVAILABLE),
    (errors.ResourceExhausted, ExitCode.EXHAUSTED),
    (errors.FileTooLarge, ExitCode.EXHAUSTED),
    (errors.OutcomeUnknown, ExitCode.OUTCOME_UNKNOWN),
    (errors.DeadlineExceeded, ExitCode.TIME_LIMIT),
    (errors.Unsupported, ExitCode.UNSUPPORTED),
    (errors.StorageError, ExitCode.FAILED),
    (errors.InternalError, ExitCode.FAILED),
)


def exit_code(error: errors.FilesError) -> ExitCode:
    """Return the exit status for an error."""
    for kind, code in _BY_CLASS:
        if isinstance(error, kind):
            return code
    return ExitCode.FAILED
