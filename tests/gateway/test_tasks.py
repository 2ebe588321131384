"""Every task of a call has an owner: none outlives it, and no error is lost."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from contextlib import suppress

import grpc
import pytest
import structlog
from conditions import PATIENCE_SECONDS, until
from openshell_files_gateway.concurrency.tasks import (
    BackgroundTasks,
    EventFirst,
    Helpers,
    cancel,
    race,
    with_helpers,
)
from openshell_files_gateway.server.calls import _shows_cancellation
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

BUG = ValueError("a bug")
REFUSAL = TransferError(Reason.CHUNK_TOO_LARGE, "too large")


async def fail(error: Exception) -> None:
    raise error


async def for_ever() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("error", [BUG, REFUSAL], ids=["a bug", "a refusal"])
async def test_a_helpers_error_ends_the_call(error: Exception) -> None:
    """At once, although the call itself would wait for ever; its clean-up is waited for."""
    cleaned_up = False

    async def main(helpers: Helpers) -> None:
        nonlocal cleaned_up
        helpers.start(fail(error), "helper")
        try:
            await for_ever()
        finally:
            await asyncio.sleep(0)
            cleaned_up = True

    async with asyncio.timeout(PATIENCE_SECONDS) as waiting:
        with pytest.raises((type(error), asyncio.CancelledError)) as raised:
            await with_helpers(main)
    assert not waiting.expired(), "its helper failed, and the call went on"
    assert raised.value is error
    assert cleaned_up


async def test_helpers_end_with_their_call() -> None:
    """Also if it fails, or is cancelled; one that has not begun never begins."""
    helpers: list[asyncio.Task[None]] = []
    begun: list[str] = []

    async def late() -> None:
        begun.append("late")

    async def main(owner: Helpers) -> int:
        helpers.append(owner.start(for_ever(), "helper"))
        await asyncio.sleep(0)
        helpers.append(owner.start(late(), "late"))
        return 1

    assert await with_helpers(main) == 1
    assert all(task.cancelled() for task in helpers)
    assert begun == []

    async def waiting(owner: Helpers) -> None:
        helpers.append(owner.start(for_ever(), "helper"))
        await for_ever()

    calling = asyncio.create_task(with_helpers(waiting))
    await until(lambda: len(helpers) == 3, "its helper began")
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert helpers[-1].cancelled()


async def test_an_outcome_stands_and_a_later_bug_is_logged() -> None:
    """What was answered is true, whatever a helper does as it is ended."""

    async def stubborn() -> None:
        try:
            await for_ever()
        finally:
            raise BUG

    async def main(helpers: Helpers) -> str:
        helpers.start(stubborn(), "stubborn")
        await asyncio.sleep(0)
        return "published"

    with structlog.testing.capture_logs() as logs:
        assert await with_helpers(main) == "published"
    assert [line["exc_info"] for line in logs] == [BUG]


async def test_check_raises_what_a_helper_raised() -> None:
    async def main(helpers: Helpers) -> None:
        task = helpers.start(fail(REFUSAL), "reader")
        await asyncio.wait({task})
        helpers.check()

    with pytest.raises(TransferError):
        await with_helpers(main)


async def test_a_bug_of_a_task_that_is_cancelled_is_logged() -> None:
    async def stubborn() -> None:
        with suppress(asyncio.CancelledError):
            await for_ever()
        raise BUG

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    with structlog.testing.capture_logs() as logs:
        await cancel(task)
    assert [line["exc_info"] for line in logs] == [BUG]


@pytest.mark.parametrize(
    "error", [BUG, REFUSAL, grpc.aio.InternalError()], ids=lambda one: type(one).__name__
)
async def test_only_a_bug_is_logged(error: Exception) -> None:
    """A refusal, or a call that is over, is an outcome."""
    tasks = BackgroundTasks()
    with structlog.testing.capture_logs() as logs:
        await asyncio.wait({tasks.start(fail(error), "failing")})
        await until(lambda: not tasks, "its owner heard of it")
    assert [line["task"] for line in logs] == (["failing"] if error is BUG else [])


async def test_work_wins_a_race() -> None:
    event = asyncio.Event()
    assert await race(asyncio.sleep(0, "done"), event) == "done"
    with pytest.raises(ValueError, match="a bug"):
        await race(fail(BUG), event)


@pytest.mark.parametrize("when", ["before", "during"])
async def test_an_event_wins_a_race(when: str) -> None:
    """And the work has ended when the race has."""
    event = asyncio.Event()
    ended = False

    async def work() -> None:
        nonlocal ended
        try:
            if when == "during":
                event.set()
            await for_ever()
        finally:
            await asyncio.sleep(0)
            ended = True

    if when == "before":
        event.set()
    with pytest.raises(EventFirst):
        await race(work(), event)
    assert ended is (when == "during"), "work of a race that was over began"


@pytest.mark.parametrize(
    ("error", "over"),
    [
        (grpc.aio.InternalError("Failed execute_batch"), True),
        (grpc.aio.BaseError(), True),
        (grpc.aio.UsageError("RPC already finished."), False),
        (BUG, False),
    ],
)
def test_what_shows_that_a_call_is_over(error: Exception, *, over: bool) -> None:
    """A caller's cancellation is no bug, and a wrong use of gRPC is."""
    assert _shows_cancellation(error) is over
