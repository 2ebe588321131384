"""Decides after which errors an upload changes its plan instead of spending a retry.

`RetryBudget` in `_core/retry.py` decides about all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from openshell_files_protocol.limits import MIN_CHUNK_LIMIT_BYTES
from openshell_files_protocol.reasons import Reason

from openshell_files._core.upload.actions import Action, Look, Send
from openshell_files._core.upload.finish_outcome import method_missing
from openshell_files.errors import FilesError, UploadConflict, UploadUnknown


class Remedy(Enum):
    """Next step after an error."""

    #: The sandbox does not know the upload: begin a new one.
    NEW_UPLOAD = auto()
    #: The gateway lacks a method: StartUpload shows whether it has the extensions at all.
    START_UPLOAD = auto()
    #: The server does not compute the digest that was named alone: name the next one (DIG-8).
    NEXT_DIGEST = auto()
    #: The upload to resume has other metadata: abort it and begin a new one.
    REPLACE_UPLOAD = auto()
    #: Other uploads took the lanes. Nothing reached the sandbox, so begin a new attempt with fewer (LAN-9).
    FEWER_LANES = auto()
    #: The server's limit changed: send chunks that every server takes (UPL-6).
    SMALLER_CHUNKS = auto()
    #: None of these: the retry budget decides.
    RETRY = auto()


@dataclass(frozen=True, slots=True)
class Situation:
    """Facts about an upload that a remedy depends on.

    Attributes:
        resumes: the caller gave the id of an upload, and the sandbox has not
            confirmed yet that it can be resumed.
        inline: the upload was begun without StartUpload and has no id.
        digests_left: another algorithm can be named.
        lanes_can_shrink: the upload may be refused for its lanes once more.
    """

    resumes: bool
    inline: bool
    digests_left: bool
    lanes_can_shrink: bool


def remedy(error: FilesError, failed: Action, situation: Situation) -> Remedy:
    """Return the next step after `error` ended the action `failed`."""
    if isinstance(failed, Look) and isinstance(error, UploadUnknown):
        return Remedy.NEW_UPLOAD
    if situation.resumes and isinstance(error, UploadConflict):
        return Remedy.REPLACE_UPLOAD
    if error.reason == Reason.TOO_MANY_LANES.name and situation.lanes_can_shrink:
        return Remedy.FEWER_LANES
    if isinstance(failed, Send):
        if situation.inline and method_missing(error):
            return Remedy.START_UPLOAD
        names_one_digest = situation.inline and situation.digests_left
        if error.reason == Reason.DIGEST_UNSUPPORTED.name and names_one_digest:
            return Remedy.NEXT_DIGEST
        large = failed.chunk_bytes > MIN_CHUNK_LIMIT_BYTES
        if error.reason == Reason.CHUNK_TOO_LARGE.name and large:
            return Remedy.SMALLER_CHUNKS
    return Remedy.RETRY
