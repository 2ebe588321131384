"""Fixes of `mkdir`, `rm`, `mv` and `cp`: each names the option or the word of that command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from openshell_files_protocol.reasons import Reason

from openshell_files.errors import FilesError

#: Words of the command line for fields of the requests.
_WORDS: Final[Mapping[str, str]] = {"path": "PATH", "source": "SRC", "destination": "DEST"}

_UNNAMED: Final = "Give a path without `..`, whose names have at most 255 bytes."
_STAYS: Final = "the sandbox's root, its working directory, and files of the kernel or the supervisor stay where they are."


def mkdir_fix(*, parents: bool) -> Callable[[FilesError], str]:
    """Return the fixes of `mkdir`.

    Args:
        parents: -p is given.
    """
    exists = "Choose another name: an entry that is no directory has this one."
    return _fix(
        {
            Reason.PARENT_NOT_FOUND.name: "-p makes it.",
            Reason.FILE_EXISTS.name: exists
            if parents
            else "Choose another name; if it is a directory, -p accepts it.",
        }
    )


def rm_fix(*, recursive: bool) -> Callable[[FilesError], str]:
    """Return the fixes of `rm`.

    Args:
        recursive: -r is given.
    """
    return _fix(
        {
            Reason.FILE_NOT_FOUND.name: "Check the path; -f accepts that.",
            Reason.DIRECTORY_NOT_EMPTY.name: "Repeat the command: a program makes entries in it."
            if recursive
            else "-r removes it with its content.",
            Reason.PATH_FORBIDDEN.name: f"Name entries inside it: {_STAYS}",
        }
    )


def place_fix(*, no_clobber: bool, moves: bool) -> Callable[[FilesError], str]:
    """Return the fixes of `mv` and `cp`.

    Args:
        no_clobber: -n is given.
        moves: of `mv`.
    """
    fixes = {
        Reason.FILE_EXISTS.name: f"Choose another DEST{', or leave -n out' if no_clobber else ''}.",
        Reason.DIRECTORY_NOT_EMPTY.name: "Choose another DEST, or remove that directory before.",
    }
    if moves:
        fixes[Reason.PATH_FORBIDDEN.name] = f"Choose another SRC or DEST: {_STAYS}"
    usual = _fix(fixes)

    def fix(error: FilesError) -> str:
        of_source = _field(error) == "source"
        if error.reason == Reason.PARENT_NOT_FOUND.name:
            return "Check SRC." if of_source else "--parents makes the directories above DEST."
        if error.reason == Reason.IS_A_DIRECTORY.name:
            return "-r copies a directory." if of_source and not moves else "Choose another DEST."
        return usual(error)

    return fix


def _fix(fixes: Mapping[str, str]) -> Callable[[FilesError], str]:
    def fix(error: FilesError) -> str:
        if error.reason == Reason.INVALID_PATH.name:
            return _UNNAMED
        if error.reason == Reason.INVALID_REQUEST.name:
            word = _WORDS.get(_field(error))
            return f"Choose another {word}." if word else ""
        # The metadata names the directory that commands do not see; the usual fix refers to it.
        return "" if "covered_by" in error.metadata else fixes.get(error.reason, "")

    return fix


def _field(error: FilesError) -> str:
    """Return the field of the request that an error is about, from its details or its message."""
    named = next((violation.field for violation in error.field_violations), "")
    return named or error.message.partition(":")[0]
