"""What is measured: a gateway and its sandboxes, here our own processes (another's: `attached`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

#: Files in memory, so that no disk is measured.
MEMORY: Final = Path("/dev/shm")


@dataclass(frozen=True)
class Sandbox:
    """A sandbox to move files in and out of.

    Attributes:
        name: as the SDK takes it.
        id: as the RFC's messages have it.
        directory: its working directory on this machine; None if it is elsewhere.
        workdir: the same inside the sandbox.
    """

    name: str
    id: str
    directory: Path | None
    workdir: str


@dataclass(frozen=True)
class Stack:
    """A gateway, and sandboxes behind it.

    Attributes:
        endpoint: of the gateway, HOST:PORT.
        environment: by which clients find it and log in.
        sandboxes: at least one.
        pids: of its processes, by role; empty if they are not on this machine.
        scratch: a directory for the clients' files.
    """

    endpoint: str
    environment: Mapping[str, str]
    sandboxes: tuple[Sandbox, ...]
    pids: Mapping[str, list[int]]
    scratch: Path
    facts: Mapping[str, str] = field(default_factory=dict[str, str])

    def through(self, endpoint: str) -> Mapping[str, str]:
        """Return the environment of a client that comes over another address."""
        return dict(self.environment) | {"OPENSHELL_FILES_ENDPOINT": endpoint}


@contextmanager
def own_stack(
    *, sandboxes: int = 1, where: Path | None = None, environment: Mapping[str, str] | None = None
) -> Generator[Stack]:
    """Run identity provider, gateway and supervisors as `dev` does, with everything in one directory.

    Args:
        sandboxes: how many.
        where: for that directory; memory by default.
        environment: settings of the gateway that differ from the defaults.
    """
    where = where or (MEMORY if MEMORY.is_dir() else Path(tempfile.gettempdir()))
    home = Path(tempfile.mkdtemp(prefix="openshell-bench-", dir=where))
    scratch = home / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("openshell-files-gateway")), "dev", "--json",
            "--root", str(home / "stack"), "--sandboxes", str(sandboxes),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | dict(environment or {}),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the stack does not start; try: openshell-files-gateway dev ({process.wait()})"
            )
        said = json.loads(line)
        yield Stack(
            said["endpoint"],
            {
                "OPENSHELL_FILES_ENDPOINT": said["endpoint"],
                "OPENSHELL_FILES_TOKEN": said["token"],
                "OPENSHELL_FILES_WORKSPACE": said["workspace"],
            },
            tuple(
                Sandbox(
                    one["name"], one["id"], Path(one["root"]) / one["workdir"].lstrip("/"), one["workdir"]
                )
                for one in said["sandboxes"]
            ),
            {"gateway": [said["pids"]["gateway"]], "supervisor": list(said["pids"]["supervisors"])},
            scratch,
            {"files in": str(where)},
        )
    finally:
        process.terminate()
        process.communicate()
        shutil.rmtree(home, ignore_errors=True)
