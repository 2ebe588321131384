"""A child process that does not outlive its parent."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from openshell_files_gateway.concurrency.tasks import BackgroundTasks

log = structlog.get_logger("openshell_files_gateway.dev")

#: Time for a child to stop before it is killed; longer than supervisor and
#: gateway wait for transfers to end.
STOP_SECONDS: Final = 30.0

#: Delay between the end of a child and its restart.
_RESTART_SECONDS: Final = 0.2

#: Lines of a child's log in the error about its failure.
_LAST_LINES: Final = 5


class ChildFailedError(Exception):
    """A child process ended before it was ready."""


async def stop_process(process: asyncio.subprocess.Process, name: str) -> None:
    """Send SIGTERM to a process and wait for its end; kill it after `STOP_SECONDS`.

    Args:
        process: a process that may have ended already.
        name: name of the child in the log.
    """
    if process.returncode is not None:
        return
    _signal(process, signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        log.warning("child did not stop and is killed", child=name, pid=process.pid)
        _signal(process, signal.SIGKILL)
        await process.wait()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Send a signal without `Process.send_signal`, which would take the exit status from a task that waits for it."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)


class Child:
    """Runs a command as a child process, and restarts it when it ends.

    The child's standard input is a pipe, and the child stops when that ends, so
    it stops even if this process is killed. All starts share one pipe, so a
    process that the child starts with it outlives the child, but not this
    process. The child has a session of its own: Ctrl-C then reaches only the
    parent, which stops its children in order.

    Args:
        name: name of the child in the log.
        arguments: returns the command line, for every start anew.
        log_file: file for its standard error; None for the parent's.
        restart: restart it when it ends without `stop`.
    """

    def __init__(
        self, name: str, arguments: Callable[[], Sequence[str]], *, log_file: Path | None, restart: bool
    ) -> None:
        self.name: Final = name
        self._arguments = arguments
        self._log_file = log_file
        self._restart = restart
        self._process: asyncio.subprocess.Process | None = None
        self._tasks = BackgroundTasks()
        self._stopping = False
        self._lifeline: tuple[int, int] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running child."""
        return self._running().pid

    async def start(self, *, ready_line: bool = False) -> str:
        """Start the child.

        Args:
            ready_line: wait for one line on its standard output.

        Returns:
            That line; empty without `ready_line`.

        Raises:
            ChildFailedError: the child ended before it was ready.
        """
        line = await self._spawn(ready_line=ready_line)
        self._tasks.start(self._keep(ready_line=ready_line), f"watch {self.name}")
        return line

    async def stop(self) -> None:
        """Stop the child and wait for its end; see `stop_process`."""
        self._stopping = True
        process = self._process
        if process is not None:
            await stop_process(process, self.name)
        await self._tasks.end()
        if self._lifeline is not None:
            lifeline, self._lifeline = self._lifeline, None
            for end in lifeline:
                os.close(end)

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process

    async def _spawn(self, *, ready_line: bool) -> str:
        if self._lifeline is None:
            self._lifeline = os.pipe()
        stderr = None if self._log_file is None else await asyncio.to_thread(self._log_file.open, "ab")
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._arguments(),
                stdin=self._lifeline[0],
                stdout=asyncio.subprocess.PIPE if ready_line else asyncio.subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        finally:
            if stderr is not None:
                stderr.close()
        if self._process.stdout is None:
            return ""
        line = (await self._process.stdout.readline()).decode().strip()
        if not line:
            status = await self._process.wait()
            raise ChildFailedError(
                f"{self.name} ended with status {status} before it was ready"
                + await asyncio.to_thread(self._end_of_log)
            )
        return line

    def _end_of_log(self) -> str:
        """Return the last lines of the log, for an error that may outlive the log file."""
        if self._log_file is None:
            return ""
        try:
            lines = self._log_file.read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return ""
        return ": " + "\n".join(lines[-_LAST_LINES:])

    async def _keep(self, *, ready_line: bool) -> None:
        process = self._running()
        while True:
            status = await process.wait()
            if self._stopping or not self._restart:
                return
            log.warning("child ended and is restarted", child=self.name, status=status)
            await asyncio.sleep(_RESTART_SECONDS)
            try:
                await self._spawn(ready_line=ready_line)
            except (ChildFailedError, OSError) as error:
                if self._stopping:
                    return
                log.error("child cannot be restarted", child=self.name, reason=str(error))  # noqa: TRY400
            process = self._running()
