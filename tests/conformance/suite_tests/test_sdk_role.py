"""The role of an SDK: adapters that do nothing, and the Python SDK by a few of its cases."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ADAPTERS = Path(__file__).parents[1] / "adapters"


def judged(adapter: str, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with an adapter."""
    command = shlex.join([sys.executable, str(ADAPTERS / adapter)])
    run = [sys.executable, "-m", "openshell_files_conformance.cli", "run", "--target", "sdk"]
    return subprocess.run(
        [*run, "--command", command, "--out", str(out), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("adapter", "why"), [("null.py", "honesty probe"), ("refuses.py", "to hello")], ids=["null", "refuses"]
)
def test_an_adapter_that_does_nothing_is_not_believed(adapter: str, why: str, tmp_path: Path) -> None:
    run = judged(adapter, tmp_path)
    assert run.returncode == 3, run.stdout + run.stderr
    assert why in run.stdout + run.stderr


def test_clauses_for_callers(tmp_path: Path) -> None:
    """RFC-9, ERR-1 to ERR-8, UPL-61, UPL-62, DWN-18 and DWN-19: the Python SDK keeps to them."""
    clauses = ["RFC-9", *(f"ERR-{number}" for number in range(1, 9)), "UPL-61", "UPL-62", "DWN-18", "DWN-19"]
    selection = [word for clause in clauses for word in ("--select", clause)]
    run = judged("python_sdk.py", tmp_path, *selection)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "success" in run.stdout
