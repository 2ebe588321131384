"""Converts the error that ends an upload into the one that its caller gets."""

from __future__ import annotations

from dataclasses import dataclass

from openshell_files_protocol.reasons import Code, Retry

from openshell_files._core.upload.finish_outcome import is_verdict
from openshell_files.errors import (
    ErrorFacts,
    FilesError,
    LocalReason,
    OutcomeUnknown,
    Unavailable,
    UploadInterrupted,
)


@dataclass(frozen=True, slots=True)
class UploadFacts:
    """State of an upload when it failed.

    Attributes:
        path: the destination.
        upload_id: the sandbox's id of the upload; empty if unknown.
        staged: bytes that the sandbox reported as staged; None if it did not.
        finish_sent: True if the sandbox may have received a finish.
        sending: True if the error ended the stream that carries the finish,
            False if it ended a later call.
    """

    path: str
    upload_id: str
    staged: int | None
    finish_sent: bool
    sending: bool


def callers_error(error: FilesError, upload: UploadFacts) -> FilesError:
    """Return the error for the caller: with the upload's id if a later call can resume it.

    A failure after the finish is `OutcomeUnknown` unless it proves that
    nothing was published (RSM-25). A lost connection is `UploadInterrupted`.
    """
    if upload.finish_sent and not is_verdict(error, of_finish=upload.sending):
        unknown = outcome_unknown(error.message, upload)
        unknown.__cause__ = error
        return unknown
    if isinstance(error, Unavailable) and error.retry is not Retry.NEVER and upload.upload_id:
        staged = f"; {upload.staged} bytes are staged" if upload.staged else ""
        error = UploadInterrupted(f"{error.message}{staged}", error.facts, path=upload.path)
    resumable = (
        error.retry in {Retry.AGAIN, Retry.LATER}
        or error.code in {Code.UNAUTHENTICATED, Code.PERMISSION_DENIED}
        or error.reason == LocalReason.TIMEOUT
    )
    if upload.upload_id and resumable:
        error.upload_id = upload.upload_id
        error.staged = upload.staged
    error.about(upload.path)
    return error


def outcome_unknown(why: str, upload: UploadFacts) -> OutcomeUnknown:
    """Return the error of an upload that may or may not be published."""
    error = OutcomeUnknown(
        f"the file was sent completely, but whether it was published is unknown: {why}",
        ErrorFacts(
            LocalReason.OUTCOME_UNKNOWN,
            fix="Ask for the upload's status, or for the file's digest, before sending it again.",
        ),
        path=upload.path,
    )
    error.upload_id = upload.upload_id
    error.staged = upload.staged
    return error
