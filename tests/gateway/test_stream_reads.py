"""Cancelled reads of a stream lose no message and no memory."""

from __future__ import annotations

import asyncio
import gc
import os
from contextlib import suppress
from typing import Any

import grpc
import pytest
from openshell_files_gateway.concurrency.stream_reads import StreamReads
from openshell_files_gateway.server.calls import Call
from resident_memory import MIB, ResidentMemory

#: Its types know only the blocking flavour.
_GRPC: Any = grpc


async def test_a_cancelled_read_goes_on() -> None:
    """The next reader gets its message; gRPC has one read at a time."""
    messages = asyncio.Queue[bytes]()
    reads = StreamReads(messages.get)
    for _ in range(3):
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await reads.next()
    messages.put_nowait(b"1")
    messages.put_nowait(b"2")
    await asyncio.sleep(0)
    assert [await reads.next(), await reads.next()] == [b"1", b"2"]


async def test_an_error_that_nobody_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    ended = asyncio.Event()

    async def read() -> bytes:
        await ended.wait()
        raise grpc.aio.UsageError("the call has ended")

    reads = StreamReads(read)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await reads.next()
    ended.set()
    await asyncio.sleep(0.01)
    with pytest.raises(grpc.aio.UsageError):
        await reads.next()
    del reads
    reads = StreamReads(read)
    task = asyncio.create_task(reads.next())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0.01)
    del reads, task
    gc.collect()
    assert caplog.records == []


async def test_calls_that_end_while_their_caller_sends_leave_no_memory() -> None:
    """A message that comes for a cancelled read is freed; without that, each of these calls leaves up to 1 MiB."""

    async def refuse(_: bytes, context: Any) -> None:
        call = Call(context, "/test.Service/Stream", "id", "peer")
        await call.read()

        async def read_on() -> None:
            while isinstance(await call.read(), bytes):
                pass

        reading = asyncio.create_task(read_on())
        await asyncio.sleep(0.002)
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        await asyncio.sleep(0.002)
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")

    server = _GRPC.aio.server()
    handler = _GRPC.stream_stream_rpc_method_handler(refuse)
    server.add_generic_rpc_handlers(
        [_GRPC.method_handlers_generic_handler("test.Service", {"Stream": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    def send(calls: int) -> None:
        with _GRPC.insecure_channel(f"127.0.0.1:{port}") as channel:
            stream = channel.stream_stream("/test.Service/Stream")
            for _ in range(calls):
                with suppress(grpc.RpcError):
                    list(stream(iter([bytes(MIB - 1024)] * 8)))

    await asyncio.to_thread(send, 20)
    memory = ResidentMemory({"both": os.getpid()})
    await asyncio.to_thread(send, 100)
    await server.stop(None)
    assert memory.now()["both"] < 30 * MIB
