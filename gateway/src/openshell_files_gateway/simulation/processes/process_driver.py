"""Runs sandboxes: each is a directory and a supervisor process on this machine, started here.

A supervisor outlives its gateway. The next gateway finds the process, so
uploads can be resumed at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import structlog
from openshell_files_process.tasks import TaskScope

from openshell_files_gateway.concurrency.tasks import BackgroundTasks, cancel, in_thread
from openshell_files_gateway.simulation.processes.process_table import HeldProcess, pids_with_option
from openshell_files_gateway.simulation.processes.sandbox_home import WORKDIR, SandboxHome
from openshell_files_gateway.simulation.processes.tree_removal import remove_tree

log = structlog.get_logger("openshell_files_gateway.compute")

#: Time for a supervisor to stop before it is killed.
STOP_SECONDS: Final = 15.0

#: Delay between the end of a supervisor and its restart: the first, the longest.
RESTART_SECONDS: Final = 0.2
_MAX_RESTART_SECONDS: Final = 30.0
#: Run time after which the end of a supervisor does not count as a failed start.
_STABLE_SECONDS: Final = 10.0
#: Consecutive failed starts after which the driver stops restarting a supervisor.
MAX_FAILURES: Final = 5

#: Interval between two checks of a log's size.
_LOG_SECONDS: Final = 60.0

#: Environment variables that supervisors inherit; others may hold the gateway's secrets.
_PASSED_ON: Final = frozenset(
    {"PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"}
)

#: Option whose value identifies the supervisor of a sandbox in the process table.
_MARK: Final = "--token-file"


class TokenIssuer(Protocol):
    """Signs tokens for supervisors."""

    def mint(self, sandbox_id: str) -> tuple[str, int | None]:
        """Return a token for a sandbox and when it expires."""
        ...


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """Options of all supervisors.

    Attributes:
        directory: directory that has one subdirectory per sandbox.
        command: the supervisor's program, with arguments before its options.
        arguments: additional options of every supervisor.
        tls_ca: file with the authority of the gateway's certificate; None without TLS.
        owner: user and group id of the sandboxes' files; a supervisor that
            root starts switches to the owner of its root directory. None for
            this process's own ids.
        lifeline: descriptor that the supervisors get as standard input, and
            whose end stops them; None if they outlive their gateway.
        stop_seconds: time for a supervisor to stop before it is killed.
        restart_seconds: delay of the first restart.
    """

    directory: Path
    command: Sequence[str]
    arguments: Sequence[str] = ()
    tls_ca: Path | None = None
    owner: tuple[int, int] | None = None
    lifeline: int | None = None
    stop_seconds: float = STOP_SECONDS
    restart_seconds: float = RESTART_SECONDS


class ProcessDriver:
    """Starts, restarts and stops the supervisor processes of sandboxes.

    Args:
        options: options of all supervisors.
        tokens: signs the supervisors' tokens.
        on_failure: called with a sandbox's id and a reason when its supervisor
            is not restarted any more.
    """

    def __init__(
        self, options: ProcessOptions, tokens: TokenIssuer, on_failure: Callable[[str, str], None]
    ) -> None:
        self._options = options
        # Resolved, because supervisors are found by this path, whichever link the operator uses.
        self._directory = options.directory.resolve()
        self._tokens = tokens
        self._on_failure = on_failure
        self._endpoint = ""
        self._tasks = BackgroundTasks()
        self._watches: dict[str, asyncio.Task[None]] = {}
        #: The watched processes. A new process appears in the process table
        #: only a moment after its start.
        self._held: dict[str, HeldProcess] = {}

    def listen_at(self, endpoint: str) -> None:
        """Set the address at which supervisors reach the gateway. Call it before `start`."""
        self._endpoint = endpoint

    def home(self, sandbox_id: str) -> SandboxHome:
        """Return the files of a sandbox."""
        return SandboxHome(self._directory / sandbox_id, self._options.owner)

    async def start(self, sandbox_id: str) -> None:
        """Create the missing files of a sandbox, and start its supervisor.

        A running supervisor is taken over, unless its options differ from the
        current ones; then it is replaced.

        Raises:
            OSError: a file cannot be created, or the process cannot be started.
        """
        watch = self._watches.get(sandbox_id)
        if watch is not None and not watch.done():
            return
        process = await self._find_or_start(sandbox_id)
        self._watches[sandbox_id] = self._tasks.start(self._watch(sandbox_id, process), f"watch {sandbox_id}")

    async def stop(self, sandbox_id: str) -> None:
        """Stop a sandbox's supervisor and wait for its end; the files stay."""
        watch = self._watches.pop(sandbox_id, None)
        if watch is not None:
            await cancel(watch)
        held = self._held.pop(sandbox_id, None)
        if held is not None:
            await self._end(held)
        while (process := await in_thread(partial(self._find, sandbox_id))) is not None:
            await self._end(process)

    async def remove(self, sandbox_id: str) -> None:
        """Stop a sandbox's supervisor and remove all files of the sandbox.

        Raises:
            OSError: a file could not be removed.
        """
        await self.stop(sandbox_id)
        await in_thread(partial(remove_tree, self.home(sandbox_id).path))

    async def aclose(self, *, stop: bool) -> None:
        """Stop watching the supervisors.

        Args:
            stop: stop the supervisors as well.
        """
        await self._tasks.end()
        if stop:
            await asyncio.gather(*map(self.stop, list(self._watches)))
        self._watches.clear()
        for process in self._held.values():
            process.close()
        self._held.clear()

    async def _find_or_start(self, sandbox_id: str) -> HeldProcess:
        """Return the running supervisor of a sandbox, even if an earlier gateway started it, or start one."""
        home, token = self.home(sandbox_id), self._tokens.mint(sandbox_id)[0]
        command = self._command(sandbox_id)
        while (found := await in_thread(partial(self._find, sandbox_id))) is not None:
            if found.was_started_by(command):
                log.info("supervisor taken over", sandbox_id=sandbox_id, pid=found.pid)
                # Its token may have expired, or be signed with another key.
                try:
                    await in_thread(partial(home.replace_token, token))
                except OSError as error:
                    log.warning("token was not renewed", sandbox_id=sandbox_id, reason=str(error))
                except BaseException:
                    found.close()
                    raise
                self._held[sandbox_id] = found
                return found
            log.info("supervisor replaced because its options changed", sandbox_id=sandbox_id, pid=found.pid)
            await self._end(found)
        await in_thread(partial(home.lay_out, token))
        # No await in between: a cancellation leaves a process in `_held`, or none.
        process = self._held[sandbox_id] = self._start_process(sandbox_id, command)
        return process

    def _find(self, sandbox_id: str) -> HeldProcess | None:
        mark = str(self.home(sandbox_id).token)
        for pid in pids_with_option(_MARK, mark):
            with suppress(ProcessLookupError):
                process = HeldProcess(pid)
                if process.has_option(_MARK, mark):
                    return process
                process.close()
        return None

    def _command(self, sandbox_id: str) -> list[str]:
        options, home = self._options, self.home(sandbox_id)
        command = [
            *options.command,
            "--endpoint", self._endpoint, "--sandbox-id", sandbox_id, _MARK, str(home.token),
            "--root", str(home.root), "--workdir", WORKDIR, "--state-dir", str(home.state),
            "--log-format", "json", *options.arguments,
        ]  # fmt: skip
        if options.tls_ca is not None:
            command += ["--tls-ca", str(options.tls_ca)]
        if options.lifeline is not None:
            command += ["--exit-on-stdin-close"]
        return command

    def _start_process(self, sandbox_id: str, command: Sequence[str]) -> HeldProcess:
        lifeline = self._options.lifeline
        with self.home(sandbox_id).log.open("ab") as errors:
            # Not with asyncio, which kills its processes when the loop ends.
            child = subprocess.Popen(  # noqa: S603 - our own program, no shell
                command,
                stdin=subprocess.DEVNULL if lifeline is None else lifeline,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={name: value for name, value in os.environ.items() if name in _PASSED_ON},
                start_new_session=True,
            )
        process = HeldProcess(child.pid)
        # It may outlive this process; without a return code, Popen would warn about that.
        child.returncode = 0
        log.info("supervisor started", sandbox_id=sandbox_id, pid=process.pid)
        return process

    async def _watch(self, sandbox_id: str, process: HeldProcess) -> None:
        """Restart the supervisor whenever it ends, until it fails too often."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            await self._wait_for_end(sandbox_id, process)
            del self._held[sandbox_id]
            process.close()
            failures = 0 if loop.time() - began >= _STABLE_SECONDS else failures + 1
            log.warning("supervisor ended", sandbox_id=sandbox_id, pid=process.pid, failures=failures)
            if failures >= MAX_FAILURES:
                self._report_failure(
                    sandbox_id, f"The supervisor ended {failures} times right after its start"
                )
                return
            delay = self._options.restart_seconds * 2 ** max(0, failures - 1)
            await asyncio.sleep(min(_MAX_RESTART_SECONDS, delay))
            try:
                process = await self._find_or_start(sandbox_id)
            except OSError as error:
                self._report_failure(sandbox_id, f"The supervisor cannot be restarted: {error}")
                return

    async def _wait_for_end(self, sandbox_id: str, process: HeldProcess) -> None:
        """Wait for the end of a supervisor, and limit the size of its log meanwhile."""
        async with TaskScope() as tasks:
            ended = tasks.start(process.wait(), f"end of {process.pid}")
            while not (await asyncio.wait({ended}, timeout=_LOG_SECONDS))[0]:
                await in_thread(self.home(sandbox_id).bound_log)
            ended.result()

    def _report_failure(self, sandbox_id: str, why: str) -> None:
        self._on_failure(sandbox_id, f"{why}; see {self.home(sandbox_id).log}")

    async def _end(self, process: HeldProcess) -> None:
        try:
            process.signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(self._options.stop_seconds):
                    await process.wait()
            except TimeoutError:
                log.warning("supervisor did not stop and is killed", pid=process.pid)
                process.signal(signal.SIGKILL)
                await process.wait()
        finally:
            process.close()
