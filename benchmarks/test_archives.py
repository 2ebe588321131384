"""A tree of source files as one archive: plain, or packed by gzip or zstd on its way.

Archives are made by the caller and stay archives in the sandbox; unpacking there
is not measured. The tree is Python's own library, source code as anybody has it.
"""

from __future__ import annotations

import shutil
import sysconfig

import pytest
from harness.processes import Measured, Worker, link_to
from harness.rounds import Benchmark, interleaved
from harness.stack import Stack
from harness.transfers import Transfers

MIB = 1 << 20
TREE = sysconfig.get_path("stdlib")


@pytest.mark.parametrize("packer", ["gzip", "zstd"])
@pytest.mark.parametrize("mbit", [0, 1000, 100], ids=["loopback", "1 Gbit/s", "100 Mbit/s"])
@pytest.mark.benchmark(group="archives")
def test_packed_against_plain_tar(
    benchmark: Benchmark, bare: Stack, transfers: Transfers, rounds: int, mbit: int, packer: str
) -> None:
    """Over a link of 10 ms, or none; the time includes reading the tree and packing it."""
    for program in ("tar", packer):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt install {program}")
    sizes: dict[str, int] = {}

    with (
        link_to(bare.endpoint, round_trip_ms=10 if mbit else 0, mbit=mbit) as link,
        Worker("sdk_worker", environment=bare.through(link.endpoint)) as client,
    ):

        def sent(how: str) -> Measured:
            def work() -> None:
                answer = client.ask(
                    do="upload_tree", sandbox=bare.sandboxes[0].name, tree=TREE, remote="tree", packer=how
                )
                sizes[how] = answer["size"]

            return transfers.watched(work, {"client": [client.pid], **bare.pids})

        sent("none")
        interleaved(
            benchmark,
            lambda: sent(packer),
            lambda: sent("none"),
            rounds=rounds, size=sizes["none"], against="plain tar",
        )  # fmt: skip
    benchmark.extra_info["archive_mib"] = {name: round(size / MIB, 2) for name, size in sizes.items()}
