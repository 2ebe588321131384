"""The limits of how many uploads may be unfinished (RSM-26 to RSM-29)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.upload_life import Event
from openshell_supervisor_sim.agent.upload.registry import Uploads
from openshell_supervisor_sim.agent.upload.status import Caller


class UploadSlots:
    """Slots of unfinished uploads: so many for each principal, and so many for the sandbox.

    Args:
        uploads: that are unfinished.
    """

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._lock = threading.Lock()
        self._reserved: Counter[str] = Counter()

    @contextmanager
    def reserved(self, caller: Caller) -> Generator[None]:
        """Reserve a slot while an upload is admitted.

        If the caller's principal has no slot left, its idle upload that
        changed least recently expires. An upload of another principal never does.

        Raises:
            TransferError: TOO_MANY_UPLOADS.
        """
        while (error := self._reserve(caller)) is not None:
            if not self._expire_one(caller.principal):
                raise error
        try:
            yield
        finally:
            with self._lock:
                self._reserved[caller.principal] -= 1
                if not self._reserved[caller.principal]:
                    del self._reserved[caller.principal]

    def _reserve(self, caller: Caller) -> TransferError | None:
        with self._lock:
            error = self._why_full(caller)
            if error is None:
                self._reserved[caller.principal] += 1
            return error

    def _why_full(self, caller: Caller) -> TransferError | None:
        """Return why the caller gets no slot; call with the lock held."""
        counts = Counter(
            upload.row.principal for upload in self._uploads.all_unfinished() if upload.takes_slot
        )
        counts.update(self._reserved)
        limits = caller.limits
        if (own := counts[caller.principal]) >= limits.max_uploads_per_principal:
            return _too_many(
                f"{own} of your uploads are unfinished, and one caller may have "
                f"{limits.max_uploads_per_principal}",
                "max_uploads_per_principal",
                limits.max_uploads_per_principal,
            )
        if (total := counts.total()) >= limits.max_uploads:
            return _too_many(
                f"{total} uploads of all callers are unfinished in the sandbox, and it may have "
                f"{limits.max_uploads}",
                "max_uploads_per_sandbox",
                limits.max_uploads,
            )
        return None

    def _expire_one(self, principal: str) -> bool:
        """Expire the principal's idle upload that changed least recently; False if it has none."""
        candidates = [upload for upload in self._uploads.unfinished_by(principal) if upload.takes_slot]
        candidates.sort(key=lambda upload: (upload.updated, upload.row.upload_id))
        error = TransferError(Reason.UPLOAD_EXPIRED, "the upload expired for a newer one of its caller")
        return any(
            self._uploads.end_and_remove(
                upload, Event.SLOT_NEEDED, error, failure_reason=Reason.TOO_MANY_UPLOADS.name
            )
            for upload in candidates
        )


def _too_many(message: str, limit: str, value: int) -> TransferError:
    return TransferError(
        Reason.TOO_MANY_UPLOADS,
        f"{message}; `openshell-files uploads` lists yours, `openshell-files abort` ends one",
        {limit: str(value)},
    )
