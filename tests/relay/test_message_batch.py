"""The bounded queue between a caller and the relay."""

from __future__ import annotations

import asyncio

import pytest
from openshell_files_gateway.relay.batch import MessageBatch


async def test_what_queued_up_is_taken_together() -> None:
    batch = MessageBatch(max_bytes=1000)
    for number in range(3):
        await batch.put(b"%d" % number)
    assert await batch.take(1000) == [b"0", b"1", b"2"]


async def test_no_more_is_taken_than_fits_together() -> None:
    batch = MessageBatch(max_bytes=1000)
    for size in (60, 60, 60):
        await batch.put(bytes(size))
    assert [len(message) for message in await batch.take(120)] == [60, 60]
    assert [len(message) for message in await batch.take(120)] == [60]


async def test_a_message_that_is_larger_than_asked_for_is_taken_alone() -> None:
    batch = MessageBatch(max_bytes=1000)
    await batch.put(bytes(500))
    await batch.put(bytes(1))
    assert [len(message) for message in await batch.take(100)] == [500]


async def test_the_producer_waits_while_the_queue_is_full() -> None:
    """Memory does not grow with a slow relay: the bound plus one message."""
    batch = MessageBatch(max_bytes=100)
    await batch.put(bytes(99))
    await batch.put(bytes(50))
    waiting = asyncio.create_task(batch.put(bytes(1)))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert batch.statistics().waiting == 149
    assert [len(message) for message in await batch.take(1000)] == [99, 50]
    await waiting
    assert batch.statistics().peak == 149


async def test_the_consumer_is_told_of_the_end_after_the_last_message() -> None:
    batch = MessageBatch()
    await batch.put(b"last")
    batch.end()
    assert await batch.take(1000) == [b"last"]
    assert await batch.take(1000) == []


async def test_a_stream_that_flows_is_taken_in_larger_parts() -> None:
    """The first message is taken at once, the next ones together, as many as are wanted."""
    batch = MessageBatch()
    await batch.put(bytes(100))
    assert len(await batch.take(1000)) == 1
    await batch.put(bytes(100))
    taking = asyncio.create_task(batch.take(1000))
    for _ in range(9):
        await asyncio.sleep(0)
        assert not taking.done()
        await batch.put(bytes(100))
    assert len(await taking) == 10


@pytest.mark.parametrize("ends", [True, False])
async def test_nobody_waits_for_more_than_comes(*, ends: bool) -> None:
    batch = MessageBatch()
    await batch.put(b"first")
    await batch.take(1000)
    await batch.put(b"second")
    taking = asyncio.create_task(batch.take(1000))
    await asyncio.sleep(0)
    if ends:
        batch.end()
    assert await asyncio.wait_for(taking, 10) == [b"second"]


async def test_a_short_stream_is_taken_whole() -> None:
    """Its first message, too, waits for the end."""
    batch = MessageBatch(short=True)
    await batch.put(b"content")
    taking = asyncio.create_task(batch.take(1000))
    await asyncio.sleep(0)
    assert not taking.done()
    await batch.put(b"finish")
    batch.end()
    assert not batch.over
    assert await taking == [b"content", b"finish"]
    assert batch.over


async def test_the_consumer_waits_for_the_first_message() -> None:
    batch = MessageBatch()
    taking = asyncio.create_task(batch.take(1000))
    await asyncio.sleep(0)
    assert not taking.done()
    await batch.put(b"first")
    assert await taking == [b"first"]


async def test_empty_messages_take_up_room_too() -> None:
    """A caller who sends nothing, again and again, to a relay that stands still."""
    batch = MessageBatch(max_bytes=1000)

    async def flood() -> None:
        while True:
            await batch.put(b"")

    flooding = asyncio.create_task(flood())
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(await batch.take(1_000_000)) < 100
    flooding.cancel()
