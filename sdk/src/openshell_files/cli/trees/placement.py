"""Where a directory lands. The table in docs/trees.md (PLC-1 ff.) has each rule with its reason.

A directory is either put under its own name, or its content is put into a directory, and no rule asks whether
something exists at the destination: the same command means the same place again after it was interrupted.

Upload DIR [DEST]
    DIR: DEST/DIR, with or without `/` at the end of either
    DIR/. and `.`, `..`, `/`, which have no name of their own: their content into DEST
    without DEST: the sandbox's working directory

Download DIR [DEST]
    without DEST, or DEST ends with `/`, `.` or `..`: DIR's name in it
    otherwise: DEST is the directory itself
    DIR/. and `.`, `..`, `/`: their content into DEST, which has to be given
"""

from __future__ import annotations

import os


def own_name(path: str) -> str:
    """Return the name of a directory; empty if its path means the content (`DIR/.`) or has none (`.`, `..`, `/`)."""
    name = path.rstrip("/").rpartition("/")[2]
    return "" if name in {".", ".."} else name


def names_directory(path: str) -> bool:
    """Return whether a path can only name a directory, as it is written."""
    return path.endswith("/") or not own_name(path)


def upload_place(local: str, destination: str | None) -> str:
    """Return the path in the sandbox of the top directory of an upload.

    Args:
        local: the directory.
        destination: DEST; None without it.
    """
    return _joined(_plain(destination or "."), own_name(local))


def download_place(source: str, destination: str | None, *, several: bool = False) -> str:
    """Return the local path of the top directory of a download.

    Args:
        source: the directory in the sandbox.
        destination: DEST; None without it.
        several: it is one of several sources, which are put into DEST.

    Raises:
        ValueError: SRC has no name, and no DEST is given.
    """
    name = own_name(source)
    if destination is None and not name:
        raise ValueError(
            f"SRC: {source!r} means the content of the directory, so give DEST; `.` puts it into the current directory"
        )
    if not name or (destination is not None and not several and not names_directory(destination)):
        return _plain(destination or ".")
    return _joined(_plain(destination or "."), name)


def read_path(source: str) -> str:
    """Return the path of a directory in the sandbox without what only tells how it is placed: `/` and `/.`."""
    return _plain(source)


def check_deletion(source: str, destination: str) -> None:
    """Refuse a deletion in a DEST that a reader of the command may take for the directory above.

    DEST is the directory itself (PLC-9), and for `cp` and `scp` an existing DEST is the directory that gets it.

    Raises:
        ValueError: DEST has another name than SRC, and neither of the forms that have one reading is used.
    """
    name = own_name(source)
    if name and not names_directory(destination) and own_name(destination) != name:
        raise ValueError(
            f"--delete: everything in {destination!r} that {source!r} does not have would be deleted; write "
            f"`{_plain(source)}/. {destination}` if that is meant, or `{destination}/` for {name!r} in it"
        )


def _plain(path: str) -> str:
    """Return a path without `./` at its beginning, and without `/` and `/.` at its end."""
    while path.endswith(("/", "/.")) and path != "/":
        path = path[:-1] if path.endswith("/") else path[:-2] or "/"
    while path.startswith("./"):
        path = path[2:].lstrip("/")
    return path or "."


def _joined(directory: str, name: str) -> str:
    if directory == ".":
        return name or "."
    return os.path.join(directory, name) if name else directory
