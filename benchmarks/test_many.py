"""Many transfers at once: the total, who gets how much of it, and the memory they need."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.processes import Measured, Watch, Worker, link_to
from harness.rounds import Benchmark, Reach, Spread, interleaved, place
from harness.stack import Stack, own_stack
from harness.transfers import Transfers, random_file

MIB = 1 << 20

#: Transfers at a time in the memory scenarios.
MANY = 32


def jain(rates: list[float]) -> float:
    """Return Jain's fairness index: 1 if all have the same, 1/n if one has everything."""
    return sum(rates) ** 2 / (len(rates) * sum(rate**2 for rate in rates))


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16, 32, pytest.param(64, marks=pytest.mark.target)])
@pytest.mark.parametrize("direction", ["upload", "download"])
@pytest.mark.benchmark(group="many at once")
def test_many_against_one(
    benchmark: Benchmark, transfers: Transfers, large: Path, rounds: int, reach: Reach, direction: str, count: int
) -> None:  # fmt: skip
    """As many bytes in `count` files at once as in one; over all sandboxes."""
    size = large.stat().st_size // count
    part = random_file(transfers.stack.scratch / f"part-{size}", size)
    names = [sandbox.name for sandbox in transfers.stack.sandboxes]
    fairness: list[float] = []

    def many(way: str) -> Measured:
        def ask() -> None:
            answer = transfers.client.ask(
                do="many_at_once",
                sandboxes=names,
                source=str(part),
                remote="part",
                count=count,
                direction=way,
            )
            fairness.append(jain([size / ended for ended in answer["ends"]]))

        return transfers.watched(ask, transfers.processes)

    transfers.up(large)
    many("upload")
    fairness.clear()
    pairs = interleaved(
        benchmark,
        lambda: many(direction),
        lambda: transfers.up(large) if direction == "upload" else transfers.down(),
        rounds=rounds, size=size * count, against="one transfer of as many bytes",
    )  # fmt: skip
    place(benchmark, "transfers at once", direction, count)
    spread = Spread.of(fairness[1:])
    benchmark.extra_info["jain"] = spread.median
    for got in transfers.stack.scratch.glob("part-*.got-*"):
        got.unlink()
    if count == 64:
        reach("many-total", pairs.speed_ratio)
        reach("many-fair", spread)


@dataclass(frozen=True)
class Peers:
    """A gateway that did nothing before, and whoever uses it."""

    stack: Stack
    source: Path

    @property
    def sandbox(self) -> str:
        return self.stack.sandboxes[0].name

    def ours(self, direction: str, endpoint: str = "") -> None:
        """Run transfers as fast as they go; over a link that never gets done, for as long as they last."""
        environment = self.stack.through(endpoint or self.stack.endpoint)
        with Worker("sdk_worker", environment=environment) as client:
            if direction == "download":
                self.prepare()
            client.ask(
                do="many_at_once", sandboxes=[self.sandbox], source=str(self.source), remote="many",
                count=MANY, direction=direction,
            )  # fmt: skip

    def prepare(self) -> None:
        """Put the files there without the gateway."""
        directory = self.stack.sandboxes[0].directory
        assert directory is not None
        for number in range(MANY):
            with suppress(FileExistsError):
                os.link(self.source, directory / f"many-{number}")

    def slow(self, direction: str, endpoint: str = "") -> None:
        """Run peers that are slow themselves, or behind a slow link, for some seconds."""
        self.prepare()
        environment = self.stack.through(endpoint or self.stack.endpoint)
        with Worker("slow_worker", environment=environment) as client:
            remote = "many-0" if direction == "download" else "slow"
            client.ask(do=direction, sandbox=self.sandbox, remote=remote, count=MANY, seconds=6)


def over_a_link(peers: Peers, direction: str) -> None:
    """Receive, or send, as fast as 1 Mbit/s goes, each over a connection of its own."""
    with link_to(peers.stack.endpoint, round_trip_ms=20, mbit=1) as link:
        peers.slow(direction, link.endpoint)


@contextmanager
def stopped(pids: list[int]) -> Generator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def slow_sandbox(peers: Peers) -> None:
    """Upload as fast as one can to a sandbox that does not take anything for some seconds."""
    uploads = threading.Thread(target=peers.ours, args=("upload",))
    uploads.start()
    directory = peers.stack.sandboxes[0].directory
    assert directory is not None
    while not any(directory.iterdir()) and uploads.is_alive():
        time.sleep(0.01)
    with stopped(peers.stack.pids["supervisor"]):
        time.sleep(4)
    uploads.join()


SCENARIOS: dict[str, Callable[[Peers], None]] = {
    "fast uploads": lambda peers: peers.ours("upload"),
    "fast downloads": lambda peers: peers.ours("download"),
    "slow readers": lambda peers: peers.slow("download"),
    "slow sources": lambda peers: peers.slow("upload"),
    "readers behind 1 Mbit/s": lambda peers: over_a_link(peers, "download"),
    "sources behind 1 Mbit/s": lambda peers: over_a_link(peers, "upload"),
    "sandbox that stalls": slow_sandbox,
}


@pytest.mark.target
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.benchmark(group="memory")
def test_memory(
    benchmark: Benchmark, own: Stack, large: Path, rounds: int, reach: Reach, scenario: str
) -> None:
    """Each round has a stack of its own: what an earlier transfer left behind would hide what one needs."""
    assert own.pids
    size = min(64 * MIB, large.stat().st_size)
    gateway: list[float] = []
    supervisor: list[float] = []
    last: list[Measured] = []

    def once() -> None:
        with own_stack() as stack:
            peers = Peers(stack, random_file(stack.scratch / "source", size))
            with Worker("sdk_worker", environment=stack.environment) as client:
                # What the first transfer ever loads is not a transfer's memory.
                client.ask(do="write_many", sandbox=peers.sandbox, remote="first", size=1, count=1)
            with Watch(stack.pids) as watch:
                SCENARIOS[scenario](peers)
            measured = watch.result()
            gateway.append(measured.usage["gateway"].above_idle / MANY / MIB)
            supervisor.append(measured.usage["supervisor"].above_idle / MANY / MIB)
            last[:] = [measured]

    benchmark.pedantic(once, rounds=rounds, iterations=1)
    benchmark.extra_info |= {
        "memory": {name: usage.samples for name, usage in last[0].usage.items()},
        "mib_per_transfer": {"gateway": gateway, "supervisor": supervisor},
    }
    reach("memory-gateway", Spread.of(gateway))
    reach("memory-supervisor", Spread.of(supervisor))
