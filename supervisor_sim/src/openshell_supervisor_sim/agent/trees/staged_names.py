"""The notes of a tree's staging directories: made before the directory, dropped after it (TRE-57)."""

from __future__ import annotations

import logging

from openshell_files_protocol.errors import TransferError

from openshell_supervisor_sim.agent.directories.copying import LeftoverNotes
from openshell_supervisor_sim.agent.store.journal import Journal

_log = logging.getLogger(__name__)


class StagedNames:
    """Notes the staging directories of one tree in the journal.

    Args:
        journal: the next start removes what it has.
        leftovers: removes later what stays now.
    """

    def __init__(self, journal: Journal, leftovers: LeftoverNotes) -> None:
        self._journal = journal
        self._leftovers = leftovers
        self._noted: set[tuple[bytes, bytes]] = set()

    def note(self, parent: bytes, name: bytes) -> None:
        """Note a directory that is about to be made.

        Raises:
            TransferError: the journal cannot be written.
        """
        self._journal.add_name(parent, name)
        self._noted.add((parent, name))

    def forget(self, parent: bytes, name: bytes) -> None:
        """Drop the note of a directory that was removed; if that fails, the next start finds no such directory."""
        self._noted.discard((parent, name))
        try:
            self._journal.drop_name(parent, name)
        except TransferError:
            _log.exception("the name of a staging directory that was removed stays in the journal")

    def leave(self, error: TransferError) -> None:
        """Leave what is still there to the sweeper.

        Args:
            error: why it could not be removed.
        """
        for parent, name in self._noted:
            self._leftovers.note(parent, name, error)
        self._noted.clear()
