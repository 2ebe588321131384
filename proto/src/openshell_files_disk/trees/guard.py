"""TreeGuard: what a tree's owner refuses to have read or written, by device and inode (TRE-25, TRE-49)."""

from __future__ import annotations

import os
from typing import Protocol


class TreeGuard(Protocol):
    """Refuses places below the top directory. Each method returns the message for a person, or None.

    The reason is PATH_FORBIDDEN. Methods are called for every entry, so they must be cheap.
    """

    def directory(self, status: os.stat_result) -> str | None:
        """Return why a directory, with everything below it, is refused."""
        ...

    def names_in(self, status: os.stat_result) -> object:
        """Return what `named` needs to know of a directory; None if no name in it is refused.

        Args:
            status: of the directory.
        """
        ...

    def named(self, names: object, name: bytes) -> str | None:
        """Return why a name is refused, even if nothing has it.

        Args:
            names: `names_in` its directory, not None.
            name: in it.
        """
        ...

    def file(self, status: os.stat_result) -> str | None:
        """Return why a file of any type but a directory is refused, under any of its names."""
        ...
