"""Tests that send signals hold however the whole run was started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: A test that starts a process and sends it a signal.
SENDER = """
import signal, subprocess, sys

def test_a_process_gets_its_signal():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        program = f"import os; os.kill(os.getpid(), {int(number)})"
        assert subprocess.run([sys.executable, "-c", program], stderr=subprocess.DEVNULL).returncode == -number
"""


@pytest.mark.parametrize(
    "ignored",
    [*(pytest.param(one, marks=pytest.mark.long) for one in ("INT", "TERM")), "HUP", "INT TERM HUP"],
)
def test_a_run_whose_parent_ignores_signals(tmp_path: Path, ignored: str) -> None:
    """As a job in the background or under nohup is started."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text("utf-8"))
    (tmp_path / "test_sender.py").write_text(SENDER)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    ended = subprocess.run(
        ["/bin/sh", "-c", f"trap '' {ignored}; exec \"$@\"", "sh", *command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
