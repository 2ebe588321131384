"""Which entries of a tree are sent: patterns of gitignore, or the files that git takes (TRE-9, TRE-10)."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from typing import Final, cast

from openshell_files_protocol.errors import invalid
from pathspec import GitIgnoreSpec

#: Group of a pattern's expression that ends with the directory, if the pattern matched a directory.
_DIRECTORY: Final = "ps_d"


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
        self._exclude = _patterns("exclude", exclude)
        self._include = _patterns("include", include)
        self._only = None if only is None else frozenset(path.rstrip(b"/") for path in only)
        self._above = frozenset[bytes]() if self._only is None else _directories_above(self._only)
        #: A directory is announced only once something in it is, since it may have nothing that is sent.
        self.may_leave_directories_empty = self._include is not None or self._only is not None

    def enters(self, path: bytes) -> bool:
        """Return whether something below a directory may be sent."""
        if self._exclude is not None and _ignored(self._exclude, os.fsdecode(path) + "/"):
            return False
        return self._only is None or path in self._above or self._is_below_taken(path)

    def takes(self, path: bytes) -> bool:
        """Return whether an entry that is no directory is sent."""
        if self._exclude is None and not self.may_leave_directories_empty:
            return True
        text = os.fsdecode(path)
        if self._exclude is not None and _ignored(self._exclude, text):
            return False
        if self._include is not None and not self._include.match_file(text):
            return False
        return self._only is None or self._is_below_taken(path)

    def _is_below_taken(self, path: bytes) -> bool:
        only = self._only or frozenset()
        while path not in only:
            path, slash, _ = path.rpartition(b"/")
            if not slash:
                return False
        return True


def _patterns(field: str, patterns: Sequence[str]) -> GitIgnoreSpec | None:
    for number, pattern in enumerate(patterns):
        if not pattern.strip() or "\0" in pattern or "\n" in pattern:
            raise invalid(f"{field}[{number}]", "must be one pattern of gitignore, on one line")
        try:
            GitIgnoreSpec.from_lines([pattern])
        except ValueError as error:
            raise invalid(
                f"{field}[{number}]", f"{pattern!a} is not a pattern of gitignore: {error}"
            ) from error
    return GitIgnoreSpec.from_lines(patterns) if patterns else None


def _ignored(patterns: GitIgnoreSpec, path: str) -> bool:
    """Return whether git would ignore an entry of a directory that is not ignored; the path of a directory ends with `/`.

    The last pattern that matches decides. `match_file` answers for a path alone, and so lets a pattern of a directory
    above match, too.
    """
    for pattern in reversed(list(patterns.patterns)):
        regex = cast("re.Pattern[str] | None", pattern.regex)  # pyright: ignore[reportUnknownMemberType]
        found = regex.match(path) if regex is not None else None
        if found is None:
            continue
        above = found.groupdict().get(_DIRECTORY) is not None and found.end(_DIRECTORY) < len(path)
        if not above:
            return bool(pattern.include)
    return False


def _directories_above(paths: Collection[bytes]) -> frozenset[bytes]:
    above = set[bytes]()
    for path in paths:
        parent = path.rpartition(b"/")[0]
        while parent and parent not in above:
            above.add(parent)
            parent = parent.rpartition(b"/")[0]
    return frozenset(above)
