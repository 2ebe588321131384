"""Whole commands, from the start of their process to its end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from harness.processes import Measured, Usage

#: Name of the process in what is measured.
COMMAND: Final = "command"

#: The least start of a client in Python that speaks gRPC.
IMPORT_GRPC: Final = (sys.executable, "-c", "import grpc")

#: Our command line, as users call it.
OPENSHELL_FILES: Final = str(Path(sys.executable).with_name("openshell-files"))


def run_command(*words: str, environment: Mapping[str, str] | None = None) -> Measured:
    """Run a command to its end, and return its time and CPU time.

    Args:
        *words: of the command.
        environment: beside this process's.

    Raises:
        RuntimeError: it failed.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        # What Python compiles in the first round, which is not measured, is kept as on a user's machine.
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""} | dict(environment or {}),
    )  # fmt: skip
    assert process.stderr is not None
    with process.stderr as pipe:
        said = pipe.read()
    # Not `wait`: the CPU time is that of this child alone.
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{words[0]} ended with status {process.returncode}: {said}")
    cpu = used.ru_utime + used.ru_stime
    # The kernel counts resident memory in KiB.
    return Measured(seconds, {COMMAND: Usage(cpu, 0, used.ru_maxrss * 1024)})
