"""A transfer whose connection breaks at half: the whole call, against one that is not cut.

The SDK goes on by itself, after a pause of its own choosing. What the agent
reads again, and what its restart costs, is in `resume.py` (`make bench-resume`).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.processes import Measured, Worker, link_to
from harness.rounds import Benchmark, interleaved
from harness.stack import Stack
from harness.transfers import Transfers


@pytest.mark.quick
@pytest.mark.parametrize("direction", ["upload", "download"])
@pytest.mark.benchmark(group="resume")
def test_cut_at_half(
    benchmark: Benchmark, bare: Stack, transfers: Transfers, large: Path, rounds: int, direction: str
) -> None:
    """Both ways go over the emulated link, without delay or limit."""
    size, name = large.stat().st_size, bare.sandboxes[0].name
    transfers.up(large, "cut")
    question = {"do": direction, "sandbox": name, "remote": "cut"} | (
        {"source": str(large)} if direction == "upload" else {"target": str(bare.scratch / "cut-got")}
    )
    moved: list[int] = []

    with (
        link_to(bare.endpoint) as link,
        Worker("sdk_worker", environment=bare.through(link.endpoint)) as client,
    ):
        processes = {"client": [client.pid], **bare.pids}

        def cut() -> Measured:
            link.cut_after(size // 2)
            answers: list[dict[str, int]] = []
            measured = transfers.watched(lambda: answers.append(client.ask(**question)), processes)
            assert answers[0]["attempts"] > 1
            moved.append(answers[0]["moved"])
            return measured

        interleaved(
            benchmark,
            cut,
            lambda: transfers.watched(lambda: client.ask(**question), processes),
            rounds=rounds, size=size, against="the same, not cut",
        )  # fmt: skip
    benchmark.extra_info["moved_again_mib"] = [(one - size) / (1 << 20) for one in moved[1:]]
