"""Fixes of `upload` and `download` for a directory: each names the option or the word of the command."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from openshell_files_protocol.reasons import Reason

from openshell_files.errors import FilesError, LocalFileError, LocalReason

_ALWAYS: Final[Mapping[str, str]] = {
    Reason.LEAF_IS_LINK.name: "Name the directory that the link leads to.",
    Reason.TREE_INCOMPLETE.name: "Mend that, or leave --atomic out to transfer the other entries.",
    Reason.TREE_TOO_LARGE.name: "Transfer directories below it one by one, or leave out what is not needed with --exclude.",
    LocalReason.NOTHING_MATCHED: "Change --include, --exclude or --gitignore: patterns are relative to the directory.",
}
_UPLOAD: Final[Mapping[str, str]] = {
    Reason.NOT_A_DIRECTORY.name: "Choose another DEST: a file is in the way there.",
}
_DOWNLOAD: Final[Mapping[str, str]] = {
    Reason.NOT_A_DIRECTORY.name: "Give SRC without `/` at its end, and without options for directories.",
}

#: Field of a pattern in a request.
_PATTERN_FIELD: Final = re.compile(r"(start\.)?(include|exclude)\b")


def tree_fix(*, atomic: bool, uploading: bool) -> Callable[[FilesError], str]:
    """Return the fixes of a tree.

    Args:
        atomic: --atomic is given.
        uploading: into the sandbox.
    """
    fixes = dict(_ALWAYS) | dict(_UPLOAD if uploading else _DOWNLOAD)
    if atomic:
        fixes[Reason.FILE_EXISTS.name] = (
            "Choose another DEST, or leave --atomic out to merge into what is there."
        )

    def fix(error: FilesError) -> str:
        if isinstance(error, LocalFileError) and error.message.startswith("gitignore: "):
            return "Leave --gitignore out, or run the command with git and in a repository."
        for violation in error.field_violations:
            if found := _PATTERN_FIELD.match(violation.field):
                return f"Correct the pattern of --{found[2]}."
        return fixes.get(error.reason, "")

    return fix
