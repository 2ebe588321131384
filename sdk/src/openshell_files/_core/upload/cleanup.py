"""Decides whether the staged bytes of a failed upload are freed or left for a resume (RSM-37).

They are left only if the source can be read again and the caller has the
upload's id: it passed the id, or received it in a `FilesError` or through its
progress callback.
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

#: Most seconds by which freeing delays a failed call.
FREEING_SECONDS: Final = 1.0

#: Most seconds of freeing in the background.
BACKGROUND_SECONDS: Final = 3.0

#: Seconds after the caller's `timeout` for the question whether a finish that was sent was carried out.
GRACE_SECONDS: Final = 1.0

#: Nothing is staged, or another attempt has taken the upload over.
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
class EndedUpload:
    """Facts about an upload whose call ends without success.

    Attributes:
        upload_id: the sandbox's id of the upload; empty if unknown.
        announced: the sandbox may keep the upload by its request id.
        inline: the upload was begun without StartUpload.
        replayable: the source can be read again.
        id_given: the caller passed the upload's id.
        id_told: a progress callback received the id.
    """

    upload_id: str
    announced: bool
    inline: bool
    replayable: bool
    id_given: bool
    id_told: bool


def must_be_freed(upload: EndedUpload, error: BaseException) -> bool:
    """Return whether no caller can resume an upload that `error` ended."""
    if not upload.announced:
        return False
    if not isinstance(error, FilesError):
        # An Exception comes from the source or the callback, and is deliberate. All else
        # (a cancellation, Ctrl-C, another thread that closes the client) interrupts a
        # caller that may know the upload.
        interrupted = not isinstance(error, Exception) or isinstance(error, ClientClosedError)
        known = upload.id_given or (interrupted and upload.id_told)
        return not (upload.replayable and upload.upload_id and known)
    if isinstance(error, _NOT_OURS) or error.reason in _FREED_BY_A_REFUSED_FINISH:
        return False
    if isinstance(error, DiskFull | QuotaExceeded):
        # The staged bytes are part of what fills the disk.
        return bool(upload.upload_id) or upload.inline
    if isinstance(error, OutcomeUnknown):
        # No caller resumes a small file, so it is freed unless it was published.
        return upload.inline or not upload.replayable
    if upload.upload_id:
        return not (upload.replayable and error.upload_id)
    # Without an id: a refusal staged nothing, a lost answer or a broken stream may have.
    return (upload.inline and error.retry is not Retry.NEVER) or is_lost(error)


def is_lost(error: FilesError) -> bool:
    """Return whether an error tells nothing about the gateway's work: the connection or the time is used up."""
    return isinstance(error, Unavailable | DeadlineExceeded | SourceNotReplayable)
