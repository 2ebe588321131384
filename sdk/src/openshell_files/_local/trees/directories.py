"""Local directories at the ends of a tree: the one that is sent, and the place that receives one."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from dataclasses import dataclass

from openshell_files.errors import ErrorFacts, LocalFileError, LocalReason, Unsupported, local_file_error


def check_system() -> None:
    """Check that this system has the calls that keep a tree inside of its directory.

    Raises:
        Unsupported: it is not Linux.
    """
    if sys.platform != "linux":
        raise Unsupported(
            "directories are transferred from and to Linux only",
            ErrorFacts(LocalReason.LOCAL_FILE, fix="Send a tar archive of the directory."),
        )


def _flags(access: int) -> int:
    return access | os.O_DIRECTORY | os.O_CLOEXEC


def open_source(path: str) -> int:
    """Open the directory that is sent, and return its descriptor; a link to one is followed.

    Raises:
        LocalFileError: it does not exist, is no directory, or cannot be read.
    """
    try:
        return os.open(path, _flags(os.O_RDONLY))
    except OSError as error:
        raise local_file_error(error, path, "cannot read the directory") from error


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """The place of a received top directory.

    Attributes:
        parent: path of the directory above it, with links resolved.
        name: of the top directory.
        missing: names of directories between `parent` and it, which do not exist.
    """

    parent: str
    name: str
    missing: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Absolute path of the top directory."""
        return os.path.join(self.parent, *self.missing, self.name)


def find_place(path: str, *, parents: bool, absent: bool) -> LocalPlace:
    """Return the place of a received directory; nothing is made.

    Args:
        path: of the top directory; a link to a directory is followed.
        parents: directories above it may be missing.
        absent: it must not exist.

    Raises:
        LocalFileError: it is no directory, it is the root, it exists, or a directory above it is missing.
    """
    try:
        resolved = os.path.realpath(path, strict=True)
        if not os.path.isdir(resolved):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if absent:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    except FileNotFoundError:
        resolved = _missing(path)
    except OSError as error:
        raise local_file_error(error, path, "cannot receive a directory at") from error
    parent, name = os.path.split(resolved)
    if not name:
        root = OSError(errno.EBUSY, "the root directory cannot be received")
        raise local_file_error(root, path, "cannot write")
    missing = list[str]()
    while not os.path.isdir(parent):
        if not parents or os.path.lexists(parent):
            raise _no_parent(parent)
        parent, above = os.path.split(parent)
        missing.insert(0, above)
    return LocalPlace(parent, name, tuple(missing))


def _missing(path: str) -> str:
    """Return the path of a top directory that does not exist, with the links above it resolved.

    Raises:
        LocalFileError: it is a link that leads nowhere.
    """
    plain = os.path.abspath(path)
    if os.path.lexists(plain):
        dangling = FileExistsError(errno.EEXIST, "it is a symbolic link that leads nowhere")
        raise local_file_error(dangling, path, "cannot receive a directory at")
    above, name = os.path.split(plain)
    return os.path.join(os.path.realpath(above), name)


def _no_parent(parent: str) -> LocalFileError:
    kind: OSError = NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.path.lexists(parent):
        kind = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return local_file_error(kind, parent, "cannot write into the directory")


def remove_if_empty(path: str) -> None:
    """Remove a directory that nothing was received into."""
    with suppress(OSError):
        os.rmdir(path)


def open_parent(place: LocalPlace) -> int:
    """Make what is missing above a place, and return a descriptor of the directory that gets the top directory.

    Raises:
        LocalFileError: it cannot be made or opened.
    """
    parent = os.path.join(place.parent, *place.missing)
    try:
        if place.missing:
            os.makedirs(parent, exist_ok=True)
        return os.open(parent, _flags(os.O_PATH))
    except OSError as error:
        raise local_file_error(error, parent, "cannot write into the directory") from error
