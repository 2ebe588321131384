"""A supervisor of a test's own, with the connection and the faults that it wants."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from conditions import until
from openshell_files_gateway.dev.process import Child
from openshell_files_gateway.dev.stack import DevelopmentStack, StackSandbox
from openshell_files_gateway.installed import command


@dataclass(frozen=True)
class OwnSupervisor:
    """A supervisor that runs."""

    child: Child
    log: Path

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.child.pid, number)

    async def wait_for_pause(self) -> None:
        """Wait until a transfer stands still at the point of a fault."""
        await until(lambda: b"fault: pause at " in self.log.read_bytes(), "the transfer stands still")

    def release(self) -> None:
        """Let what stands still go on."""
        self.signal(signal.SIGUSR1)


@asynccontextmanager
async def own_supervisor(
    stack: DevelopmentStack,
    sandbox: StackSandbox,
    *,
    name: str,
    endpoint: str | None = None,
    faults: Sequence[str] = (),
) -> AsyncGenerator[OwnSupervisor, None]:
    """Run a sandbox's supervisor; the stack's own must have been stopped.

    Args:
        stack: whose gateway it connects to.
        sandbox: whose files it serves.
        name: of its log.
        endpoint: where to connect; None is the gateway.
        faults: `--fault` options of the first start; one that is started
            again has none.
    """
    home = stack.root / "sandboxes" / sandbox.name
    arguments = [
        command("openshell-supervisor-sim"), "run", "--json", "--exit-on-stdin-close", "--log-format", "json",
        "--endpoint", endpoint or stack.endpoint, "--sandbox-id", sandbox.id, "--token-file", str(home / "token"),
        "--root", sandbox.root, "--workdir", sandbox.workdir, "--state-dir", str(home / "state"),
        "--max-backoff", "0.2",
    ]  # fmt: skip
    once = [option for fault in faults for option in ("--fault", fault)]

    def next_arguments() -> list[str]:
        first, once[:] = once[:], []
        return [*arguments, *first]

    log = stack.root / f"{name}.log"
    child = Child(name, next_arguments, log_file=log, restart=True)
    await child.start(ready_line=True)
    try:
        yield OwnSupervisor(child, log)
    finally:
        await child.stop()
