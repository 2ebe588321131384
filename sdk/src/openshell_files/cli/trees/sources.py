"""Whether a source of `download` is a directory.

A word without `/` at its end is first read as a file, in the one call that this takes anyway: only a directory
needs another one, and a server without `StatFile` still serves files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openshell_files.cli.mistakes import UsageMistake
from openshell_files.cli.transfer.destinations import Copy, SourceType
from openshell_files.errors import FilesError, LocalIsADirectory
from openshell_files.options import LeafLink
from openshell_files.results import FileType

if TYPE_CHECKING:
    from openshell_files import SandboxFiles


def as_tree(sandbox: SandboxFiles, copy: Copy, link: LeafLink, timeout: float | None, option: str) -> Copy:
    """Return the copy of a source that has to be a directory.

    Args:
        sandbox: the sandbox.
        copy: the source.
        link: treatment of a link at its end.
        timeout: seconds.
        option: a given option that is for directories.

    Raises:
        UsageMistake: it is no directory.
        FilesError: it does not exist, or the sandbox cannot be asked.
    """
    if copy.type is SourceType.TREE:
        return copy
    if sandbox.stat(copy.source, leaf_link=link, timeout=timeout).type is not FileType.DIRECTORY:
        raise UsageMistake(f"{option}: is for directories, and {copy.source!r} in the sandbox is none")
    return copy.as_tree()


def is_tree(
    sandbox: SandboxFiles, copy: Copy, error: FilesError, link: LeafLink, timeout: float | None
) -> bool:
    """Return whether a source that could not be downloaded as a file is a directory.

    Args:
        sandbox: the sandbox.
        copy: the source.
        error: the source or the local path is a directory.
        link: treatment of a link at its end.
        timeout: seconds.

    Raises:
        FilesError: the sandbox cannot be asked.
    """
    if copy.type is SourceType.FILE:
        return False
    if not isinstance(error, LocalIsADirectory):
        return True
    # A directory is in the place of the local file. Only a directory fits there, whatever the source is.
    return sandbox.stat(copy.source, leaf_link=link, timeout=timeout).type is FileType.DIRECTORY
