"""An upload of the RFC that is broken off after its last byte is not published (UPL-1, UPL-32, UPL-33)."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from cancellation.callers import WAYS, Way, broken_off, why_no_node
from dev_command import DevStack, dev_stack

#: `make cancel-check` makes many more, on a busy machine.
EACH = 12
PROCESSES = 2


@pytest.fixture(scope="module")
def stack() -> Generator[DevStack]:
    with dev_stack() as running:
        yield running


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_nothing_is_published(stack: DevStack, way: Way) -> None:
    """UPL-1, UPL-32, UPL-33: whichever way the caller breaks off, within 20 ms; a file that was there stays."""
    if way.client == "node" and (missing := why_no_node()):
        pytest.skip(missing)
    outcome = broken_off(stack, stack.sandboxes[0], way, PROCESSES if way.one_each else EACH)
    assert outcome.published == 0
    assert outcome.uploads
