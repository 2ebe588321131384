"""The official SDK, unmodified, against our gateway (issue: likeness to the real system)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from dev_command import DevStack, command

PROGRAM = Path(__file__).parents[1] / "official_client.py"


@pytest.fixture(scope="module")
def official_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An environment with the official wheel, of the version that the lock file has, and nothing of ours."""
    environment = tmp_path_factory.mktemp("official") / "environment"
    wheel = f"openshell=={metadata.version('openshell')}"
    uv = command("uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(environment)], check=True)
    python = str(environment / "bin" / "python")
    install = [uv, "pip", "install", "--quiet", "--python", python, wheel]
    # What `make setup` downloaded is enough, unless the cache was emptied since.
    if subprocess.run([*install, "--offline"], check=False, capture_output=True).returncode != 0:
        subprocess.run(install, check=True)
    listed = subprocess.run(
        [uv, "pip", "list", "--quiet", "--python", python], check=True, capture_output=True, text=True
    ).stdout
    assert "openshell " in listed
    assert "openshell-" not in listed
    return python


def test_an_unmodified_user(stack: DevStack, official_python: str, tmp_path: Path) -> None:
    """SBX-1, SBX-3, SBX-4, EXE-1, EXE-2: health, create, get, list, wait_ready, exec, exec_stream, exec_python, stop, start,
    delete and `with Sandbox(...)`, each as that SDK documents it."""
    ran = subprocess.run(
        [official_python, "-I", str(PROGRAM), str(tmp_path / "config")],
        env=stack.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "all as documented\n"), ran.stderr
    shutil.rmtree(tmp_path / "config")
