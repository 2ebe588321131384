"""The command `openshell-files` as a person's shell runs it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from dev_command import DevStack, command


def run_cli(stack: DevStack, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command against a stack and wait for it."""
    return subprocess.run(
        [command("openshell-files"), *arguments],
        env=stack.environment(), cwd=cwd, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def cli_result(stack: DevStack, *arguments: str, cwd: Path | None = None) -> dict[str, Any]:
    """Run a transfer with `--json` that succeeds, and return its one line."""
    run = run_cli(stack, *arguments, cwd=cwd)
    assert run.returncode == 0, run
    assert run.stderr == "", "a command that is not on a terminal is quiet"
    assert run.stdout.count("\n") == 1
    result: dict[str, Any] = json.loads(run.stdout)
    return result
