"""A local file that is downloaded: written beside its name, shown when it is whole."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Final, ParamSpec, TypeVar

from openshell_files_protocol.limits import MAX_NAME_BYTES

from openshell_files._local.special_file import not_replaced
from openshell_files.errors import ErrorFacts, LocalIsADirectory, LocalReason, local_file_error

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Bytes of the temporary name besides the file's own.
_DECORATION: Final = len(".") + len(".openshell-") + 16 + len(".part")


class TargetFile:
    """Receives content in a temporary file and renames it in one step.

    The directory is opened once, so that a directory swapped meanwhile is
    not written to. A symbolic link at the name is replaced, never followed.
    Nothing that a sandbox says takes part in the choice of a name.

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
            LocalIsADirectory: a directory is at the path.
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
                # It came after `is_written_into` had looked.
                raise not_replaced(self._path, "no regular file")
        stem = os.fsdecode(os.fsencode(self._name)[: MAX_NAME_BYTES - _DECORATION])
        self._temporary = f".{stem}.openshell-{secrets.token_hex(8)}.part"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = self._calling(os.open, self._temporary, flags, 0o600, dir_fd=self._directory)

    def write(self, position: int, data: bytes | memoryview) -> None:
        """Write content at a position, in bytes from the file's start."""
        view = memoryview(data)
        while view:
            written = self._calling(os.pwrite, self._file, view, position)
            position += written
            view = view[written:]

    def restart(self) -> None:
        """Drop everything written so far."""
        self._calling(os.ftruncate, self._file, 0)

    def publish(self, size: int, *, mode: int, modified_ns: int | None, fsync: bool) -> None:
        """Give the file its name.

        Args:
            size: in bytes; a hole at the end gets its length from it.
            mode: permission bits; others are dropped.
            modified_ns: modification time, nanoseconds since the epoch; None
                leaves the time of writing.
            fsync: flush file and directory to the device.

        Raises:
            LocalFileError: a step failed; the old file is untouched, unless
                only the flush of the directory failed.
        """
        self._calling(os.ftruncate, self._file, size)
        self._calling(os.fchmod, self._file, mode & 0o777)
        if modified_ns is not None:
            self._calling(os.utime, self._file, ns=(modified_ns, modified_ns))
        if fsync:
            self._calling(os.fsync, self._file)
        # A network file system may say only here that it could not keep the content.
        self._calling(self._close_file)
        self._calling(
            os.replace,
            self._temporary,
            self._name,
            src_dir_fd=self._directory,
            dst_dir_fd=self._directory,
        )
        self._temporary = ""
        if fsync:
            self._calling(os.fsync, self._directory)

    def close(self) -> None:
        """Release everything; removes the temporary file unless it was published.

        Raises nothing: after a failure that one is the error, and after
        `publish` there is nothing left that could be lost.
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
