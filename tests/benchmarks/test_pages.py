"""Memory is taken and let go before something is measured."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
from harness.pages import take_before
from harness.processes import BENCHMARKS

MIB = 1 << 20

_PROGRAM = """
import resource
from pathlib import Path
from harness.pages import take_before

take_before(128 << 20)
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
now = int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()
print(most, now)
"""


def test_every_page_is_touched_and_none_is_kept() -> None:
    # In a process of its own: the most that this one ever had is more.
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM], cwd=BENCHMARKS, capture_output=True, text=True, check=True
    )
    most, now = (int(number) for number in result.stdout.split())
    assert most > (128 + 32 + 256) * MIB
    assert now < 128 * MIB


def test_nothing_is_taken_where_there_is_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    def little() -> SimpleNamespace:
        return SimpleNamespace(available=512 * MIB)

    monkeypatch.setattr(psutil, "virtual_memory", little)
    take_before(1 << 50)  # would not fit anywhere
