"""Label selectors and pages of lists."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from openshell_files_protocol.errors import invalid
from openshell_files_protocol.limits import MIB

#: Upstream's values.
DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 1000

#: Limit on the size of a page; clients receive messages up to 4 MiB.
MAX_PAGE_BYTES: Final = 3 * MIB

T = TypeVar("T")
Key = tuple[str, str]


def parse_selector(selector: str) -> dict[str, str]:
    """Return the labels that a selector requires.

    Args:
        selector: `key=value` pairs, separated by commas; empty requires none.

    Raises:
        TransferError: INVALID_REQUEST for anything else.
    """
    wanted: dict[str, str] = {}
    for part in filter(None, map(str.strip, selector.split(","))):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise invalid("label_selector", f"{part!r} is not key=value")
        if wanted.setdefault(key.strip(), value.strip()) != value.strip():
            raise invalid("label_selector", f"{key.strip()!r} cannot have two values")
    return wanted


def matches(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Return True if the labels include all wanted ones."""
    return all(labels.get(key) == value for key, value in wanted.items())


def page(
    items: Sequence[T], key: Callable[[T], Key], weight: Callable[[T], int], *, size: int, token: str
) -> tuple[list[T], str]:
    """Return one page of a sorted list.

    A page starts after the last key of the page before, so entries that are
    added or removed between two calls neither repeat nor hide others.

    Args:
        items: entries, sorted by key.
        key: returns the key of an entry.
        weight: returns the size of an entry in the answer, in bytes.
        size: number of entries; 0 for the default.
        token: token from the page before; empty for the first page.

    Returns:
        The entries, and the token of the next page; empty after the last.

    Raises:
        TransferError: INVALID_REQUEST for an invalid size or token.
    """
    if size < 0:
        raise invalid("page_size", "must not be negative")
    count = min(size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    after = _decode(token) if token else None
    rest = [item for item in items if after is None or key(item) > after]
    chosen: list[T] = []
    room = MAX_PAGE_BYTES
    for item in rest[:count]:
        room -= weight(item)
        if room < 0 and chosen:
            break
        chosen.append(item)
    return chosen, _encode(key(chosen[-1])) if len(rest) > len(chosen) else ""


def _encode(key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def _decode(token: str) -> Key:
    try:
        decoded: object = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (binascii.Error, ValueError, RecursionError):
        decoded = None
    match decoded:
        case [str(workspace), str(name)]:
            return workspace, name
        case _:
            raise invalid("page_token", "is not a token of this method")
