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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.paths.ancestors import Identity, ancestors, identity_of

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


def _is_private_name(private: Sequence[bytes], name: bytes) -> bool:
    """Return whether a name is that of a private file, or of a file that is about to replace it."""
    return any(
        name == one or (name.startswith(one) and _REPLACEMENT.fullmatch(name, len(one)) is not None)
        for one in private
    )


class GuardedPlaces:
    """The guarded places at one moment, for an operation on many entries.

    Args:
        places: why each file and directory is refused.
        names: names of private files, by their directory.
    """

    def __init__(self, places: Mapping[Identity, Guarded], names: Mapping[Identity, Sequence[bytes]]) -> None:
        self._places = places
        self._names = names
        self._inodes = frozenset(inode for _, inode in places)

    def may_be(self, inode: int) -> bool:
        """Return whether a file with that inode number may be guarded; its status has to be checked then."""
        return inode in self._inodes

    def at(self, status: os.stat_result) -> Guarded | None:
        """Return why a file or directory is refused; None if it is not guarded."""
        return self._places.get(identity_of(status))

    def names_in(self, directory: os.stat_result) -> Sequence[bytes]:
        """Return the names of private files in a directory."""
        return self._names.get(identity_of(directory), ())

    def named(self, private: Sequence[bytes], name: bytes) -> Guarded | None:
        """Return why a name is refused; None if it is not guarded.

        Args:
            private: `names_in` its directory.
            name: in it.
        """
        return _PRIVATE if private and _is_private_name(private, name) else None


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
        #: Directories that have a guarded place in them, or are one, and why it is refused.
        self._inside: list[tuple[int, Guarded]] = []
        self._root = identity_of(fs.fstat(root_fd))
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
            self._refuse_below(fd, path)
        else:
            self.refuse_file(status, path)

    def refuse_file(self, status: os.stat_result, path: str) -> None:
        """Refuse a guarded file under any name.

        Raises:
            TransferError: PATH_FORBIDDEN.
        """
        covered = self._files.get(identity_of(status))
        if covered is not None:
            raise covered.refuse(path)
        self.refuse_private(status, path)

    def refuse_private(self, status: os.stat_result, path: str) -> None:
        """Refuse a private file under any name.

        A covered file may be replaced: the rename ends the mount, and commands see the new file.

        Raises:
            TransferError: PATH_FORBIDDEN.
        """
        identity = identity_of(status)
        # A file of the state directory can have a second name elsewhere.
        if identity in self._private_files() or (status.st_nlink > 1 and identity in self._state_files()):
            raise _PRIVATE.refuse(path)

    def refuse_name(self, parent: os.stat_result, name: bytes, path: str) -> None:
        """Refuse the name of a guarded file in its directory, even if no file is there.

        Raises:
            TransferError: PATH_FORBIDDEN.
        """
        if _is_private_name(self._names.get(identity_of(parent), ()), name):
            raise _PRIVATE.refuse(path)

    def refuse_around(self, status: os.stat_result, path: str) -> None:
        """Refuse a directory that has a guarded place somewhere below it.

        Args:
            status: of the directory.
            path: for the error.

        Raises:
            TransferError: PATH_FORBIDDEN.
            OSError: a directory above a guarded place cannot be opened.
        """
        wanted = identity_of(status)
        for fd, guarded in self._inside:
            if wanted in ancestors(self._fs, fd, self._root):
                raise TransferError(
                    Reason.PATH_FORBIDDEN,
                    f"{path} has a directory below it that cannot be removed, moved or copied: it has files "
                    "of the sandbox's supervisor, or commands see the machine's directory there",
                    dict(guarded.metadata),
                )

    def snapshot(self) -> GuardedPlaces:
        """Return the guarded places as they are now, for an operation on many entries."""
        private = dict.fromkeys((*self._private_files(), *self._state_files()), _PRIVATE)
        return GuardedPlaces({**self._directories, **self._files, **private}, dict(self._names))

    def _refuse_below(self, fd: int, path: str) -> None:
        """Refuse a directory at or below a guarded one."""
        if not self._directories:
            return
        for here in ancestors(self._fs, fd, self._root):
            guarded = self._directories.get(here)
            if guarded is not None:
                raise guarded.refuse(path)

    def _private_files(self) -> Iterator[Identity]:
        # Read again for each call, because a token is replaced.
        for path in self._private:
            with suppress(OSError):
                yield identity_of(os.stat(path))

    def _state_files(self) -> Iterator[Identity]:
        with suppress(OSError), os.scandir(self._state_dir) as entries:
            for entry in entries:
                yield identity_of(entry.stat(follow_symlinks=False))

    def _hold_private(self) -> None:
        names: dict[Identity, set[bytes]] = {}
        for directory, name in _places_of(self._private):
            with suppress(OSError):
                fd = self._fs.open(os.fsencode(directory), _DIRECTORY)
                identity = identity_of(self._hold(fd))
                self._inside.append((fd, _PRIVATE))
                names.setdefault(identity, set()).add(name)
        self._names = {identity: tuple(found) for identity, found in names.items()}
        with suppress(FileNotFoundError):
            fd = self._fs.open(os.fsencode(self._state_dir), _DIRECTORY)
            self._directories[identity_of(self._hold(fd))] = _PRIVATE
            self._inside.append((fd, _PRIVATE))

    def _hold(self, fd: int) -> os.stat_result:
        """Keep a descriptor open until `close`, and return its identity."""
        self._held.append(fd)
        return self._fs.fstat(fd)

    def _add_covered(self, root_fd: int, place: str) -> None:
        """Add the directory or file of the sandbox that a mount covers."""
        current = directory = self._fs.duplicate(root_fd)
        try:
            for name in os.fsencode(place).split(b"/"):
                below = self._fs.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=current)
                if directory != current:
                    self._fs.close(directory)
                directory, current = current, below
        except OSError:
            for fd in {directory, current}:
                self._fs.close(fd)
            return  # It was removed, so nothing is covered.
        status, guarded = self._hold(current), _covered(place)
        self._hold(directory)
        if stat.S_ISDIR(status.st_mode):
            self._directories.setdefault(identity_of(status), guarded)
            self._inside.append((current, guarded))
        else:
            self._files.setdefault(identity_of(status), guarded)
            self._inside.append((directory, guarded))


def _places_of(files: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield directory and name of files, and of the targets of their links."""
    for file in files:
        for path in (os.path.abspath(file), os.path.realpath(file)):
            directory, name = os.path.split(path)
            yield directory, os.fsencode(name)
