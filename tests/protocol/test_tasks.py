"""The primitives that own, race and end tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from openshell_files_process.tasks import TaskScope, end_tasks, first_of, to_the_end, until_over


class Work:
    """A coroutine that a test watches and releases."""

    def __init__(self) -> None:
        self.started, self.release, self.may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.may_end.set()
        self.over = False

    async def run(self, result: object = None) -> object:
        self.started.set()
        try:
            await self.release.wait()
        finally:
            await self.may_end.wait()
            self.over = True
        if isinstance(result, Exception):
            raise result
        return result


async def test_a_scope_ends_its_tasks() -> None:
    """Also if its owner fails: each task is cancelled, and over when the scope is left."""
    first, second = Work(), Work()
    scope = TaskScope()

    async def owner() -> None:
        async with scope:
            running = scope.start(first.run(), "first")
            scope.start(second.run(), "second")
            await first.started.wait()
            await second.started.wait()
            assert len(scope) == 2
            assert running.get_name() == "first"
            raise ValueError("the owner fails")

    with pytest.raises(ValueError, match="owner"):
        await owner()
    assert first.over
    assert second.over
    assert len(scope) == 0


async def test_a_task_that_ended_leaves_the_scope() -> None:
    """Its result is its owner's to ask for, and its error too."""
    async with TaskScope() as scope:
        good, bad = Work(), Work()
        tasks = scope.start(good.run(1), "good"), scope.start(bad.run(ValueError("bad")), "bad")
        good.release.set()
        bad.release.set()
        assert await scope.wait() == 0
        assert tasks[0].result() == 1
        with pytest.raises(ValueError, match="bad"):
            tasks[1].result()


async def test_a_scope_waits_so_long_and_no_longer() -> None:
    async with TaskScope() as scope:
        work = Work()
        scope.start(work.run(), "work")
        assert await scope.wait(0.01) == 1
        assert not work.over


Waiting = Callable[[asyncio.Task[object]], Awaitable[object]]


@pytest.mark.parametrize(
    ("wait", "ends"), [(until_over, False), (end_tasks, True)], ids=["until_over", "end_tasks"]
)
async def test_a_cancellation_waits_for_the_end(*, wait: Waiting, ends: bool) -> None:
    """The caller's cancellation is raised once the task is over, however often it comes."""
    work = Work()
    work.may_end.clear()
    async with TaskScope() as scope:
        task = scope.start(work.run(), "work")
        await work.started.wait()
        waiting = scope.start(_awaited(wait(task)), "waiting")
        for _ in range(3):
            await asyncio.sleep(0)
            waiting.cancel()
        await asyncio.sleep(0)
        waits = not waiting.done()
        work.release.set()
        work.may_end.set()
        await until_over(waiting)
        assert waits
        assert waiting.cancelled()
        assert work.over
        assert task.cancelled() is ends


async def _awaited(work: Awaitable[object]) -> object:
    return await work


async def test_work_to_its_end() -> None:
    """A cancellation does not reach it."""
    work = Work()
    assert await to_the_end(_released(work, 3)) == 3
    work = Work()
    async with TaskScope() as scope:
        waiting = scope.start(to_the_end(work.run()), "waiting")
        await work.started.wait()
        waiting.cancel()
        await asyncio.sleep(0)
        work.release.set()
        await until_over(waiting)
        assert waiting.cancelled()
    assert work.over


async def _released(work: Work, result: object) -> object:
    work.release.set()
    return await work.run(result)


async def test_the_first_of_several() -> None:
    """The others are over when it is told, by an end of their own."""
    work, other = Work(), Work()
    work.release.set()
    task = await first_of(work.run(1), other.run())
    assert task.result() == 1
    assert other.over

    work, other = Work(), Work()
    other.release.set()
    task = await first_of(work.run(), other.run())
    assert task.cancelled()
    assert work.over

    work = Work()
    assert (await first_of(work.run(), seconds=0.01)).cancelled()
    assert work.over


async def test_the_error_of_the_first() -> None:
    """Of the work it is in its task; of another it is raised, and the work is over."""
    work = Work()
    work.release.set()
    task = await first_of(work.run(ValueError("work")), Work().run())
    assert isinstance(task.exception(), ValueError)

    work, other = Work(), Work()
    other.release.set()
    with pytest.raises(ValueError, match="other"):
        await first_of(work.run(), other.run(ValueError("other")))
    assert work.over
