"""The agent's guarded places as a tree's guard (TRE-25, TRE-49)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import cast

from openshell_supervisor_sim.agent.paths.guard import Guarded, GuardedPlaces


class PlacesGuard:
    """Implements `TreeGuard` by the guarded places at the tree's start.

    Args:
        places: of the sandbox.
    """

    def __init__(self, places: GuardedPlaces) -> None:
        self._places = places

    def directory(self, status: os.stat_result) -> str | None:
        """Return why a directory is refused."""
        return _told(self._places.at(status))

    def names_in(self, status: os.stat_result) -> object:
        """Return the names of private files in a directory; None if there are none."""
        return self._places.names_in(status) or None

    def named(self, names: object, name: bytes) -> str | None:
        """Return why a name is refused."""
        return _told(self._places.named(cast("Sequence[bytes]", names), name))

    def file(self, status: os.stat_result) -> str | None:
        """Return why a file is refused."""
        return _told(self._places.at(status))


def _told(guarded: Guarded | None) -> str | None:
    return None if guarded is None else f"it{guarded.message}"
