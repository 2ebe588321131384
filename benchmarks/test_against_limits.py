"""What could be had at best: bare TCP through three processes, gRPC without files, a copy on the same file system."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.processes import Measured, Worker
from harness.rounds import Benchmark, Reach, Watched, interleaved
from harness.transfers import Transfers
from openshell_files_protocol.limits import MAX_CHUNK_BYTES


@dataclass(frozen=True)
class TcpRelay:
    """Client, relay and agent over bare TCP."""

    client: Worker
    relay: Worker
    agent: Worker

    def run(self, watched: Watched, **question: str) -> Measured:
        pids = {"client": [self.client.pid], "relay": [self.relay.pid], "agent": [self.agent.pid]}
        return watched(lambda: self.client.ask(**question), pids)


@pytest.fixture(scope="module")
def tcp() -> Generator[TcpRelay]:
    with ExitStack() as running:
        relay = running.enter_context(Worker("tcp_relay", "relay"))
        agent = running.enter_context(Worker("tcp_relay", "agent"))
        ports = str(relay.ready["port"]), str(agent.ready["port"])
        yield TcpRelay(running.enter_context(Worker("tcp_relay", "client", *ports)), relay, agent)


@pytest.mark.quick
@pytest.mark.target
@pytest.mark.benchmark(group="limits")
def test_upload_against_bare_tcp(
    benchmark: Benchmark, own_transfers: Transfers, tcp: TcpRelay, large: Path, rounds: int, reach: Reach
) -> None:
    there = own_transfers.stack.scratch / "tcp-up"
    pairs = interleaved(
        benchmark,
        lambda: own_transfers.up(large),
        lambda: tcp.run(own_transfers.watched, do="upload", source=str(large), remote=str(there)),
        rounds=rounds, size=large.stat().st_size, against="bare TCP relay",
    )  # fmt: skip
    assert there.stat().st_size == large.stat().st_size
    there.unlink()
    reach("tcp-up", pairs.speed_ratio)


@pytest.mark.quick
@pytest.mark.target
@pytest.mark.benchmark(group="limits")
def test_download_against_bare_tcp(
    benchmark: Benchmark, own_transfers: Transfers, tcp: TcpRelay, large: Path, rounds: int, reach: Reach
) -> None:
    own_transfers.up(large)
    here = own_transfers.stack.scratch / "tcp-down"
    pairs = interleaved(
        benchmark,
        own_transfers.down,
        lambda: tcp.run(own_transfers.watched, do="download", remote=str(large), target=str(here)),
        rounds=rounds, size=large.stat().st_size, against="bare TCP relay",
    )  # fmt: skip
    assert here.stat().st_size == large.stat().st_size
    here.unlink()
    reach("tcp-down", pairs.speed_ratio)


@pytest.mark.quick
@pytest.mark.target
@pytest.mark.parametrize("direction", ["upload", "download"])
@pytest.mark.benchmark(group="limits")
def test_gateway_cpu_against_one_hop(
    benchmark: Benchmark, own_transfers: Transfers, large: Path, rounds: int, reach: Reach, direction: str
) -> None:
    """The gateway receives and sends each byte; so do the two ends of one hop, together."""
    own_transfers.up(large)
    size = large.stat().st_size
    ours: Callable[[], Measured] = (
        own_transfers.down if direction == "download" else lambda: own_transfers.up(large)
    )
    with ExitStack() as running:
        server = running.enter_context(Worker("one_hop", "server"))
        client = running.enter_context(Worker("one_hop", "client", f"127.0.0.1:{server.ready['port']}"))
        pairs = interleaved(
            benchmark,
            ours,
            lambda: own_transfers.watched(
                lambda: client.ask(do="stream", size=size, chunk=MAX_CHUNK_BYTES),
                {"client": [client.pid], "server": [server.pid]},
            ),
            rounds=rounds, size=size, against="gRPC over one hop, no files",
        )  # fmt: skip
    ratio = pairs.cpu_ratio(["gateway"], ["client", "server"])
    benchmark.extra_info["cpu_ratio"] = ratio.median
    reach("gateway-cpu" if direction == "upload" else "gateway-cpu-down", ratio)


@pytest.mark.benchmark(group="limits")
def test_gateway_cpu_against_a_bare_relay(
    benchmark: Benchmark, own_transfers: Transfers, large: Path, rounds: int
) -> None:
    """What a process in the middle costs that passes messages on, and does nothing else."""
    size = large.stat().st_size
    with ExitStack() as running:
        server = running.enter_context(Worker("one_hop", "server"))
        relay = running.enter_context(Worker("one_hop", "relay", f"127.0.0.1:{server.ready['port']}"))
        client = running.enter_context(Worker("one_hop", "client", f"127.0.0.1:{relay.ready['port']}"))
        pairs = interleaved(
            benchmark,
            lambda: own_transfers.up(large),
            lambda: own_transfers.watched(
                lambda: client.ask(do="stream", size=size, chunk=MAX_CHUNK_BYTES),
                {"client": [client.pid], "relay": [relay.pid], "server": [server.pid]},
            ),
            rounds=rounds, size=size, against="gRPC over two hops, no files",
        )  # fmt: skip
    benchmark.extra_info["cpu_ratio"] = pairs.cpu_ratio(["gateway"], ["relay"]).median


@pytest.mark.benchmark(group="limits")
def test_upload_against_copy(
    benchmark: Benchmark, own_transfers: Transfers, large: Path, rounds: int
) -> None:
    there = own_transfers.stack.scratch / "copied"
    interleaved(
        benchmark,
        lambda: own_transfers.up(large),
        lambda: own_transfers.watched(lambda: shutil.copyfile(large, there), {}),
        rounds=rounds, size=large.stat().st_size, against="cp on the same file system",
    )  # fmt: skip
    there.unlink()
