"""A stack of real processes for the adapters."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from dev_command import DevStack, dev_stack
from leaks import grpc_engine, nothing_is_left, temporary_directory

__all__ = ["grpc_engine", "nothing_is_left", "temporary_directory"]


@pytest.fixture(scope="session")
def stack(temporary_directory: Path) -> Generator[DevStack, None, None]:
    """Give one sandbox."""
    assert temporary_directory.exists()
    with dev_stack("--sandboxes", "1") as running:
        yield running
        assert running.stop() == 0
