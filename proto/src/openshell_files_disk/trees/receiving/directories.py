"""The directories of a tree that are announced and not complete: a path of open ones, and pending ones (TRE-4, TRE-47)."""

from __future__ import annotations

from collections.abc import Iterator

from openshell_files_disk.trees.receiving.names import Names


class Directory:
    """A directory of the tree.

    Attributes:
        above: the directory that has its name; None for the top directory.
        name: of the directory; empty for the top directory.
        entry: its number; -1 if it was not announced.
        fresh: this transfer made it, or would, so nothing is in it that this transfer did not put there.
        failed: it is not in place, so nothing below it can be.
        pending: entries of it that are not complete, and 1 while it is open.
        mode: permission bits that it gets when it is complete; None leaves them.
        modified_ns: modified time that it gets then, in nanoseconds since 1970; None leaves it.
        mode_before: permission bits that it gets back if the transfer fails; None leaves them.
        private: of the guard, see `TreeGuard.names_in`.
        told: a problem of it was told.
        waits: all of its entries were announced, and it waits for content.
        names: all names that were announced in it.
        others: those of anything but a regular file with content.
        directories: those of directories.
        folded: the names as the file system compares them; None if it takes no two for one.
    """

    __slots__ = (
        "above",
        "directories",
        "entry",
        "failed",
        "folded",
        "fresh",
        "mode",
        "mode_before",
        "modified_ns",
        "name",
        "names",
        "others",
        "pending",
        "private",
        "told",
        "waits",
    )

    def __init__(self, above: Directory | None, name: bytes, entry: int, *, fresh: bool, folds: bool) -> None:
        self.above = above
        self.name = name
        self.entry = entry
        self.fresh = fresh
        self.failed = False
        self.pending = 1
        self.mode: int | None = None
        self.modified_ns: int | None = None
        self.mode_before: int | None = None
        self.private: object = None
        self.told = False
        self.waits = False
        self.names: Names | None = Names()
        self.others: Names | None = None
        self.directories: Names | None = None
        self.folded: Names | None = Names() if folds else None

    @property
    def path(self) -> bytes:
        """Path below the top directory."""
        names: list[bytes] = []
        here, above = self, self.above
        while above is not None:
            names.append(here.name)
            here, above = above, above.above
        return b"/".join(reversed(names))

    def add_other(self, name: bytes, *, directory: bool) -> None:
        """Note that a name is not that of a regular file with content."""
        if self.others is None:
            self.others = Names()
        self.others.add(name)
        if directory:
            if self.directories is None:
                self.directories = Names()
            self.directories.add(name)

    def forget_names(self) -> None:
        """Free the names: the directory is complete."""
        self.names = self.others = self.directories = self.folded = None


class OpenDirectories:
    """The directories from the top to the current one, in which entries can be announced.

    Attributes:
        path: of the current directory.
        current: the current directory.

    Args:
        top: the top directory.
    """

    def __init__(self, top: Directory) -> None:
        self.path = b""
        self.current = top
        self._depth = 0

    def enter(self, directory: Directory, path: bytes) -> None:
        """Make a directory in the current one the current one."""
        self.current = directory
        self.path = path
        self._depth += 1

    def leave(self) -> Directory:
        """Make the directory above the current one; return the one that is complete now."""
        left = self.current
        above = left.above
        if above is None:
            raise AssertionError("the top directory has none above")
        self.current = above
        self.path = self.path[: max(0, len(self.path) - len(left.name) - 1)]
        self._depth -= 1
        return left

    def all(self) -> Iterator[Directory]:
        """Yield the open directories, the current one first."""
        here: Directory | None = self.current
        while here is not None:
            yield here
            here = here.above

    def at(self, path: bytes) -> Directory | None:
        """Return the open directory with a path; None if there is none."""
        if path and self.path != path and not self.path.startswith(path + b"/"):
            return None
        here = self.current
        for _ in range(self._depth - (path.count(b"/") + 1 if path else 0)):
            if here.above is None:
                break
            here = here.above
        return here

    def contains(self, path: bytes) -> bool:
        """Return whether a path is that of an open directory."""
        return not path or self.path == path or self.path.startswith(path + b"/")

    def is_at_or_above(self, path: bytes) -> bool:
        """Return whether a path is that of the current directory, or of one below it."""
        return not self.path or path == self.path or path.startswith(self.path + b"/")
