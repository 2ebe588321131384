"""What strangers who flood the gateway with streams cost a caller that it knows.

A caller asks `StatFile` again and again, one question after the other, before, during and after each of the floods of
`raw_flood.py`. Printed are its answered questions per second, its slowest question, its failed ones, and the gateway's memory.

Usage: ``floods.py [--seconds 6] [--flood NAME]...``. Ends with status 1 if a call of the caller failed: a flood may slow it down, and
how much is printed (docs/operations.md says what a proxy in front has to bound).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc
import psutil
from openshell_files_gateway.dev.stack import DevelopmentStack, StackSettings
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from raw_flood import FLOODS

_QUESTION_SECONDS = 20.0


@dataclass
class Measured:
    """A caller's questions for a while."""

    seconds: float
    answered: int = 0
    failed: int = 0
    slowest: float = 0.0

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.answered / self.seconds


class Caller:
    """Asks one question after the other on a connection of its own."""

    def __init__(self, stack: DevelopmentStack) -> None:
        self._channel = grpc.aio.insecure_channel(stack.endpoint)
        self._stat = cast("Any", self._channel.unary_unary(methods.STAT_FILE))
        self._metadata = (("authorization", f"Bearer {stack.describe().token}"),)
        ref = files_pb2.SandboxRef(id=stack.sandboxes[0].id)
        self._question = files_pb2.StatFileRequest(sandbox=ref, remote_path="f").SerializeToString()

    async def ask(self, seconds: float) -> Measured:
        """Ask for so long."""
        began = time.monotonic()
        found = Measured(seconds)
        while time.monotonic() - began < seconds:
            asked = time.monotonic()
            try:
                await self._stat(self._question, metadata=self._metadata, timeout=_QUESTION_SECONDS)
                found.answered += 1
            except grpc.aio.AioRpcError as error:
                found.failed += 1
                print(f"    failed: {error.code().name} {error.details()}")
            found.slowest = max(found.slowest, time.monotonic() - asked)
        found.seconds = time.monotonic() - began
        return found

    async def aclose(self) -> None:
        """Close the connection."""
        await self._channel.close()


async def measure(name: str, seconds: float) -> tuple[float, int]:
    """Run one flood against a gateway of its own; returns what part of its calls the caller kept, and how many failed."""
    stack = DevelopmentStack(StackSettings())
    await stack.start()
    assert stack.gateway is not None
    gateway = psutil.Process(stack.gateway.pid)
    caller = Caller(stack)
    try:
        sandbox = stack.sandboxes[0]
        directory = Path(sandbox.root) / sandbox.workdir.lstrip("/")
        await asyncio.to_thread((directory / "f").write_bytes, b"content")
        await caller.ask(1)
        rows = [("before", await caller.ask(seconds / 2), gateway.memory_info().rss)]
        port = stack.endpoint.rpartition(":")[2]
        command = [sys.executable, str(Path(__file__).with_name("raw_flood.py")), name, port, str(seconds)]
        flood = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        try:
            assert flood.stdout is not None
            await flood.stdout.readline()
            rows.append(("during", await caller.ask(seconds), gateway.memory_info().rss))
            sent = (await flood.stdout.read()).decode()
        finally:
            with suppress(ProcessLookupError):
                flood.kill()
            await flood.wait()
        rows.append(("after", await caller.ask(seconds / 2), gateway.memory_info().rss))
    finally:
        await caller.aclose()
        await stack.stop()
    print(f"{name}: {sent.strip()}")
    for when, found, memory in rows:
        print(
            f"  {when:7} {found.rate:7.1f} answers/s, slowest {found.slowest * 1000:6.0f} ms, "
            f"{found.failed} failed, gateway {memory >> 20} MiB",
            flush=True,
        )
    return rows[1][1].rate / rows[0][1].rate, sum(found.failed for _, found, _ in rows)


def main() -> int:
    """Run the floods that were asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--flood", action="append", choices=list(FLOODS))
    options = parser.parse_args()
    kept = {name: asyncio.run(measure(name, options.seconds)) for name in options.flood or FLOODS}
    for name, (ratio, failed) in kept.items():
        print(f"{name}: the caller kept {ratio:.0%} of its calls, {failed} failed")
    return 1 if any(failed for _, failed in kept.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
