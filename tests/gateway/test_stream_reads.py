"""Cancelled reads of a stream lose no message and no memory."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from openshell_files_gateway.concurrency.stream_reads import StreamReads
from openshell_files_gateway.server.calls import Call
from resident_memory import MIB, ResidentMemory

#: Its types know only the blocking flavour.
_GRPC: Any = grpc

_MESSAGE = bytes(MIB - 1024)


async def cancelled(reads: StreamReads | Call) -> None:
    """Begin a read, and cancel it while it waits."""
    read = reads.next() if isinstance(reads, StreamReads) else reads.read()
    reading = asyncio.create_task(read)
    await asyncio.sleep(0)
    reading.cancel()
    with suppress(asyncio.CancelledError):
        await reading


async def test_a_cancelled_read_goes_on() -> None:
    """The next reader gets its message; gRPC has one read at a time."""
    messages = asyncio.Queue[bytes]()
    reads = StreamReads(messages.get)
    for _ in range(3):
        await cancelled(reads)
    messages.put_nowait(b"1")
    messages.put_nowait(b"2")
    assert [await reads.next(), await reads.next()] == [b"1", b"2"]


async def test_an_error_that_nobody_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    """The call has ended: the error is the next reader's, and no line of the log if there is none."""
    ended, over = asyncio.Event(), asyncio.Event()

    async def read() -> bytes:
        await ended.wait()
        over.set()
        raise grpc.aio.UsageError("the call has ended")

    reads, unread = StreamReads(read), StreamReads(read)
    await cancelled(reads)
    await cancelled(unread)
    ended.set()
    with pytest.raises(grpc.aio.UsageError):
        await reads.next()
    await over.wait()
    del reads, unread
    gc.collect()
    assert caplog.records == []


async def test_a_message_for_a_cancelled_read_is_freed() -> None:
    """Of calls that are refused while their caller sends: each would leave a message of 1 MiB."""

    async def refuse(_: Any, context: Any) -> None:
        call = Call(context, "/test.Service/Stream", "id", "peer")
        await call.read()
        await cancelled(call)
        # Now the caller sends the message that the cancelled read would have got.
        await context.send_initial_metadata(())
        await call.read()
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
                refused = threading.Event()
                call = stream(_messages(refused))
                call.initial_metadata()
                refused.set()
                with pytest.raises(grpc.RpcError, match="full"):
                    list(call)

    await asyncio.to_thread(send, 20)
    memory = ResidentMemory({"both": os.getpid()})
    await asyncio.to_thread(send, 100)
    await server.stop(None)
    assert memory.now()["both"] < 30 * MIB


def _messages(refused: threading.Event) -> Iterator[bytes]:
    yield _MESSAGE
    refused.wait()
    yield _MESSAGE
    yield _MESSAGE
