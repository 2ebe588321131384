"""Every module of faults is looked at for what it leaves; its stack is one for all its tests."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from leaks import grpc_engine, look_around, temporary_directory

__all__ = ["grpc_engine", "temporary_directory"]


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left(temporary_directory: Path) -> Generator[None, None, None]:
    """No module leaves a process, a temporary file or a descriptor behind."""
    yield from look_around(temporary_directory)
