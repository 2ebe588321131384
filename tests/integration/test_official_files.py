"""`FilesClient.from_sandbox_client` with the official SDK's own sandboxes and commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dev_command import DevStack

PROGRAM = Path(__file__).parents[1] / "official_files.py"


def test_files_beside_commands(stack: DevStack, tmp_path: Path) -> None:
    """SBX-1, EXE-1, RSM-4: an upload that was cut and resumed is what `sha256sum` sees in the sandbox, and what a
    command wrote is downloaded: one `/` for both, one connection, one identity."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), str(tmp_path)],
        env=stack.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "the same files\n"), ran.stderr
