"""What the tests with real processes share: a stack, and the look at what is left."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from dev_command import DevStack, dev_stack
from leaks import grpc_engine, nothing_is_left, temporary_directory

__all__ = ["grpc_engine", "nothing_is_left", "temporary_directory"]


@pytest.fixture(scope="session")
def stack(temporary_directory: Path) -> Generator[DevStack, None, None]:
    """Four sandboxes, for tests that break nothing."""
    with dev_stack("--sandboxes", "4") as running:
        assert os.listdir(temporary_directory)
        yield running
        assert running.stop() == 0
