"""Between an upload's stream and the disk thread that carries it out."""

from __future__ import annotations

import asyncio

from openshell_supervisor_sim.agent.operations.disk_queue import DiskQueue


async def test_what_waits_is_taken_together_and_in_order() -> None:
    queue: DiskQueue[int] = DiskQueue(10_000)
    for number in range(3):
        await queue.put([number], 100)
    queue.put_last(3)
    assert queue.buffered > 300
    assert queue.take(0) == [0, 1, 2, 3]
    assert queue.take(0) == []
    assert queue.buffered == 0


async def test_it_is_full_until_what_was_taken_is_done() -> None:
    queue: DiskQueue[str] = DiskQueue(2000)
    await queue.put(["first"], 1200)
    second = asyncio.create_task(queue.put(["second"], 1200))
    assert await asyncio.to_thread(queue.take, 0) == ["first"]
    await asyncio.sleep(0)
    assert not second.done(), "the first is still worked on"
    assert await asyncio.to_thread(queue.take, 30) == ["second"]
    await second


async def test_a_thread_that_leaves_makes_room_too() -> None:
    """Or nobody would ever come back to it: what wants in is all there is."""
    queue: DiskQueue[str] = DiskQueue(2000)
    await queue.put(["first"], 1200)
    second = asyncio.create_task(queue.put(["second"], 1200))
    await asyncio.sleep(0)
    assert queue.take(0) == ["first"]
    await asyncio.wait_for(queue.arrived(), 30)
    await second
    assert queue.take(0) == ["second"]


async def test_a_single_entry_above_the_limit_is_let_through() -> None:
    queue: DiskQueue[str] = DiskQueue(10)
    await asyncio.wait_for(queue.put(["large"], 1000), 30)
    assert queue.take(0) == ["large"]


async def test_a_thread_that_lingers_is_told() -> None:
    queue: DiskQueue[str] = DiskQueue(1000)
    taking = asyncio.create_task(asyncio.to_thread(queue.take, 30))
    await asyncio.sleep(0)
    await queue.put(["one"], 1)
    assert await asyncio.wait_for(taking, 10) == ["one"]


async def test_nobody_lingers_longer_than_told() -> None:
    queue: DiskQueue[str] = DiskQueue(1000)
    assert await asyncio.wait_for(asyncio.to_thread(queue.take, 0.01), 30) == []
