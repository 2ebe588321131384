"""Today's integrations: the official SDK's `exec`, through the same gateway, beside ours.

At most 64 MiB: `base64` of a whole file is one string in the client, and the
ratio does not depend on the size; ours moves the same file in each pair.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from harness.processes import Measured, Worker
from harness.rounds import Benchmark, Reach, interleaved, latencies
from harness.transfers import Transfers

#: Calls in a round of latencies; one of exec's takes a process in the sandbox.
CALLS = 20

#: For a Python interpreter in the sandbox for every half MiB.
PYTHON_BYTES = 8 << 20


class Exec:
    """The official SDK in a client process."""

    def __init__(self, transfers: Transfers, worker: Worker) -> None:
        self._transfers = transfers
        self._worker = worker
        self.sandbox = transfers.stack.sandboxes[0]

    def remote(self, name: str) -> str:
        """Return a path as commands in the sandbox see it."""
        return f"{self.sandbox.workdir}/{name}"

    def run(self, **question: object) -> Measured:
        """Ask, with every process watched."""
        processes = {"client": [self._worker.pid], **self._transfers.stack.pids}
        return self._transfers.watched(
            lambda: self._worker.ask(sandbox=self.sandbox.name, **question), processes
        )

    def ask(self, **question: object) -> dict[str, Any]:
        """Ask."""
        return self._worker.ask(sandbox=self.sandbox.name, **question)


@pytest.fixture(scope="module")
def today(transfers: Transfers) -> Generator[Exec]:
    with Worker("exec_worker", environment=transfers.stack.environment) as worker:
        yield Exec(transfers, worker)


@pytest.mark.parametrize("how", [pytest.param("slices", marks=pytest.mark.target), "python"])
@pytest.mark.benchmark(group="against exec")
def test_upload(
    benchmark: Benchmark, transfers: Transfers, today: Exec, medium: Path, rounds: int, reach: Reach, how: str
) -> None:
    if how == "python":
        medium = transfers.here("little", min(PYTHON_BYTES, medium.stat().st_size))
    size = medium.stat().st_size
    pairs = interleaved(
        benchmark,
        lambda: transfers.up(medium, "medium"),
        lambda: today.run(do=f"upload_{how}", source=str(medium), remote=today.remote(f"exec-{how}")),
        rounds=rounds,
        size=size,
        against={"slices": "exec, 512 KiB slices", "python": "exec, python3 and base64"}[how],
    )
    transfers.client.ask(
        do="download", sandbox=today.sandbox.name, remote=f"exec-{how}", target=str(medium) + ".back"
    )
    assert Path(str(medium) + ".back").read_bytes() == medium.read_bytes()
    if how == "slices":
        reach("exec-up", pairs.speed_ratio)


@pytest.mark.parametrize("how", [pytest.param("base64", marks=pytest.mark.target), "python"])
@pytest.mark.benchmark(group="against exec")
def test_download(
    benchmark: Benchmark, transfers: Transfers, today: Exec, medium: Path, rounds: int, reach: Reach, how: str
) -> None:
    if how == "python":
        medium = transfers.here("little", min(PYTHON_BYTES, medium.stat().st_size))
    size, target = medium.stat().st_size, transfers.stack.scratch / "exec-got"
    transfers.up(medium, "medium")
    more = {"size": size} if how == "python" else {}
    pairs = interleaved(
        benchmark,
        lambda: transfers.down("medium", "medium-got"),
        lambda: today.run(do=f"download_{how}", remote=today.remote("medium"), target=str(target), **more),
        rounds=rounds,
        size=size,
        against={"base64": "exec, base64", "python": "exec, python3 and base64"}[how],
    )
    assert target.read_bytes() == medium.read_bytes()
    if how == "base64":
        reach("exec-down", pairs.speed_ratio)


@pytest.mark.quick
@pytest.mark.target
@pytest.mark.benchmark(group="small files")
def test_write_of_1_kib(
    benchmark: Benchmark, transfers: Transfers, today: Exec, rounds: int, reach: Reach
) -> None:
    def ours() -> list[float]:
        answer = transfers.client.ask(
            do="write_many", sandbox=today.sandbox.name, remote="small", size=1024, count=CALLS
        )
        return list(answer["each"])

    def theirs() -> list[float]:
        return list(
            today.ask(do="write_many", remote=today.remote("exec-small"), size=1024, count=CALLS)["each"]
        )

    ratio = latencies(benchmark, ours, theirs, rounds=rounds, names=("write_bytes, 1 KiB", "exec, 1 KiB"))
    reach("small-exec", ratio)
