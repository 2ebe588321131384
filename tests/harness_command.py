"""Runs programs of the harness as make does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


def run(
    *command: str, expected: int = 0, environment: Mapping[str, str] | None = None, seconds: float = 110
) -> str:
    """Run Python with arguments; return all it printed, and check how it ended."""
    path = os.pathsep.join(filter(None, [str(BENCHMARKS), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, *command],
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path} | dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout + done.stderr


def benchmarks(
    *arguments: str,
    expected: int = 0,
    environment: Mapping[str, str] | None = None,
    mib: int = 1,
    seconds: float = 110,
) -> str:
    """Run benchmarks with one round."""
    return run(
        "-m", "pytest", "-c", "benchmarks/pytest.ini", "--large-mib", str(mib), "--rounds", "1", "-q",
        *arguments, expected=expected, environment=environment, seconds=seconds,
    )  # fmt: skip
