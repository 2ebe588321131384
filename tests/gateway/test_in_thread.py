"""Work in threads does not go on behind the back of who asked for it."""

from __future__ import annotations

import asyncio
import threading

import pytest
from conditions import until
from openshell_files_gateway.concurrency.tasks import in_thread


async def test_the_result() -> None:
    assert await in_thread(lambda: 7) == 7


async def test_the_error() -> None:
    def fail() -> None:
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError, match="gone"):
        await in_thread(fail)


@pytest.mark.parametrize("cancellations", [1, 3])
@pytest.mark.parametrize("fails", [False, True])
async def test_cancelled(cancellations: int, *, fails: bool) -> None:
    """However often: its end is the end of the work, and what the work says is for nobody."""
    begun, go_on, over = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait()
        over.set()
        if fails:
            raise OSError("nobody hears of it")

    task = asyncio.create_task(in_thread(work))
    await until(begun.is_set, "the work has begun")
    for _ in range(cancellations):
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert over.is_set()
