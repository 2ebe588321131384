"""A process driver whose supervisors are small programs of the test."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from conditions import until
from openshell_files_gateway.simulation.processes.process_driver import (
    ProcessDriver,
    ProcessOptions,
)

#: Says on which terms it was started, and then does as its options say.
SUPERVISOR = """
import json, os, signal, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
token = options["--token-file"]
home = os.path.dirname(token)
mode = options.get("--mode", "")
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
said = {
    "pid": os.getpid(),
    "arguments": sys.argv[1:],
    "environment": dict(os.environ),
    "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd")),
    "stdin": os.readlink("/proc/self/fd/0"),
    "session": os.getsid(0),
    "token": open(token).read(),
}
print("said something", file=sys.stderr, flush=True)
with open(os.path.join(home, "starts"), "a") as file:
    file.write(json.dumps(said) + "\\n")
if mode == "dies" and not os.path.exists(os.path.join(home, "root", "mended")):
    sys.exit(3)
while True:
    signal.pause()
"""


ID = "5f1c9a52-5d0c-4b57-9f38-0c5f6e1f2a3b"


class Tokens:
    def __init__(self) -> None:
        self.minted = 0

    def mint(self, sandbox_id: str) -> tuple[str, int | None]:
        self.minted += 1
        return f"token {self.minted} of {sandbox_id}", None


@dataclass
class Scene:
    directory: Path
    script: Path
    failures: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    drivers: list[ProcessDriver] = field(default_factory=list[ProcessDriver])

    def driver(self, *arguments: str, endpoint: str = "127.0.0.1:1", **options: Any) -> ProcessDriver:
        given: dict[str, Any] = {"directory": self.directory, "restart_seconds": 0.001, "stop_seconds": 30.0}
        made = ProcessDriver(
            ProcessOptions(
                command=[sys.executable, "-I", str(self.script)], arguments=arguments, **(given | options)
            ),
            Tokens(),
            lambda sandbox_id, why: self.failures.append((sandbox_id, why)),
        )
        made.listen_at(endpoint)
        self.drivers.append(made)
        return made

    @property
    def home(self) -> Path:
        return self.directory / ID

    def starts(self) -> list[dict[str, Any]]:
        """Return what the supervisors of the sandbox said, in order."""
        file = self.home / "starts"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    async def started(self, count: int = 1) -> dict[str, Any]:
        await until(lambda: len(self.starts()) >= count, f"{count} supervisors have started")
        assert len(self.starts()) == count
        return self.starts()[-1]


def ended(pid: int) -> bool:
    """Whether a process is gone, and nobody has to bury it either."""
    return not psutil.pid_exists(pid)


@asynccontextmanager
async def drivers_in(directory: Path) -> AsyncGenerator[Scene]:
    """Have a place for drivers; afterwards no process of theirs runs."""
    script = directory / "supervisor.py"
    script.write_text(SUPERVISOR)
    made = Scene(directory / "compute", script)
    yield made
    for driver in made.drivers:
        await driver.aclose(stop=False)
    for process in psutil.process_iter(["cmdline"]):
        if str(script) in (process.info["cmdline"] or ()):
            process.kill()
