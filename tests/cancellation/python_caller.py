"""Sends uploads of the RFC with gRPC's own client for Python, and breaks each off; see callers.py."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from typing import Any

import grpc


async def upload(channel: Any, order: dict[str, Any], messages: list[str], seconds: float) -> None:
    deadline = 0.04 + seconds if order["way"] == "deadline" else None
    metadata = (("authorization", f"Bearer {order['token']}"),)
    call = channel.stream_unary(order["method"])(metadata=metadata, timeout=deadline)
    try:
        for message in messages:
            await call.write(base64.b64decode(message))
        if order["way"] == "deadline":
            await call
        await asyncio.sleep(seconds)
        if order["way"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        call.cancel()
        await call
    except grpc.aio.AioRpcError:
        # A write that the deadline cut off is an "Internal error from Core".
        if order["way"] != "deadline":
            raise
    except (asyncio.CancelledError, asyncio.InvalidStateError):
        pass  # the call was cancelled, or its deadline came before everything was written


async def main() -> None:
    order = json.load(sys.stdin)
    async with grpc.aio.insecure_channel(order["endpoint"]) as channel:
        for one in order["uploads"]:
            await upload(channel, order, one["messages"], one["delay_ms"] / 1000)
    print("[]")


if __name__ == "__main__":
    asyncio.run(main())
