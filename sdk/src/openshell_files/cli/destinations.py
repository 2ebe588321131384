"""Which file is meant: the command line's "into a directory" ends here.

The protocol names files, never directories to put them into (PTH-1), so that
a server never has to guess. These are the rules:

Upload LOCAL [DEST]
    no DEST: LOCAL's name, in the sandbox's working directory
    DEST ends with `/`: LOCAL's name in that directory
    otherwise: DEST is the file
    LOCAL `-` is standard input; DEST has to name the file

Download SRC [DEST]
    no DEST: SRC's name in the current directory
    DEST ends with `/`, or is a directory that exists: SRC's name in it
    otherwise: DEST is the file
    DEST `-` is standard output
"""

from __future__ import annotations

import os

STANDARD_STREAM = "-"


def upload_destination(local: str, destination: str | None) -> str:
    """Return the remote path of an upload.

    Raises:
        ValueError: no name can be told.
    """
    if destination and not destination.endswith("/"):
        return destination
    if local == STANDARD_STREAM:
        raise ValueError("DEST: standard input has no name, so give the path of the file")
    return f"{destination or ''}{_name(local, 'LOCAL')}"


def download_destination(source: str, destination: str | None) -> str:
    """Return the local path of a download, or `-`.

    Raises:
        ValueError: no name can be told.
    """
    if destination == STANDARD_STREAM:
        return STANDARD_STREAM
    if destination is None:
        return _name(source, "SRC")
    if destination.endswith(os.sep) or os.path.isdir(destination):
        return os.path.join(destination, _name(source, "SRC"))
    return destination


def _name(path: str, argument: str) -> str:
    name = path.rpartition("/")[2]
    if name in {"", ".", ".."}:
        raise ValueError(f"{argument}: {path!r} names no file")
    return name
