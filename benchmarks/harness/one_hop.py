"""gRPC alone: messages of bytes, and a unary call, over one hop or two.

`server` serves, `relay` passes calls on, `client` calls; same library, same
channel settings and message size as the real path, nothing read or written.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
from openshell_files_process.server_process import tune_allocator
from openshell_files_protocol.limits import STREAM_OPTIONS

from harness.answering import serve

UNARY, SINK = "/benchmark/Unary", "/benchmark/Sink"

Context = grpc.aio.ServicerContext[bytes, bytes]


def _serve_async(make: Callable[[], Awaitable[grpc.GenericRpcHandler]]) -> None:
    """Run a grpc.aio server beside the loop that answers the harness."""
    started = threading.Event()
    port = [0]

    async def main() -> None:
        server = grpc.aio.server(options=STREAM_OPTIONS)
        server.add_generic_rpc_handlers((await make(),))
        port[0] = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        started.set()
        await server.wait_for_termination()

    threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
    started.wait()
    serve({}, port=port[0])


def _handlers(unary: object, sink: object) -> grpc.GenericRpcHandler:
    library: Any = grpc
    handlers: grpc.GenericRpcHandler = library.method_handlers_generic_handler(
        "benchmark",
        {
            "Unary": library.unary_unary_rpc_method_handler(unary),
            "Sink": library.stream_unary_rpc_method_handler(sink),
        },
    )
    return handlers


async def _messages(context: Context) -> AsyncIterator[bytes]:
    reader: Any = context
    while isinstance(message := await reader.read(), bytes):
        yield message


async def _end() -> grpc.GenericRpcHandler:
    async def unary(request: bytes, _: Context) -> bytes:
        return request

    async def sink(_: object, context: Context) -> bytes:
        size = 0
        async for message in _messages(context):
            size += len(message)
        return str(size).encode()

    return _handlers(unary, sink)


def _middle(to: str) -> Callable[[], Awaitable[grpc.GenericRpcHandler]]:
    async def make() -> grpc.GenericRpcHandler:
        channel: Any = grpc.aio.insecure_channel(to, STREAM_OPTIONS)
        call, stream = channel.unary_unary(UNARY), channel.stream_unary(SINK)

        async def unary(request: bytes, _: Context) -> bytes:
            answer: bytes = await call(request)
            return answer

        async def sink(_: object, context: Context) -> bytes:
            onward = stream()
            async for message in _messages(context):
                await onward.write(message)
            await onward.done_writing()
            answer: bytes = await onward
            return answer

        return _handlers(unary, sink)

    return make


def _client(to: str) -> None:
    channel: Any = grpc.insecure_channel(to, STREAM_OPTIONS)
    unary, sink = channel.unary_unary(UNARY), channel.stream_unary(SINK)

    def calls(size: int, count: int) -> dict[str, Any]:
        request, seconds = bytes(size), list[float]()
        for _ in range(count):
            began = time.perf_counter()
            unary(request)
            seconds.append(time.perf_counter() - began)
        return {"each": seconds}

    def stream(size: int, chunk: int) -> dict[str, Any]:
        def messages() -> Iterator[bytes]:
            for begin in range(0, size, chunk):
                # A new one each time, as a file's would be.
                yield bytes(min(chunk, size - begin))

        return {"size": int(sink(messages()))}

    serve({"calls": calls, "stream": stream})


if __name__ == "__main__":
    tune_allocator()
    match sys.argv[1:]:
        case ["server"]:
            _serve_async(_end)
        case ["relay", to]:
            _serve_async(_middle(to))
        case ["client", to]:
            _client(to)
        case _:
            sys.exit("one_hop: server | relay HOST:PORT | client HOST:PORT")
