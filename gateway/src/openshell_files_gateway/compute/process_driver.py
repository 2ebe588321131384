"""Sandboxes as directories, and their supervisors as processes of this machine.

A supervisor outlives its gateway: transfers may be resumed at once by the next
one, which finds the process again. Each sandbox has a directory with the
sandbox's root, the supervisor's state, token and log.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import structlog

from openshell_files_gateway.compute.process_table import ForeignProcess, pids_with_argument

log = structlog.get_logger("openshell_files_gateway.compute")

#: What a sandbox has at the start; relative paths begin in the first.
SKELETON: Final = ("sandbox", "tmp", "home", "etc", "var/lib")
WORKDIR: Final = "/sandbox"

#: How long a supervisor may take to stop before it is killed.
STOP_SECONDS: Final = 15.0

#: Between the death of a supervisor and its restart: the first, the longest.
_RESTART_SECONDS: Final = 0.2
_MAX_RESTART_SECONDS: Final = 30.0
#: One that ran for so long is not failing at its start.
_STABLE_SECONDS: Final = 10.0
#: So many failures at the start, one after the other, and it is given up.
_MAX_FAILURES: Final = 5


class TokenIssuer(Protocol):
    """Signs tokens for supervisors."""

    def mint(self, sandbox_id: str) -> tuple[str, int | None]:
        """Return a token for a sandbox and when it expires."""
        ...


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """How supervisors are started.

    Attributes:
        directory: for one directory per sandbox.
        command: the supervisor's program and what comes before its options.
        arguments: further options for every supervisor.
        tls_ca: the authority of the gateway's certificate; None without TLS.
        lifeline: a descriptor that the supervisors get as standard input, and
            whose end stops them; None if they go on without their gateway.
    """

    directory: Path
    command: Sequence[str]
    arguments: Sequence[str] = ()
    tls_ca: Path | None = None
    lifeline: int | None = None


class ProcessDriver:
    """Runs supervisors as processes.

    Args:
        options: how.
        tokens: signs their tokens.
        on_failure: told, with a sandbox id and a reason, when a supervisor is
            given up.
    """

    def __init__(
        self,
        options: ProcessOptions,
        tokens: TokenIssuer,
        on_failure: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._options = options
        self._tokens = tokens
        self._on_failure = on_failure
        self._endpoint = ""
        self._watches: dict[str, asyncio.Task[None]] = {}

    def listen_at(self, endpoint: str) -> None:
        """Learn where supervisors reach the gateway; before any is started."""
        self._endpoint = endpoint

    def home(self, sandbox_id: str) -> Path:
        """Return the directory of a sandbox."""
        return self._options.directory / sandbox_id

    async def start(self, sandbox_id: str) -> None:
        """Make what is missing of a sandbox, and have its supervisor run.

        A supervisor that runs already is taken over as it is.

        Raises:
            OSError: it cannot be made or started.
        """
        watch = self._watches.get(sandbox_id)
        if watch is not None and not watch.done():
            return
        process = await asyncio.to_thread(self._find, sandbox_id)
        if process is None:
            await asyncio.to_thread(self._lay_out, sandbox_id)
            process = await self._spawn(sandbox_id)
        else:
            log.info("supervisor found again", sandbox_id=sandbox_id, pid=process.pid)
        self._watches[sandbox_id] = asyncio.create_task(
            self._watch(sandbox_id, process), name=f"watch {sandbox_id}"
        )

    async def stop(self, sandbox_id: str) -> None:
        """End a sandbox's supervisor and wait until it is gone; its files stay."""
        watch = self._watches.pop(sandbox_id, None)
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        while (process := await asyncio.to_thread(self._find, sandbox_id)) is not None:
            try:
                await _end(process)
            finally:
                process.close()

    async def remove(self, sandbox_id: str) -> None:
        """End a sandbox's supervisor and remove everything of the sandbox.

        Raises:
            OSError: something could not be removed.
        """
        await self.stop(sandbox_id)
        with suppress(FileNotFoundError):
            await asyncio.to_thread(_remove_tree, self.home(sandbox_id))

    async def aclose(self, *, stop: bool) -> None:
        """Watch no more.

        Args:
            stop: end the supervisors too.
        """
        for watch in self._watches.values():
            watch.cancel()
        await asyncio.gather(*self._watches.values(), return_exceptions=True)
        if stop:
            await asyncio.gather(*(self.stop(sandbox_id) for sandbox_id in list(self._watches)))

    def _find(self, sandbox_id: str) -> ForeignProcess | None:
        """Return the supervisor that runs, whoever started it."""
        mark = str(self._token_file(sandbox_id))
        for pid in pids_with_argument(mark):
            with suppress(ProcessLookupError):
                process = ForeignProcess(pid)
                if process.has_argument(mark):
                    return process
                process.close()
        return None

    def _token_file(self, sandbox_id: str) -> Path:
        return self.home(sandbox_id) / "token"

    def _lay_out(self, sandbox_id: str) -> None:
        home = self.home(sandbox_id)
        for directory in SKELETON:
            (home / "root" / directory).mkdir(parents=True, exist_ok=True)
        (home / "state").mkdir(mode=0o700, exist_ok=True)
        token, _ = self._tokens.mint(sandbox_id)
        fresh = home / "token.new"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(token)
        fresh.replace(self._token_file(sandbox_id))

    async def _spawn(self, sandbox_id: str) -> ForeignProcess:
        options, home = self._options, self.home(sandbox_id)
        arguments = [
            *options.command,
            "--endpoint", self._endpoint, "--sandbox-id", sandbox_id,
            "--token-file", str(self._token_file(sandbox_id)),
            "--root", str(home / "root"), "--workdir", WORKDIR, "--state-dir", str(home / "state"),
            "--log-format", "json", *options.arguments,
        ]  # fmt: skip
        if options.tls_ca is not None:
            arguments += ["--tls-ca", str(options.tls_ca)]
        if options.lifeline is not None:
            arguments += ["--exit-on-stdin-close"]
        errors = await asyncio.to_thread((home / "supervisor.log").open, "ab")
        try:
            child = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.DEVNULL if options.lifeline is None else options.lifeline,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        finally:
            errors.close()
        log.info("supervisor started", sandbox_id=sandbox_id, pid=child.pid)
        return ForeignProcess(child.pid)

    async def _watch(self, sandbox_id: str, process: ForeignProcess) -> None:
        """Start the supervisor again whenever it ends."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            try:
                await process.wait()
            finally:
                process.close()
            failures = 0 if loop.time() - began >= _STABLE_SECONDS else failures + 1
            log.warning("supervisor ended", sandbox_id=sandbox_id, pid=process.pid, failures=failures)
            if failures >= _MAX_FAILURES:
                await self._give_up(
                    sandbox_id, f"The supervisor ended {failures} times right after its start"
                )
                return
            await asyncio.sleep(min(_MAX_RESTART_SECONDS, _RESTART_SECONDS * 2 ** max(0, failures - 1)))
            try:
                await asyncio.to_thread(self._lay_out, sandbox_id)
                process = await self._spawn(sandbox_id)
            except OSError as error:
                await self._give_up(sandbox_id, f"The supervisor cannot be started again: {error}")
                return

    async def _give_up(self, sandbox_id: str, why: str) -> None:
        await self._on_failure(sandbox_id, f"{why}; see {self.home(sandbox_id) / 'supervisor.log'}")


async def _end(process: ForeignProcess) -> None:
    process.signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        log.warning("supervisor did not stop and is killed", pid=process.pid)
        process.signal(signal.SIGKILL)
        await process.wait()


def _remove_tree(path: Path) -> None:
    """Remove a directory, also where whoever lived in it took permissions away."""

    def make_removable(_function: object, failed: str, error: tuple[object, BaseException, object]) -> None:
        if isinstance(error[1], FileNotFoundError):
            return
        parent = Path(failed).parent
        parent.chmod(0o700)
        if Path(failed).is_dir() and not Path(failed).is_symlink():
            Path(failed).chmod(0o700)
            shutil.rmtree(failed)
        else:
            Path(failed).unlink()

    shutil.rmtree(path, onerror=make_removable)
