"""Helpers of several commands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from openshell_files_protocol.reasons import Reason

from openshell_files.cli.mistakes import reading_options
from openshell_files.cli.transfer import destinations
from openshell_files.cli.transfer.destinations import Copy
from openshell_files.errors import FilesError
from openshell_files.options import LeafLink

if TYPE_CHECKING:
    from openshell_files import FilesClient, SandboxFiles

_OCTAL: Final = re.compile(r"(0o)?[0-7]{1,16}")


def sandbox(client: FilesClient, name: str, *, by_id: bool) -> SandboxFiles:
    """Return the sandbox of the command line."""
    with reading_options():
        return client.sandbox(id=name) if by_id else client.sandbox(name)


def mode_bits(text: str | None) -> int | None:
    """Parse `--mode`.

    Raises:
        ValueError: it is no octal number from 000 to 777.
    """
    if text is None:
        return None
    # `int` also takes underscores, signs, and digits of any script.
    bits = int(text, 8) if _OCTAL.fullmatch(text) else None
    if bits is None or bits > 0o777:
        raise ValueError(f"--mode: {text!r} is no octal number from 000 to 777")
    return bits


def described_link(*, follow: bool, no_dereference: bool) -> LeafLink:
    """Return the treatment of a symbolic link by `stat`.

    Raises:
        ValueError: both options are given.
    """
    if follow and no_dereference:
        raise ValueError("give one of --follow and --no-dereference")
    return LeafLink.NOFOLLOW if no_dereference else LeafLink.FOLLOW if follow else LeafLink.REFUSE


def so_far(done: Sequence[object], copies: Sequence[Copy]) -> str:
    """Return the number of moved files in words; empty for one file."""
    return f" ({len(done)} of {len(copies)} files were moved before)" if len(copies) > 1 else ""


def form_hint(error: FilesError, word: str) -> str:
    """Return a hint if a word has the form SANDBOX:PATH of scp and kubectl."""
    if error.reason == Reason.SANDBOX_NOT_FOUND.name and destinations.is_elsewhere(word):
        return " The sandbox comes first, as in `openshell-files upload NAME LOCAL DEST`."
    return ""
