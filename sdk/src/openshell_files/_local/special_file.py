"""Local targets that are no regular files: a download writes into them instead of replacing them."""

from __future__ import annotations

import errno
import io
import os
import stat

from openshell_files._local.open_files import is_descriptor_name
from openshell_files.errors import ErrorFacts, LocalFileError, LocalReason, local_file_error


def is_written_into(path: str) -> bool:
    """Return whether `path` is a character device or a FIFO, or a link to one (`/dev/stdout`).

    Raises:
        LocalFileError: the path can neither be replaced nor written into.
    """
    try:
        found = os.stat(path)
    except OSError:
        # The path does not exist, or is a dangling link.
        return False
    if stat.S_ISCHR(found.st_mode) or stat.S_ISFIFO(found.st_mode):
        return True
    if stat.S_ISBLK(found.st_mode) or stat.S_ISSOCK(found.st_mode):
        raise not_replaced(path, "a block device" if stat.S_ISBLK(found.st_mode) else "a socket")
    if is_descriptor_name(path):
        # For example, the shell redirected standard output to a file. Replacing the link would break it for all processes.
        raise not_replaced(path, "a name for an open file")
    return False


def open_for_writing(path: str) -> io.FileIO | None:
    """Open a device or FIFO; None if the FIFO has no reader yet.

    It does not wait for a reader, because such an open cannot be interrupted.

    Raises:
        LocalFileError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO and stat.S_ISFIFO(os.stat(path).st_mode):
            return None
        raise local_file_error(error, path, "cannot write") from error
    return io.FileIO(descriptor, "w")


def not_replaced(path: str, kind: str) -> LocalFileError:
    """Return the error for a target that can neither be replaced nor written into."""
    return LocalFileError(
        f"{path} is {kind}, which a download does not replace",
        ErrorFacts(LocalReason.LOCAL_FILE, fix="Give another path, or `-` for standard output."),
        path=path,
    )
