"""Guarded places: files and directories inside the root that no file method may touch (PTH-7, PTH-8).

There are two kinds. Private: files of the supervisor, which are its token, the shared secret and
the agent's state. Covered: directories over which commands have a directory of the machine mounted,
so that they would not see a file of the sandbox there.

A place is recognized by device and inode, whichever path leads there: over links, a second name or
a mount. It is open while it is guarded, because the number of a removed inode would be reused. It
is also recognized by directory and name, because a token is replaced, and no caller may put a file
where a private one is missing.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.filesystem.handles import FileSystem

#: Device and inode.
Identity = tuple[int, int]

#: Suffix of a file that is about to replace a private one; see `token_file`.
_REPLACEMENT: Final = re.compile(rb"\.[0-9a-f]{16}\Z")

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY


@dataclass(frozen=True, slots=True)
class Guarded:
    """Why a place is refused."""

    message: str
    metadata: tuple[tuple[str, str], ...] = ()

    def refuse(self, path: str) -> TransferError:
        """Make the error for a path that leads to the place."""
        return TransferError(Reason.PATH_FORBIDDEN, f"{path}{self.message}", dict(self.metadata))


_PRIVATE: Final = Guarded(" is a file of the sandbox's supervisor, which cannot be transferred")


def _covered(place: str) -> Guarded:
    return Guarded(
        f": commands in this sandbox see the machine's /{place}, so files below /{place} cannot be transferred",
        (("covered_by", f"/{place}"),),
    )


class Guard:
    """Refuses guarded places. Methods block, and any thread may call them.

    Args:
        fs: system calls.
        root_fd: descriptor of the sandbox's root.
        state_dir: of the agent; everything in it is private.
        private: further files of the supervisor.
        covered: directories that commands see differently, relative to the root.

    Raises:
        OSError: the root or the state directory cannot be opened.
    """

    def __init__(
        self,
        fs: FileSystem,
        root_fd: int,
        *,
        state_dir: Path,
        private: Sequence[Path],
        covered: Iterable[str],
    ) -> None:
        self._fs = fs
        #: Descriptors of guarded places, open so that their inode numbers are not reused.
        self._held: list[int] = []
        self._root = _identity(fs.fstat(root_fd))
        self._directories: dict[Identity, Guarded] = {}
        self._files: dict[Identity, Guarded] = {}
        self._private = private
        self._state_dir = state_dir
        self._names: dict[Identity, tuple[bytes, ...]] = {}
        try:
            self._hold_private()
            for place in covered:
                self._add_covered(root_fd, place)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the guarded places; more than once is fine."""
        while self._held:
            self._fs.close(self._held.pop())

    def refuse_at(self, fd: int, status: os.stat_result, path: str) -> None:
        """Refuse a directory at or below a guarded one, or a guarded file.

        Args:
            fd: O_PATH descriptor of the file or directory.
            status: of it.
            path: for the error.

        Raises:
            TransferError: PATH_FORBIDDEN.
            OSError: the directories above cannot be opened.
        """
        if stat.S_ISDIR(status.st_mode):
            self._refuse_below(fd, status, path)
        else:
            self.refuse_file(status, path)

    def refuse_file(self, status: os.stat_result, path: str) -> None:
        """Refuse a guarded file under any name.

        Raises:
            TransferError: PATH_FORBIDDEN.
        """
        covered = self._files.get(_identity(status))
        if covered is not None:
            raise covered.refuse(path)
        self.refuse_private(status, path)

    def refuse_private(self, status: os.stat_result, path: str) -> None:
        """Refuse a private file under any name.

        A covered file may be replaced: the rename ends the mount, and commands see the new file.

        Raises:
            TransferError: PATH_FORBIDDEN.
        """
        identity = _identity(status)
        # A file of the state directory can have a second name elsewhere.
        if identity in self._private_files() or (status.st_nlink > 1 and identity in self._state_files()):
            raise _PRIVATE.refuse(path)

    def refuse_name(self, parent: os.stat_result, name: bytes, path: str) -> None:
        """Refuse the name of a guarded file in its directory, even if no file is there.

        Raises:
            TransferError: PATH_FORBIDDEN.
        """
        for private in self._names.get(_identity(parent), ()):
            if name == private or (name.startswith(private) and _REPLACEMENT.fullmatch(name, len(private))):
                raise _PRIVATE.refuse(path)

    def _refuse_below(self, fd: int, status: os.stat_result, path: str) -> None:
        """Return the identities of a directory and of all above it, up to the root."""
        if not self._directories:
            return
        current = fd
        try:
            while (here := _identity(status)) != self._root:
                guarded = self._directories.get(here)
                if guarded is not None:
                    raise guarded.refuse(path)
                above = self._fs.open(b"..", _DIRECTORY, dir_fd=current)
                if current != fd:
                    self._fs.close(current)
                current = above
                status = self._fs.fstat(current)
                if _identity(status) == here:
                    return
        finally:
            if current != fd:
                self._fs.close(current)

    def _private_files(self) -> Iterator[Identity]:
        # Read again for each call, because a token is replaced.
        for path in self._private:
            with suppress(OSError):
                yield _identity(os.stat(path))

    def _state_files(self) -> Iterator[Identity]:
        with suppress(OSError), os.scandir(self._state_dir) as entries:
            for entry in entries:
                yield _identity(entry.stat(follow_symlinks=False))

    def _hold_private(self) -> None:
        names: dict[Identity, set[bytes]] = {}
        for directory, name in _places_of(self._private):
            with suppress(OSError):
                identity = _identity(self._hold(self._fs.open(os.fsencode(directory), _DIRECTORY)))
                names.setdefault(identity, set()).add(name)
        self._names = {identity: tuple(found) for identity, found in names.items()}
        with suppress(FileNotFoundError):
            state = self._hold(self._fs.open(os.fsencode(self._state_dir), _DIRECTORY))
            self._directories[_identity(state)] = _PRIVATE

    def _hold(self, fd: int) -> os.stat_result:
        """Keep a descriptor open until `close`, and return its identity."""
        self._held.append(fd)
        return self._fs.fstat(fd)

    def _add_covered(self, root_fd: int, place: str) -> None:
        """Add the directory or file of the sandbox that a mount covers."""
        current = self._fs.duplicate(root_fd)
        try:
            for name in os.fsencode(place).split(b"/"):
                below = self._fs.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=current)
                self._fs.close(current)
                current = below
        except OSError:
            self._fs.close(current)
            return  # It was removed, so nothing is covered.
        status = self._hold(current)
        places = self._directories if stat.S_ISDIR(status.st_mode) else self._files
        places.setdefault(_identity(status), _covered(place))


def _places_of(files: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield directory and name of files, and of the targets of their links."""
    for file in files:
        for path in (os.path.abspath(file), os.path.realpath(file)):
            directory, name = os.path.split(path)
            yield directory, os.fsencode(name)


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino
