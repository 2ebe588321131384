"""What a test must not leave behind; used by the conftest.py of each folder it is for."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from pathlib import Path

import grpc
import psutil
import pytest
from conditions import block_until, until

#: gRPC and the executor of the loop keep their threads for the next call.
_KEPT_THREADS = ("asyncio_", "ThreadPoolExecutor", "grpc", "Thread-")
#: Pollers that gRPC makes once and keeps, and devices that it and the resolver open once.
_KEPT_DESCRIPTORS = ("anon_inode:[event", "/dev/")
#: gRPC closes its sockets in threads of its own.
_PATIENCE_SECONDS = 20


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


@pytest.fixture(scope="session", autouse=True)
def grpc_engine() -> Generator[None, None, None]:
    """Keep the sockets that grpc.aio has for itself over the whole session, so that they are not counted."""

    async def begin() -> None:
        # It wants a loop, and other tests may have left none.
        grpc.aio.init_grpc_aio()

    asyncio.run(begin())
    yield
    grpc.aio.shutdown_grpc_aio()


@pytest.fixture(autouse=True)
def nothing_is_left(temporary_directory: Path) -> Generator[None, None, None]:
    """No test leaves a process, a temporary file or a descriptor behind; for tests with real processes."""
    yield from look_around(temporary_directory)


def look_around(temporary_directory: Path) -> Generator[None, None, None]:
    """Look before and after, for a fixture of whatever scope."""
    processes, files, descriptors = _children(), set(os.listdir(temporary_directory)), _descriptors()
    yield
    gc.collect()
    block_until(lambda: _children() <= processes, lambda: f"processes are gone: {_children() - processes}")
    assert set(os.listdir(temporary_directory)) <= files
    block_until(
        lambda: len(_descriptors()) <= len(descriptors),
        lambda: f"descriptors are closed: {sorted(_descriptors() - descriptors)}",
        patience=_PATIENCE_SECONDS,
    )


@pytest.fixture(autouse=True)
async def nothing_is_left_in_this_process() -> AsyncGenerator[None]:
    """No test leaves a task, a thread or a descriptor behind; for tests within one process."""
    tasks, threads, descriptors = _tasks(), _threads(), _descriptors()
    yield
    gc.collect()
    await until(
        lambda: _tasks() <= tasks,
        lambda: f"tasks have ended: {_tasks() - tasks}",
        patience=_PATIENCE_SECONDS,
    )
    await until(
        lambda: _threads() <= threads,
        lambda: f"threads have ended: {_threads() - threads}",
        patience=_PATIENCE_SECONDS,
    )
    await until(
        lambda: len(_descriptors()) <= len(descriptors),
        lambda: f"descriptors are closed: {sorted(_descriptors() - descriptors)}",
        patience=_PATIENCE_SECONDS,
    )


def _tasks() -> Counter[str]:
    return Counter(
        getattr(task.get_coro(), "__qualname__", "?")
        for task in asyncio.all_tasks()
        if task is not asyncio.current_task()
    )


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith(_KEPT_THREADS)}


def _children() -> Counter[str]:
    """Count the processes below this one by command line: a stack starts what died again."""
    found: Counter[str] = Counter()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            # A gateway that is started again keeps the free port that it took.
            found[re.sub(r"--port \d+", "--port", " ".join(process.cmdline()))] += 1
    return found


def _descriptors() -> set[tuple[str, str]]:
    """Return each open descriptor and what it leads to, less what is kept for ever."""
    found: set[tuple[str, str]] = set()
    for number in os.listdir("/proc/self/fd"):
        # The one of the listing itself is gone already.
        with suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{number}")
            if not target.startswith(_KEPT_DESCRIPTORS):
                found.add((number, target))
    return found
