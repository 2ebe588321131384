"""A local target that is no regular file: it is written into, never replaced."""

from __future__ import annotations

import errno
import io
import os
import stat

from openshell_files._local.open_files import is_descriptor_name
from openshell_files.errors import ErrorFacts, LocalFileError, LocalReason, local_file_error


def is_written_into(path: str) -> bool:
    """Return whether a download to `path` goes into what is there: a device of characters, or a FIFO.

    A link that leads to one counts as it (`/dev/stdout`).

    Raises:
        LocalFileError: what is there can neither be replaced nor written into.
    """
    try:
        found = os.stat(path)
    except OSError:
        # Nothing, or a link to nothing.
        return False
    if stat.S_ISCHR(found.st_mode) or stat.S_ISFIFO(found.st_mode):
        return True
    if stat.S_ISBLK(found.st_mode) or stat.S_ISSOCK(found.st_mode):
        raise not_replaced(path, "a block device" if stat.S_ISBLK(found.st_mode) else "a socket")
    if is_descriptor_name(path):
        # The shell sent standard output to a file, say. Replacing the link would break it for everybody.
        raise not_replaced(path, "a name for an open file")
    return False


def open_for_writing(path: str) -> io.FileIO | None:
    """Open a device or FIFO; None if it is a FIFO that nobody reads yet.

    It is not waited for here: opening a FIFO waits for its reader and heeds nothing meanwhile.

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
    """Make the error for a target that is neither replaced nor written into."""
    return LocalFileError(
        f"{path} is {kind}, which a download does not replace",
        ErrorFacts(LocalReason.LOCAL_FILE, fix="Give another path, or `-` for standard output."),
        path=path,
    )
