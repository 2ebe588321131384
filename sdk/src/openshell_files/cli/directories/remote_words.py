"""Words of the command line that name entries in the sandbox, and where `mv` and `cp` put them.

A name in the sandbox may be any bytes, so these words are not checked for UTF-8.

Placement of SRC... DEST, as of mv and cp:
    DEST is a directory in the sandbox, perhaps over a link: SRC's name in it
    DEST ends with `/`: SRC's name in it; the sandbox refuses a missing directory unless --parents is given
    several SRC and DEST is no directory: refused
    otherwise: DEST is the entry itself
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from openshell_files.cli.mistakes import UsageMistake, reading_options
from openshell_files.cli.transfer.destinations import Copy, check_distinct
from openshell_files.cli.usage import argument, flag
from openshell_files.errors import FileNotFound, InvalidPath, NotADirectory
from openshell_files.options import LeafLink
from openshell_files.results import FileType

if TYPE_CHECKING:
    from openshell_files import SandboxFiles


class RemoteWord(str):
    """A path in the sandbox: UTF-8, and other bytes as surrogates, in every locale."""

    __slots__ = ()


def remote_word(word: str) -> RemoteWord:
    """Return a word of the command line as a path."""
    return RemoteWord(os.fsencode(word).decode("utf-8", "surrogateescape"))


remote_paths: Final = argument(
    "paths", "PATH...", nargs=-1, required=True, type=remote_word, help="Paths in the sandbox."
)
places: Final = argument(
    "words",
    "SRC... DEST",
    nargs=-1,
    required=True,
    type=remote_word,
    help="Paths in the sandbox. If DEST is a directory, each SRC is put into it under its own name.",
)
parents: Final = flag("--parents", help="Make missing directories above DEST.")
no_clobber: Final = flag("-n", "--no-clobber", help="Refuse to replace anything at DEST.")


class TimeLeft:
    """The time of a whole command, of which each of its calls gets the rest.

    Args:
        timeout: seconds for the command; None for no limit.
    """

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout

    def __call__(self) -> float | None:
        """Return the seconds left, in whole milliseconds and at least one, so that the call itself fails; None for no limit."""
        return None if self._end is None else max(round(self._end - time.monotonic(), 3), 0.001)


def require_words(words: Sequence[str], what: str) -> None:
    """Refuse empty words.

    Raises:
        UsageMistake: one is empty.
    """
    if "" in words:
        raise UsageMistake(f"{what}: must not be empty")


def sources_and_destination(words: Sequence[str]) -> tuple[list[str], str]:
    """Split SRC... DEST.

    Raises:
        UsageMistake: a word is missing or empty.
    """
    require_words(words, "SRC and DEST")
    if len(words) < 2:
        raise UsageMistake("DEST: is missing; give the paths SRC... DEST")
    return list(words[:-1]), words[-1]


def placed(sandbox: SandboxFiles, words: Sequence[str], left: TimeLeft) -> list[Copy]:
    """Return the source and the destination of each entry; asks the sandbox whether DEST is a directory.

    Raises:
        UsageMistake: DEST has to be a directory and is none, a SRC has no name, or two would replace each other.
        FilesError: the sandbox could not be asked.
    """
    sources, destination = sources_and_destination(words)
    if destination.endswith("/") or is_directory(sandbox, destination, left()):
        copies = [Copy(source, inside(destination, _name(source))) for source in sources]
        with reading_options():
            check_distinct(copies)
        return copies
    if len(sources) > 1:
        raise UsageMistake(
            f"DEST: {destination!r} is no directory in the sandbox; make it with `openshell-files mkdir`, or end it with `/` and give --parents"
        )
    return [Copy(sources[0], destination)]


def is_utf8(path: str) -> bool:
    """Return whether a path is UTF-8, so that the methods for files take it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_directory(sandbox: SandboxFiles, path: str, timeout: float | None) -> bool:
    """Return whether a path names a directory, perhaps over a link."""
    if not is_utf8(path):
        try:
            next(iter(sandbox.list_directory(path, timeout=timeout)), None)
        except (FileNotFound, NotADirectory):
            return False
        return True
    try:
        return sandbox.stat(path, leaf_link=LeafLink.FOLLOW, timeout=timeout).type is FileType.DIRECTORY
    except (FileNotFound, NotADirectory, InvalidPath):
        # The command itself gets the error of a path that names nothing.
        return False


def inside(directory: str, name: str) -> str:
    """Return the path of an entry of a directory."""
    return f"{directory.rstrip('/')}/{name}" if directory.strip("/") else f"/{name}"


def _name(path: str) -> str:
    name = path.rstrip("/").rpartition("/")[2]
    if name in {"", ".", ".."}:
        raise UsageMistake(f"SRC: {path!r} has no name of its own")
    return name
