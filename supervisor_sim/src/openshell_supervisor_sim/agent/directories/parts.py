"""The parts of an agent that carry out operations on directories."""

from __future__ import annotations

from dataclasses import dataclass

from openshell_files_disk.filesystem.handles import FileSystem

from openshell_supervisor_sim.agent.core.directory_requests import RemoveRequest
from openshell_supervisor_sim.agent.directories.copying import Copier, LeftoverNotes
from openshell_supervisor_sim.agent.directories.listing import Lister
from openshell_supervisor_sim.agent.directories.moving import Mover
from openshell_supervisor_sim.agent.directories.publishing import Destinations
from openshell_supervisor_sim.agent.directories.removal import Removal
from openshell_supervisor_sim.agent.paths.destination import DestinationCheck
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot
from openshell_supervisor_sim.agent.store.destination_locks import DestinationLocks
from openshell_supervisor_sim.agent.store.journal import Journal
from openshell_supervisor_sim.agent.trace_points import Trace


@dataclass(frozen=True, slots=True)
class DirectoryParts:
    """What the operations on directories share."""

    root: SandboxRoot
    fs: FileSystem
    locks: DestinationLocks
    trace: Trace
    lister: Lister
    mover: Mover
    copier: Copier

    def removal(self, request: RemoveRequest) -> Removal:
        """Return the work of one removal."""
        return Removal(self.root, self.fs, self.locks, request, self.trace)


def directory_parts(
    *,
    root: SandboxRoot,
    fs: FileSystem,
    check: DestinationCheck,
    locks: DestinationLocks,
    journal: Journal,
    leftovers: LeftoverNotes,
    trace: Trace,
) -> DirectoryParts:
    """Compose the parts.

    Args:
        root: the sandbox's root.
        fs: system calls.
        check: compares destinations with conditions.
        locks: of destinations.
        journal: notes staged names.
        leftovers: notes staged directories that could not be removed.
        trace: hook, see `TracePoint`.
    """
    destinations = Destinations(root, check, fs)
    return DirectoryParts(
        root,
        fs,
        locks,
        trace,
        Lister(root, fs),
        Mover(root, fs, destinations, locks),
        Copier(
            root=root,
            fs=fs,
            destinations=destinations,
            locks=locks,
            journal=journal,
            leftovers=leftovers,
            trace=trace,
        ),
    )
