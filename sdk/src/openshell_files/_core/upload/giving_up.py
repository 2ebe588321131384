"""What becomes of an upload that ends without success: kept for somebody who can go on, or freed.

The rule: who gives up frees what nobody can resume (RSM-10). Somebody can if the
source can be read again and the caller has the upload's id: it gave it, or
was told it, by a `FilesError` that carries it or by its progress callback.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from openshell_files_protocol.reasons import Reason, Retry

from openshell_files.errors import (
    DeadlineExceeded,
    DiskFull,
    FilesError,
    OutcomeUnknown,
    QuotaExceeded,
    SourceNotReplayable,
    Unavailable,
    UploadAborted,
    UploadConflict,
    UploadSuperseded,
    UploadUnknown,
)

#: Seconds that a failed call takes longer at most to free what it leaves behind.
FREEING_SECONDS: Final = 1.0

#: Seconds that it takes at most where nobody waits for it.
ERRAND_SECONDS: Final = 3.0

#: Seconds beyond a caller's `timeout` in which it is asked whether a file was
#: published whose finish had left.
GRACE_SECONDS: Final = 1.0

#: There is nothing left, or it is another attempt's.
_NOT_OURS: Final = (UploadSuperseded, UploadUnknown, UploadAborted, UploadConflict)
_FREED_BY_A_REFUSED_FINISH: Final = frozenset(
    reason.name
    for reason in (
        Reason.SIZE_MISMATCH,
        Reason.DIGEST_MISMATCH,
        Reason.FILE_EXISTS,
        Reason.CONDITION_FAILED,
        Reason.FINISH_CONFLICT,
    )
)


class ClientClosedError(RuntimeError):
    """The client was closed while a transfer was running."""


@dataclass(frozen=True, slots=True)
class Remains:
    """What is known of an upload when its call ends.

    Attributes:
        upload_id: its name; empty if that is not known.
        announced: the sandbox may know it by its request id.
        inline: it was begun without StartUpload.
        replayable: its source can be read again.
        id_given: the caller named the upload.
        id_told: a progress callback was told its name.
    """

    upload_id: str
    announced: bool
    inline: bool
    replayable: bool
    id_given: bool
    id_told: bool


def is_to_be_freed(remains: Remains, error: BaseException) -> bool:
    """Return whether nobody goes on with an upload that `error` ended."""
    if not remains.announced:
        return False
    if not isinstance(error, FilesError):
        # An Exception is the source's or the callback's own, and deliberate. Anything
        # else (a cancellation, Ctrl-C, a client that is closed elsewhere) interrupts a
        # caller that may know the upload.
        interrupted = not isinstance(error, Exception) or isinstance(error, ClientClosedError)
        known = remains.id_given or (interrupted and remains.id_told)
        return not (remains.replayable and remains.upload_id and known)
    if isinstance(error, _NOT_OURS) or error.reason in _FREED_BY_A_REFUSED_FINISH:
        return False
    if isinstance(error, DiskFull | QuotaExceeded):
        # What is staged is part of what fills the disk.
        return bool(remains.upload_id) or remains.inline
    if isinstance(error, OutcomeUnknown):
        return not remains.replayable
    if remains.upload_id:
        return not (remains.replayable and error.upload_id)
    # Unnamed: a refusal left nothing, a lost answer or a broken stream may have.
    return (remains.inline and error.retry is not Retry.NEVER) or is_lost(error)


def is_lost(error: FilesError) -> bool:
    """Return whether an error says nothing of the gateway's work: the connection or the time is gone."""
    return isinstance(error, Unavailable | DeadlineExceeded | SourceNotReplayable)
