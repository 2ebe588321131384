"""Starting a target by its launcher: one JSON object per line on the launcher's stdin and stdout.

    → {"type": "launch", "protocol": 1, "role": "gateway", "run_dir": …, "settings": {…}, …}
    ← {"type": "ready", "endpoint": "127.0.0.1:41231", "pid": 123, "capabilities": […], …}
      or {"type": "unsupported", "what": "idle_timeout_s"}

End of file on stdin, or SIGTERM, means: stop. Standard output has nothing but these messages; standard error is the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from openshell_files_conformance.target.messages import decoded, problem

#: Version of the messages on stdin and stdout, of launchers and adapters.
PROTOCOL: Final = 1
#: How long a target has to end after the end of its stdin, before it is killed.
STOP_SECONDS: Final = 10.0
_LINE_LIMIT: Final = 4 << 20


class TargetError(Exception):
    """The target cannot be judged as it is."""


class TargetNotReadyError(TargetError):
    """The target could not be started, or did not say that it is ready."""


class UnsupportedLaunchError(TargetError):
    """The target cannot be launched with the settings that were asked for."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What a target said when it was ready.

    Attributes:
        facts: the whole message.
    """

    endpoint: str = ""
    pid: int | None = None
    capabilities: frozenset[str] = frozenset()
    sandboxes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Ready:
        """Read a ready message, or the same facts out of `conformance.toml`.

        Raises:
            TargetNotReadyError: a fact has the wrong type.
        """
        endpoint, pid = facts.get("endpoint", ""), facts.get("pid")
        capabilities, sandboxes = facts.get("capabilities", []), facts.get("sandboxes", {})
        right = (
            isinstance(endpoint, str)
            and isinstance(pid, int | None)
            and isinstance(capabilities, list)
            and isinstance(sandboxes, dict)
        )
        if not right:
            raise TargetNotReadyError(f"the ready message has a field of a wrong type: {dict(facts)}")
        names = [str(name) for name in cast(list[object], capabilities)]
        return cls(
            cast(str, endpoint),
            cast("int | None", pid),
            frozenset(names),
            cast(Mapping[str, Mapping[str, Any]], sandboxes),
            facts,
        )


class Launched:
    """A launcher that runs, with its target."""

    def __init__(self, process: asyncio.subprocess.Process, ready: Ready) -> None:
        self.process = process
        self.ready = ready

    @property
    def pid(self) -> int:
        """Process of the target itself; the launcher's own if it named no other."""
        return self.ready.pid or self.process.pid

    async def stop(self) -> None:
        """End the launcher's stdin and wait until it is gone; kill it if it stays."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        await ended(self.process)


@contextlib.asynccontextmanager
async def launched(
    command: Sequence[str], message: Mapping[str, Any], *, log: Path, ready_timeout: float = 30.0
) -> AsyncGenerator[Launched]:
    """Start a launcher, tell it what to launch, and stop it at the end of the context.

    Args:
        command: the launcher and its arguments.
        message: fields of the launch message; `type` and `protocol` are added.
        log: file that gets the launcher's standard error.
        ready_timeout: how long it may take until it is ready, in seconds.

    Raises:
        TargetNotReadyError: it cannot be started, ended, or was not ready in time.
        UnsupportedLaunchError: it said that it cannot be launched so.
    """
    process = await started(command, log)
    try:
        line = json.dumps({"type": "launch", "protocol": PROTOCOL, **message})
        answer = await _answer(process, line, command, log, ready_timeout)
        if answer.get("type") == "unsupported":
            raise UnsupportedLaunchError(str(answer.get("what", "")))
        target = Launched(process, Ready.from_facts(answer))
        yield target
    finally:
        if process.stdin is not None:
            process.stdin.close()
        await ended(process)


async def started(command: Sequence[str], log: Path) -> asyncio.subprocess.Process:
    """Start a program with pipes for stdin and stdout, and its standard error in a file.

    Raises:
        TargetNotReadyError: the program cannot be started.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("ab") as errors:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                # A group of its own, so that a launcher that has to be killed takes its target along.
                start_new_session=True,
                limit=_LINE_LIMIT,
            )
    except (OSError, ValueError) as error:
        raise TargetNotReadyError(f"{' '.join(command)} cannot be started: {error}") from error


async def _answer(
    process: asyncio.subprocess.Process, line: str, command: Sequence[str], log: Path, ready_timeout: float
) -> Mapping[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    said = ""
    try:
        process.stdin.write(line.encode() + b"\n")
        await process.stdin.drain()
        async with asyncio.timeout(ready_timeout):
            said = (await process.stdout.readline()).decode("utf-8", "replace").strip()
        answer = decoded(said.encode())
    except TimeoutError:
        raise TargetNotReadyError(
            f"{command[0]} was not ready within {ready_timeout:g} s; log: {log}"
        ) from None
    except (OSError, ValueError) as error:
        raise TargetNotReadyError(f"{command[0]} said {said!r} instead of ready; log: {log}") from error
    wrong = problem("answer", answer)
    if wrong:
        raise TargetNotReadyError(f"{command[0]} said {said!r}: {wrong}; log: {log}")
    return answer


async def ended(process: asyncio.subprocess.Process) -> None:
    """Wait until a program whose stdin was closed is gone, and kill it with all that it started if it stays."""
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
