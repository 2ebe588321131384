"""What the tests with real processes share: a stack, a place for temporary files, and the look at what is left."""

from __future__ import annotations

import gc
import os
import re
import tempfile
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conditions import block_until
from dev_command import DevStack, dev_stack
from leaks import grpc_engine

__all__ = ["grpc_engine"]


@pytest.fixture(scope="session", autouse=True)
def temporary_directory(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path, None, None]:
    """Children make their temporary files where nobody else does, so that what is left can be seen."""
    directory = tmp_path_factory.mktemp("temporary")
    patch = pytest.MonkeyPatch()
    patch.setenv("TMPDIR", str(directory))
    patch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    patch.undo()
    assert os.listdir(directory) == []


@pytest.fixture(scope="session")
def stack(temporary_directory: Path) -> Generator[DevStack, None, None]:
    """Four sandboxes, for tests that break nothing."""
    with dev_stack("--sandboxes", "4") as running:
        assert os.listdir(temporary_directory)
        yield running
        assert running.stop() == 0


@pytest.fixture(autouse=True)
def nothing_is_left(temporary_directory: Path) -> Generator[None, None, None]:
    """No test leaves a process, a temporary file or a descriptor behind."""
    processes, files, descriptors = _children(), set(os.listdir(temporary_directory)), _descriptors()
    yield
    gc.collect()
    block_until(lambda: _children() <= processes, lambda: f"processes are gone: {_children() - processes}")
    assert set(os.listdir(temporary_directory)) <= files
    # grpc closes its sockets in threads of its own.
    block_until(
        lambda: len(_descriptors()) <= len(descriptors),
        lambda: f"descriptors are closed; before {sorted(descriptors)}, now {sorted(_descriptors())}",
        patience=20,
    )


def _children() -> Counter[str]:
    """Count the processes below this one by command line: a stack starts what died again."""
    found: Counter[str] = Counter()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            # A gateway that is started again keeps the free port that it took.
            found[re.sub(r"--port \d+", "--port", " ".join(process.cmdline()))] += 1
    return found


def _descriptors() -> list[str]:
    """Return what this process has open, less what grpc and the resolver keep for ever."""
    found: list[str] = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:
            continue
        if not target.startswith(("anon_inode:[event", "/dev/")):
            found.append(target)
    return found
