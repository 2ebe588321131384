"""A call whose first answer was cut off can still be refused."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest
from openshell_files_gateway.server.calls import Call
from openshell_files_gateway.server.headers import send_headers

_METHOD = "/test.Service/Stream"

#: Its types know only the blocking flavour.
_GRPC: Any = grpc


async def _status_of(answer: Any, turns: int) -> grpc.StatusCode:
    """Begin an answer, cut it off after some turns of the loop, refuse the call, and return what its caller sees."""

    async def behave(_: bytes, context: Any) -> None:
        writing = asyncio.create_task(answer(context))
        for _turn in range(turns):
            await asyncio.sleep(0)
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing
        await context.abort(grpc.StatusCode.ABORTED, "cut off")

    server = _GRPC.aio.server()
    handler = _GRPC.unary_stream_rpc_method_handler(behave)
    server.add_generic_rpc_handlers(
        [_GRPC.method_handlers_generic_handler("test.Service", {"Stream": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with _GRPC.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_stream(_METHOD)(b"")
        with suppress(grpc.aio.AioRpcError):
            async with asyncio.timeout(30):
                while await call.read() is not grpc.aio.EOF:
                    pass
        code: grpc.StatusCode = await call.code()
    await server.stop(None)
    return code


async def _by_call(context: Any) -> None:
    await Call(context, _METHOD, "id", "peer").write(b"message")


async def _headers_alone(context: Any) -> None:
    await send_headers(context)


@pytest.mark.parametrize("answer", [_by_call, _headers_alone])
@pytest.mark.parametrize("turns", range(6))
async def test_a_call_is_refused_although_its_first_answer_was_cut_off(answer: Any, turns: int) -> None:
    assert await _status_of(answer, turns) is grpc.StatusCode.ABORTED
