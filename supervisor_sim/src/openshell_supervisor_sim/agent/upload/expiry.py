"""Expiry: ends uploads without a byte for too long, and deletes old outcomes (RSM-8, RSM-22)."""

from __future__ import annotations

from collections.abc import Callable

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.upload_life import Event
from openshell_supervisor_sim.agent.store.journal import Journal
from openshell_supervisor_sim.agent.upload.registry import Uploads


class Expiry:
    """Sweeps the uploads of one sandbox.

    Args:
        uploads: all uploads of the sandbox.
        journal: has the rows of ended uploads.
        clock: seconds since 1970.
        tombstone_seconds: how long the row of an ended upload is stored.
    """

    def __init__(
        self, uploads: Uploads, journal: Journal, clock: Callable[[], float], tombstone_seconds: float
    ) -> None:
        self._uploads = uploads
        self._journal = journal
        self._clock = clock
        self._tombstone_seconds = tombstone_seconds

    def sweep(self) -> int:
        """Expire uploads, write rows that failed before, remove staging files that stayed, delete old rows; blocks.

        Returns:
            Uploads that expired.

        Raises:
            TransferError: the journal cannot be written.
        """
        now = self._clock()
        expired = 0
        for upload in self._uploads.all_in_memory():
            age = now - upload.updated
            if not upload.unfinished:
                self._uploads.conclude_again(upload, forget=age > self._tombstone_seconds)
            elif age > upload.row.expiry:
                error = TransferError(
                    Reason.UPLOAD_EXPIRED, f"no byte came for {upload.row.expiry:g} seconds"
                )
                expired += self._uploads.end_and_remove(upload, Event.EXPIRED, error)
        self._uploads.leftovers.remove_noted()
        self._journal.purge(now - self._tombstone_seconds)
        return expired
