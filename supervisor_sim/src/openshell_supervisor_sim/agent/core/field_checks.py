"""Checks of single fields of a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from openshell_files_protocol.errors import invalid

MAX_ID_CHARACTERS: Final = 128


def check_id(field: str, value: str) -> None:
    """Refuse an id or a version that is too long.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    if len(value) > MAX_ID_CHARACTERS:
        raise invalid(field, f"is longer than {MAX_ID_CHARACTERS} characters")


def check_enum(field: str, value: int, known: Sequence[int]) -> None:
    """Refuse a number that no value of an enumeration has.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    if value not in known:
        raise invalid(field, f"the value {value} is not known")
