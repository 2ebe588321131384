"""`openshell-files-gateway dev --json` as a script uses it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

#: A busy machine needs a while for ten processes.
STOP_SECONDS = 60


def command(name: str) -> str:
    """Return the path of an installed command."""
    return str(Path(sys.executable).with_name(name))


@dataclass(frozen=True)
class DevSandbox:
    """A sandbox of the description."""

    id: str
    name: str
    root: Path
    workdir: str

    @property
    def directory(self) -> Path:
        """The working directory on this machine."""
        return self.root / self.workdir.lstrip("/")


@dataclass
class DevStack:
    """A stack that runs, and the line it printed."""

    process: subprocess.Popen[str]
    line: dict[str, Any]

    @property
    def endpoint(self) -> str:
        return str(self.line["endpoint"])

    @property
    def token(self) -> str:
        return str(self.line["token"])

    @property
    def sandboxes(self) -> list[DevSandbox]:
        return [
            DevSandbox(str(one["id"]), str(one["name"]), Path(str(one["root"])), str(one["workdir"]))
            for one in self.line["sandboxes"]
        ]

    @property
    def gateway_pid(self) -> int:
        return int(self.line["pids"]["gateway"])

    @property
    def supervisor_pids(self) -> list[int]:
        return [int(pid) for pid in self.line["pids"]["supervisors"]]

    def environment(self) -> dict[str, str]:
        """Return what the CLI needs."""
        return os.environ | {
            "OPENSHELL_FILES_ENDPOINT": self.endpoint,
            "OPENSHELL_FILES_TOKEN": self.token,
            "OPENSHELL_FILES_WORKSPACE": str(self.line["workspace"]),
        }

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it and return the exit status; nothing more may be printed."""
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=STOP_SECONDS)
        assert rest == "", "the stack printed more than one line"
        return self.process.returncode


@contextmanager
def dev_stack(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> Generator[DevStack, None, None]:
    """Run the command; stops it if the test did not, whatever happens."""
    process = subprocess.Popen(
        [command("openshell-files-gateway"), "dev", "--json", *arguments],
        stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            process.communicate(timeout=STOP_SECONDS)
        assert line, f"the stack ended with status {process.returncode} before it was ready"
        yield DevStack(process, json.loads(line))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def is_exec_host(process: psutil.Process) -> bool:
    """Return whether a process is what a supervisor starts commands with."""
    return "openshell_supervisor_sim.commands.host" in " ".join(process.cmdline())


def descendants(pid: int) -> list[psutil.Process]:
    """Return all processes below one."""
    return psutil.Process(pid).children(recursive=True)
