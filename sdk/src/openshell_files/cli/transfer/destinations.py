"""Resolves the words of `upload` and `download` to pairs of paths.

The protocol names files, never directories to put them into (PTH-1), so that
a server never has to guess. These are the rules for files; `trees.placement` has those for directories:

Upload LOCAL... [DEST]
    one word: LOCAL's name, in the sandbox's working directory
    two words: LOCAL and DEST, unless DEST could be a second source by mistake
    more words: the last is DEST, a directory
    --to DEST: every word is a LOCAL
    DEST ends with `/`, or is `.`: LOCAL's name in that directory
    otherwise: DEST is the file, and there is one LOCAL
    LOCAL `-`, `/dev/stdin` or another name of descriptor 0 is standard input; DEST has to name the file

Download SRC... [DEST]
    one word: SRC's name in the current directory
    two words: SRC and DEST
    more words: the last is DEST, a directory
    DEST ends with `/`, or is a directory that exists: SRC's name in it
    otherwise: DEST is the file
    DEST `-`, or any name of the file that standard output has open, is standard output
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from openshell_files._local.open_files import is_descriptor_name, is_file_of
from openshell_files.cli.output.text import as_bytes_text, as_unicode
from openshell_files.cli.trees import placement

STANDARD_STREAM: Final = "-"

#: Form NAME:PATH of scp and kubectl.
_ELSEWHERE: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*):(.*)", re.DOTALL)


class SourceType(Enum):
    """What a source is, as far as its word tells."""

    FILE = 1
    TREE = 2
    #: The sandbox has to be asked.
    EITHER = 3


@dataclass(frozen=True, slots=True)
class Copy:
    """One file or directory to move.

    Attributes:
        source: path of the source.
        destination: path of the file itself at the destination, or of the top directory.
        type: what the source is.
        tree: path of the top directory at the destination, unless the source can only be a file.
    """

    source: str
    destination: str
    type: SourceType = field(default=SourceType.FILE, compare=False)
    tree: str = field(default="", compare=False)

    def as_tree(self) -> Copy:
        """Return the copy of a source that is a directory."""
        return Copy(placement.read_path(self.source), self.tree, SourceType.TREE, self.tree)


def uploads(name: str, words: Sequence[str], to: str | None = None) -> list[Copy]:
    """Return the sources and destinations of an upload.

    Args:
        name: the sandbox.
        words: LOCAL... [DEST].
        to: DEST if given as an option; every word is a LOCAL then.

    Raises:
        ValueError: a name is missing, or the words are ambiguous.
    """
    check_name(name, f"openshell-files upload {_elsewhere(name)[0]} LOCAL {_elsewhere(name)[1]}".rstrip())
    if to is not None:
        locals_, destination = list(words), to
    elif len(words) == 1:
        locals_, destination = list(words), None
    else:
        locals_, destination = list(words[:-1]), words[-1]
    if destination == "":
        raise ValueError("DEST: must not be empty")
    locals_ = [STANDARD_STREAM if is_standard_input(local) else local for local in locals_]
    for local in locals_:
        if not os.path.lexists(local) and _ELSEWHERE.fullmatch(local):
            sandbox, path = _elsewhere(local)
            raise ValueError(
                f"LOCAL: there is no file {local!r}; write the sandbox first: "
                f"openshell-files upload {sandbox} {name} {path}".rstrip()
            )
    directory = _directory_in_sandbox(destination)
    if len(locals_) > 1:
        if directory is None:
            raise ValueError(
                f"DEST: several sources need a directory, and {destination!r} does not end with `/`; for a "
                "directory write it with `/`, for the sandbox's working directory write `./`"
            )
        if STANDARD_STREAM in locals_:
            raise ValueError("LOCAL: standard input cannot be one of several sources")
        _check_named(locals_, "LOCAL")
    elif (
        to is None
        and destination is not None
        and directory is None
        and locals_[0] != STANDARD_STREAM
        and os.path.isfile(destination)
        and os.path.isfile(locals_[0])
        and os.path.abspath(destination) != os.path.abspath(locals_[0])
    ):
        raise ValueError(
            f"DEST: {destination!r} is also a file here, so this could mean one file or two; write `--to "
            f"{destination}` to upload only {locals_[0]} under that name, or end with `./` to upload both"
        )
    elif to is None and destination is not None and _may_be_two_sources(locals_[0], destination):
        raise ValueError(
            f"DEST: {destination!r} is also here, so this could mean one source or two; write `--to {destination}` "
            f"to upload only {locals_[0]} there, or end with `./` to upload both"
        )
    copies = [_upload(local, destination, directory) for local in locals_]
    check_distinct(copies)
    return copies


def downloads(name: str, words: Sequence[str]) -> list[Copy]:
    """Return the sources and destinations of a download.

    Args:
        name: the sandbox.
        words: SRC... [DEST].

    Raises:
        ValueError: a name is missing, or the words are ambiguous.
    """
    check_name(name, f"openshell-files download {' '.join(_elsewhere(name))} {words[0]}")
    sources, destination = (list(words), None) if len(words) == 1 else (list(words[:-1]), words[-1])
    if "" in words:
        raise ValueError("SRC and DEST: must not be empty")
    several = len(sources) > 1
    if several and not (
        destination is not None and (destination.endswith(os.sep) or os.path.isdir(destination))
    ):
        raise ValueError(
            f"DEST: several sources need a directory, and {destination!r} is none; end it with `/`"
        )
    if several:
        _check_named(sources, "SRC")
    copies = [_download(source, destination, several=several) for source in sources]
    check_distinct(copies)
    return copies


def remote_path(name: str, path: str, command: str) -> str:
    """Return the path of a command without content.

    Raises:
        ValueError: it is empty, or the sandbox's name has the form NAME:PATH.
    """
    check_name(name, f"openshell-files {command} {' '.join(_elsewhere(name))}")
    if not path:
        raise ValueError("PATH: must not be empty")
    return path


def is_elsewhere(word: str) -> bool:
    """Return whether a word has the form NAME:PATH of scp and kubectl."""
    return _ELSEWHERE.fullmatch(word) is not None


def check_name(name: str, instead: str) -> None:
    """Refuse a sandbox's name that is empty or has the form NAME:PATH.

    Args:
        name: the sandbox.
        instead: the command line to write instead.

    Raises:
        ValueError: it is wrong.
    """
    if not name:
        raise ValueError("NAME: must not be empty")
    if ":" in name:
        raise ValueError(
            f"NAME: {name!r} is no sandbox; write sandbox and path as two words, the sandbox first: {instead}"
        )


def _elsewhere(word: str) -> tuple[str, str]:
    sandbox, _, path = word.partition(":")
    return sandbox, path


def _directory_in_sandbox(destination: str | None) -> str | None:
    """Return the directory of a destination, as a prefix of its files; None if the destination is a file."""
    if destination in {".", "./"}:
        return ""
    if destination is None or not destination.endswith("/"):
        return None
    return destination.removeprefix("./") if destination != "./" else ""


def _may_be_two_sources(local: str, destination: str) -> bool:
    """Return whether a pattern of a shell may have expanded to both words, at least one of which is a directory."""
    return (
        not destination.endswith("/")
        and placement.own_name(destination) != ""
        and local != STANDARD_STREAM
        and os.path.exists(local)
        and os.path.exists(destination)
        and (os.path.isdir(local) or os.path.isdir(destination))
        and os.path.dirname(local.rstrip("/")) == os.path.dirname(destination)
        and not os.path.samefile(local, destination)
    )


def _check_named(sources: Sequence[str], argument: str) -> None:
    for source in sources:
        if not placement.own_name(source) and (argument == "SRC" or os.path.isdir(source)):
            raise ValueError(
                f"{argument}: {source!r} means the content of a directory, which cannot be one of several sources"
            )


def _upload(local: str, destination: str | None, directory: str | None) -> Copy:
    if local == STANDARD_STREAM or not os.path.isdir(local):
        return Copy(local, _in_sandbox(local, destination, directory))
    place = as_bytes_text(placement.upload_place(local, destination))
    return Copy(local, place, SourceType.TREE, place)


def _download(source: str, destination: str | None, *, several: bool) -> Copy:
    directory = placement.names_directory(source)
    if directory and destination is not None and is_standard_output(destination):
        raise ValueError(
            f"DEST: {source!r} is a directory, and standard output takes the content of one file"
        )
    if directory:
        place = placement.download_place(source, destination, several=several)
        return Copy(placement.read_path(as_bytes_text(source)), place, SourceType.TREE, place)
    here = _here(source, destination)
    if here == STANDARD_STREAM:
        return Copy(_read_from(source), here)
    tree = placement.download_place(source, destination, several=several)
    return Copy(_read_from(source), here, SourceType.EITHER, tree)


def _in_sandbox(local: str, destination: str | None, directory: str | None) -> str:
    if destination is not None and directory is None:
        remote = destination
    elif local == STANDARD_STREAM:
        raise ValueError("DEST: standard input has no name, so give the path of the file")
    else:
        remote = f"{directory or ''}{_name(local, 'LOCAL')}"
    text = as_unicode(remote)
    if text is None:
        what = "LOCAL: the file's name" if destination is None or directory is not None else "DEST: the path"
        raise ValueError(f"{what} is not valid UTF-8, so give a DEST that is")
    return text


def _read_from(source: str) -> str:
    text = as_unicode(source)
    if text is None:
        raise ValueError("SRC: the path is not valid UTF-8")
    return text


def _here(source: str, destination: str | None) -> str:
    if destination == STANDARD_STREAM:
        return STANDARD_STREAM
    if destination is None:
        here = _name(source, "SRC")
    elif destination.endswith(os.sep) or os.path.isdir(destination):
        here = os.path.join(destination, _name(source, "SRC"))
    else:
        here = destination
    return STANDARD_STREAM if is_standard_output(here) else here


def is_standard_output(word: str) -> bool:
    """Return whether DEST is standard output: `-`, or a name of the file that standard output has open.

    A report that is written there would be part of the content.
    """
    return word == STANDARD_STREAM or is_file_of(word, sys.stdout)


def is_standard_input(local: str) -> bool:
    """Return whether LOCAL is standard input. A file of its own that is also standard input is not: it has a mode."""
    return local == STANDARD_STREAM or (is_descriptor_name(local) and is_file_of(local, sys.stdin))


def check_distinct(copies: Sequence[Copy]) -> None:
    """Refuse sources that would replace each other.

    Raises:
        ValueError: two of them have one destination.
    """
    seen = set[str]()
    for copy in copies:
        if copy.destination in seen:
            raise ValueError(
                f"several sources would become {copy.destination!r}: give them one by one, with names of their own"
            )
        seen.add(copy.destination)


def _name(path: str, argument: str) -> str:
    name = path.rpartition("/")[2]
    if name in {"", ".", ".."}:
        raise ValueError(f"{argument}: {path!r} names no file")
    return name
