"""The buffers of chunks stay with a client's process, unless the program configured the allocator."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

MIB = 1 << 20

#: Takes and frees eight chunks at a time, as a transfer does, and counts the page faults of all but the first turn.
_PROGRAM = """
import resource, sys
from openshell_files import FilesClient

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "client":
    FilesClient("127.0.0.1:1").close()
for turn in range(51):
    blocks = [bytes([number]) * (1 << 20) for number in range(8)]
    del blocks
    if turn == 0:
        before = faults()
print(faults() - before)
"""


def _faults_per_mib(who: str, **environment: str) -> float:
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM, who],
        env={name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        | environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(result.stdout) / (50 * 8)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc gives the top of its heap back so early"
)
def test_chunks_do_not_cost_page_faults() -> None:
    assert _faults_per_mib("client") < 1
    # Without it one for each page; fewer where the kernel has huge pages at hand.
    assert _faults_per_mib("nobody") > 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_who_set_the_allocator_keeps_the_setting() -> None:
    assert _faults_per_mib("client", MALLOC_TRIM_THRESHOLD_=str(128 * 1024)) > 10
