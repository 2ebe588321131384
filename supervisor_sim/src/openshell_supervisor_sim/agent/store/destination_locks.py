"""Locks of destinations: the comparison with a condition and the rename are one step for callers (CND-6)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from openshell_files_disk.filesystem.errno_reasons import mapped
from openshell_files_disk.filesystem.handles import FileSystem

from openshell_supervisor_sim.agent.paths.location import Location
from openshell_supervisor_sim.agent.store.keyed_locks import KeyedLocks


class DestinationLocks:
    """Lets one operation at a time change each destination.

    Args:
        fs: system calls.
    """

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._locks = KeyedLocks()

    @contextmanager
    def hold(self, *locations: Location) -> Generator[None]:
        """Keep other operations on the same names out."""
        keys = {self._key(location) for location in locations}
        with ExitStack() as held:
            # In one order, so that two operations on the same names do not wait for each other.
            for key in sorted(keys):
                held.enter_context(self._locks.hold(key))
            yield

    def _key(self, location: Location) -> tuple[int, int, bytes]:
        with mapped(f"looking at {location.path}"):
            parent = self._fs.fstat(location.parent_fd)
        return parent.st_dev, parent.st_ino, location.name
