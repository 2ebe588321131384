"""What a test must not leave behind in this process; used by the conftest.py of each folder it is for."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress

import grpc
import pytest
from conditions import until

#: gRPC and the executor of the loop keep their threads for the next call.
_KEPT_THREADS = ("asyncio_", "ThreadPoolExecutor", "grpc", "Thread-")


_POLLERS = {"anon_inode:[eventpoll]", "anon_inode:[eventfd]"}


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith(_KEPT_THREADS)}


def _tasks() -> set[str]:
    return {
        getattr(task.get_coro(), "__qualname__", "?")
        for task in asyncio.all_tasks()
        if task is not asyncio.current_task()
    }


@pytest.fixture(scope="session", autouse=True)
def grpc_engine() -> Generator[None, None, None]:
    """Keep the sockets that grpc.aio has for itself over the whole session, so that they are not counted."""

    async def begin() -> None:
        # It wants a loop, and other tests may have left none.
        grpc.aio.init_grpc_aio()

    asyncio.run(begin())
    yield
    grpc.aio.shutdown_grpc_aio()


def _descriptors() -> set[tuple[str, str]]:
    """Return each open descriptor and what it leads to; not the pollers that gRPC makes once and keeps."""
    found: set[tuple[str, str]] = set()
    for number in os.listdir("/proc/self/fd"):
        # The one of the listing itself is gone already.
        with suppress(FileNotFoundError):
            leads_to = os.readlink(f"/proc/self/fd/{number}")
            if leads_to not in _POLLERS:
                found.add((number, leads_to))
    return found


@pytest.fixture(autouse=True)
async def nothing_is_left_in_this_process() -> AsyncGenerator[None]:
    """No test leaves a task, a thread or a descriptor behind; gRPC's own end a moment later."""
    tasks, threads, descriptors = _tasks(), _threads(), _descriptors()
    yield
    await until(lambda: _tasks() <= tasks, lambda: f"tasks have ended: {_tasks() - tasks}", patience=5)
    await until(
        lambda: _threads() <= threads, lambda: f"threads have ended: {_threads() - threads}", patience=5
    )

    def closed() -> bool:
        if len(_descriptors()) <= len(descriptors):
            return True
        gc.collect()
        return False

    await until(
        closed,
        lambda: f"descriptors are closed: {sorted(_descriptors() - descriptors)}",
        patience=5,
    )
