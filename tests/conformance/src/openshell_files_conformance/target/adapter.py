"""Speaking to the adapter of an SDK: JSON lines on stdin and stdout, files by their paths.

    → {"id": 2, "op": "upload", "endpoint": …, "local": "/…/in", "remote": "/w/a", "options": {…}}
    ← {"id": 2, "outcome": "error", "code": "UNAVAILABLE", "reason": "RELAY_LOST", "attempts": 3}

The first request is `hello`, the second an operation that does not exist: an adapter that does not answer `unsupported` to it cannot be believed
about anything else. Every line is held against `schemas/adapter.json`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from openshell_files_conformance.target.launch import TargetError, TargetNotReadyError, ended, started
from openshell_files_conformance.target.messages import decoded, problem


class AdapterError(TargetError):
    """The adapter ended, or broke its protocol. What it said about the SDK cannot be used."""


class Adapter:
    """An adapter that runs. Requests may be open at the same time; answers come in any order.

    Attributes:
        implementation: what it said of the SDK.
        capabilities: options that the SDK has.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.implementation: Mapping[str, Any] = {}
        self.capabilities: frozenset[str] = frozenset()
        self._ids = itertools.count(1)
        self._open: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._broken: AdapterError | None = None

    async def call(self, op: str, **fields: Any) -> Mapping[str, Any]:
        """Ask for one operation and return the answer.

        Raises:
            AdapterError: the adapter ended or answered something that is no answer.
        """
        if self._broken:
            raise self._broken
        number = next(self._ids)
        request = {"id": number, "op": op, **fields}
        wrong = problem("request", request)
        if wrong:
            raise ValueError(f"the suite's own request is wrong: {wrong}")
        answer: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._open[number] = answer
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            await self.process.stdin.drain()
            return await answer
        except ConnectionError as error:
            raise AdapterError(f"the adapter's stdin is closed: {error}") from error
        finally:
            self._open.pop(number, None)

    async def read(self) -> None:
        """Hand out answers until the adapter's stdout is over. Runs as a task beside the requests."""
        assert self.process.stdout is not None
        try:
            while line := await self.process.stdout.readline():
                self._take(line)
            self._break(AdapterError("the adapter ended"))
        except AdapterError as error:
            self._break(error)
        except ValueError as error:
            self._break(AdapterError(f"the adapter's line is too long or no JSON: {error}"))

    def _take(self, line: bytes) -> None:
        message = decoded(line)
        wrong = problem("response", message)
        if wrong:
            raise AdapterError(f"the adapter answered {line[:300]!r}: {wrong}")
        answer = self._open.get(cast(int, message["id"]))
        # An answer to a request that is not open any more belongs to a case that ran into its deadline.
        if answer is not None and not answer.done():
            answer.set_result(message)

    def _break(self, error: AdapterError) -> None:
        self._broken = error
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(error)


@contextlib.asynccontextmanager
async def adapter_started(
    command: Sequence[str], *, log: Path, ready_timeout: float = 30.0, probe: bool = True
) -> AsyncGenerator[Adapter]:
    """Start an adapter, greet it, and end it with the context.

    Args:
        command: the adapter and its arguments.
        log: file that gets its standard error.
        ready_timeout: how long it may take to answer, in seconds.
        probe: ask it for an operation that does not exist.

    Raises:
        TargetNotReadyError: it does not start or answer, or it fails the honesty probe.
    """
    process = await started(command, log)
    adapter = Adapter(process)
    reader = asyncio.create_task(adapter.read())
    try:
        try:
            async with asyncio.timeout(ready_timeout):
                await _greet(adapter, probe=probe)
        except TimeoutError:
            raise TargetNotReadyError(
                f"{command[0]} did not answer within {ready_timeout:g} s; log: {log}"
            ) from None
        except AdapterError as error:
            raise TargetNotReadyError(f"{error}; log: {log}") from error
        yield adapter
    finally:
        if process.stdin is not None:
            process.stdin.close()
        await ended(process)
        await reader


async def _greet(adapter: Adapter, *, probe: bool) -> None:
    hello = await adapter.call("hello")
    if hello["outcome"] != "ok":
        raise AdapterError(f"the adapter answered {dict(hello)} to hello")
    adapter.implementation = cast(Mapping[str, Any], hello.get("implementation", {}))
    adapter.capabilities = frozenset(cast(Sequence[str], hello.get("capabilities", ())))
    if not probe:
        return
    made_up = f"zq-{secrets.token_hex(2)}-frobnicate"
    answer = await adapter.call(made_up)
    if answer["outcome"] != "unsupported":
        raise AdapterError(
            f"honesty probe: the adapter answered {dict(answer)} to the made-up operation {made_up}"
        )
