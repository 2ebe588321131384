"""Local target of a download: a temporary file that is renamed when it is complete."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, ParamSpec, TypeVar

from openshell_files_protocol.limits import MAX_NAME_BYTES

from openshell_files._local.special_file import not_replaced
from openshell_files.errors import (
    ErrorFacts,
    LocalIsADirectory,
    LocalReason,
    in_place_error,
    local_file_error,
)

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Length of the temporary name without the file's name.
_DECORATION: Final = len(".") + len(".openshell-") + 16 + len(".part")


@dataclass(frozen=True, slots=True)
class Shown:
    """A complete file before or after its rename.

    Attributes:
        path: its final path.
        device: device number of the file.
        inode: inode number of the file.
    """

    path: str
    device: int
    inode: int

    def is_in_place(self, directory: int | None = None) -> bool:
        """Return whether the file has its final path, by the disk: an interrupted rename leaves that unknown.

        Args:
            directory: descriptor of the directory; None resolves the path again.
        """
        path = self.path if directory is None else os.path.basename(self.path)
        try:
            found = os.stat(path, dir_fd=directory, follow_symlinks=False)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (self.device, self.inode)


_SHOWING: ContextVar[Callable[[Shown], None] | None] = ContextVar("openshell-files-showing", default=None)


@contextmanager
def showing(tell: Callable[[Shown], None]) -> Generator[None]:
    """Call `tell` before each rename, for a caller that reports the state after an interruption.

    An interruption may come while the rename returns, so a note after it would be too late.
    """
    before = _SHOWING.set(tell)
    try:
        yield
    finally:
        _SHOWING.reset(before)


class TargetFile:
    """Receives content in a temporary file and renames it atomically.

    The directory is opened once, so that a swapped directory gets no file. A
    symbolic link at the path is replaced, never followed. No name depends on
    data of the sandbox.

    Args:
        path: the file's path.

    Raises:
        LocalIsADirectory: the path names a directory.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        directory, self._name = os.path.split(path)
        if self._name in {"", ".", ".."}:
            raise _is_a_directory(path)
        self._directory_path = directory or "."
        self._temporary = ""
        self._directory = -1
        self._file = -1

    def open(self) -> None:
        """Create the temporary file.

        Raises:
            LocalIsADirectory: the path is a directory.
            LocalFileError: the directory cannot be written to.
        """
        self._directory = self._calling(
            os.open, self._directory_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        )
        try:
            present = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise local_file_error(error, self._path, "cannot look at") from error
        else:
            if stat.S_ISDIR(present.st_mode):
                raise _is_a_directory(self._path)
            if not (stat.S_ISREG(present.st_mode) or stat.S_ISLNK(present.st_mode)):
                # It was created after the call of `is_written_into`.
                raise not_replaced(self._path, "no regular file")
        stem = os.fsdecode(os.fsencode(self._name)[: MAX_NAME_BYTES - _DECORATION])
        self._temporary = f".{stem}.openshell-{secrets.token_hex(8)}.part"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = self._calling(os.open, self._temporary, flags, 0o600, dir_fd=self._directory)

    def write(self, position: int, data: bytes | memoryview) -> None:
        """Write content at a position in the file."""
        view = memoryview(data)
        while view:
            written = self._calling(os.pwrite, self._file, view, position)
            position += written
            view = view[written:]

    def restart(self) -> None:
        """Drop everything written so far."""
        self._calling(os.ftruncate, self._file, 0)

    def publish(self, size: int, *, mode: int, modified_ns: int | None, fsync: bool) -> None:
        """Rename the file to its path.

        Args:
            size: in bytes; it sets the length of a hole at the end.
            mode: permission bits; other bits are dropped.
            modified_ns: modification time, nanoseconds since the epoch; None
                keeps the time of writing.
            fsync: flush file and directory to the device.

        Raises:
            LocalFileError: a step failed; the old file is untouched, unless
                the message reports that the new file is in place.
        """
        self._calling(os.ftruncate, self._file, size)
        self._calling(os.fchmod, self._file, mode & 0o777)
        if modified_ns is not None:
            self._calling(os.utime, self._file, ns=(modified_ns, modified_ns))
        if fsync:
            self._calling(os.fsync, self._file)
        itself = self._calling(os.fstat, self._file)
        shown = Shown(self._path, itself.st_dev, itself.st_ino)
        # A network file system may report a failed write only at the close.
        self._calling(self._close_file)
        if (tell := _SHOWING.get()) is not None:
            tell(shown)
        try:
            os.replace(self._temporary, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            self._temporary = ""
            if fsync:
                os.fsync(self._directory)
        except OSError as error:
            if shown.is_in_place(self._directory):
                raise in_place_error(error, self._path) from error
            raise local_file_error(error, self._path, "cannot write") from error

    def close(self) -> None:
        """Release everything; remove the temporary file unless it was renamed.

        It raises nothing: an earlier failure is the error, and after `publish`
        no content can be lost.
        """
        with suppress(OSError):
            self._close_file()
        if self._temporary:
            name, self._temporary = self._temporary, ""
            with suppress(OSError):
                os.unlink(name, dir_fd=self._directory)
        if self._directory >= 0:
            descriptor, self._directory = self._directory, -1
            with suppress(OSError):
                os.close(descriptor)

    def _close_file(self) -> None:
        if self._file >= 0:
            descriptor, self._file = self._file, -1
            os.close(descriptor)

    def _calling(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except OSError as error:
            raise local_file_error(error, self._path, "cannot write") from error


def _is_a_directory(path: str) -> LocalIsADirectory:
    return LocalIsADirectory(
        f"{path} is a directory",
        ErrorFacts(LocalReason.LOCAL_IS_A_DIRECTORY, fix="Give the path of the file itself."),
        path=path,
    )
