"""Which entries of a tree are sent: patterns of gitignore, or the files that git takes (TRE-9, TRE-10)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from openshell_files_disk.trees.patterns import Patterns


class Selection:
    """Decides by its path whether an entry is sent.

    Args:
        exclude: patterns of gitignore; what one of them matches is left out, with everything below it.
        include: if there are any, only files that one of these patterns matches are sent.
        only: paths of the files that may be sent; None for all. A directory among them stands for everything below it.

    Raises:
        TransferError: INVALID_REQUEST for `exclude` or `include`, if a pattern cannot be read (TRE-29).
    """

    def __init__(
        self,
        *,
        exclude: Sequence[str] = (),
        include: Sequence[str] = (),
        only: Collection[bytes] | None = None,
    ) -> None:
        self._exclude = Patterns("exclude", exclude) if exclude else None
        self._include = Patterns("include", include) if include else None
        #: The last directory of which an entry was decided, and whether `include` takes all of it.
        self._inside: tuple[bytes, bool] = (b"", False)
        self._only = None if only is None else frozenset(path.rstrip(b"/") for path in only)
        self._above = frozenset[bytes]() if self._only is None else _directories_above(self._only)
        #: A directory is announced only once something in it is, since it may have nothing that is sent.
        self.may_leave_directories_empty = self._include is not None or self._only is not None

    def enters(self, path: bytes) -> bool:
        """Return whether something below a directory may be sent."""
        if self._exclude is not None and self._exclude.match(path, directory=True):
            return False
        return self._only is None or path in self._above or self._is_below_taken(path)

    def takes(self, path: bytes) -> bool:
        """Return whether an entry that is no directory is sent."""
        if self._exclude is None and not self.may_leave_directories_empty:
            return True
        if self._exclude is not None and self._exclude.match(path, directory=False):
            return False
        if self._include is not None and not (
            self._include.match(path, directory=False)
            or self._is_inside(self._include, path.rpartition(b"/")[0])
        ):
            return False
        return self._only is None or self._is_below_taken(path)

    def _is_inside(self, include: Patterns, directory: bytes) -> bool:
        """Return whether a pattern matches a directory or one above it, and so everything in it."""
        if not directory:
            return False
        if self._inside[0] != directory:
            path = directory + b"/"
            above = (path[:end] for end, char in enumerate(path) if char == ord("/"))
            self._inside = (directory, any(include.match(one, directory=True) for one in above))
        return self._inside[1]

    def _is_below_taken(self, path: bytes) -> bool:
        only = self._only or frozenset()
        while path not in only:
            path, slash, _ = path.rpartition(b"/")
            if not slash:
                return False
        return True


def _directories_above(paths: Collection[bytes]) -> frozenset[bytes]:
    above = set[bytes]()
    for path in paths:
        parent = path.rpartition(b"/")[0]
        while parent and parent not in above:
            above.add(parent)
            parent = parent.rpartition(b"/")[0]
    return frozenset(above)
