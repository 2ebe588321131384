"""Small files: what one call takes, and thousands of them one by one."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack

import pytest
from harness.page import people_bytes
from harness.processes import Worker
from harness.rounds import Benchmark, Reach, Spread, Watched, alone, latencies, latencies_alone
from harness.transfers import Transfers

CALLS = 100


@pytest.fixture(scope="module")
def two_hops() -> Generator[Worker]:
    """A client of a unary call that a process in the middle passes on."""
    with ExitStack() as running:
        server = running.enter_context(Worker("one_hop", "server"))
        relay = running.enter_context(Worker("one_hop", "relay", f"127.0.0.1:{server.ready['port']}"))
        yield running.enter_context(Worker("one_hop", "client", f"127.0.0.1:{relay.ready['port']}"))


def calls(transfers: Transfers, **question: object) -> list[float]:
    answer = transfers.client.ask(sandbox=transfers.stack.sandboxes[0].name, count=CALLS, **question)
    return list(answer["each"])


@pytest.mark.quick
@pytest.mark.target
@pytest.mark.benchmark(group="small files")
def test_write_against_a_unary_call(
    benchmark: Benchmark, transfers: Transfers, two_hops: Worker, rounds: int, reach: Reach
) -> None:
    ratio = latencies(
        benchmark,
        lambda: calls(transfers, do="write_many", remote="small", size=1024),
        lambda: list(two_hops.ask(do="calls", size=1024, count=CALLS)["each"]),
        rounds=rounds,
        names=("write_bytes, 1 KiB", "unary call, two hops"),
    )
    times_as_long = Spread(1 / ratio.median, 1 / ratio.most, 1 / ratio.least, ratio.count)
    reach("small-unary", times_as_long)


@pytest.mark.parametrize("durable", ["rename", "fsync"])
@pytest.mark.benchmark(group="small files")
def test_write(benchmark: Benchmark, transfers: Transfers, rounds: int, durable: str) -> None:
    latencies_alone(
        benchmark,
        lambda: calls(transfers, do="write_many", remote="small", size=1024, durable=durable),
        rounds=rounds,
        name=f"write_bytes, 1 KiB, {durable}",
    )


@pytest.mark.quick
@pytest.mark.benchmark(group="small files")
def test_read(benchmark: Benchmark, transfers: Transfers, rounds: int) -> None:
    calls(transfers, do="write_many", remote="read", size=1024)
    latencies_alone(
        benchmark,
        lambda: calls(transfers, do="read_many", remote="read-0"),
        rounds=rounds,
        name="read_bytes, 1 KiB",
    )


@pytest.mark.quick
@pytest.mark.parametrize("size", [1024, 1 << 20, 64 << 20], ids=["1 KiB", "1 MiB", "64 MiB"])
@pytest.mark.benchmark(group="small files")
def test_first_byte(benchmark: Benchmark, transfers: Transfers, rounds: int, size: int) -> None:
    """The time until the first bytes of a download are there does not depend on the file's size."""
    transfers.up(transfers.here(f"first-{size}", size), f"first-{size}")
    latencies_alone(
        benchmark,
        lambda: calls(transfers, do="first_byte", remote=f"first-{size}"),
        rounds=rounds,
        name=f"first byte of {people_bytes(size)}",
    )


@pytest.mark.parametrize("count", [100, 1000, 2000])
@pytest.mark.benchmark(group="thousands of files")
def test_one_by_one(benchmark: Benchmark, transfers: Transfers, watched: Watched, count: int) -> None:
    """As many files as a small project has, one call each."""
    name = transfers.stack.sandboxes[0].name
    alone(
        benchmark,
        lambda: watched(
            lambda: transfers.client.ask(
                do="write_many", sandbox=name, remote="many", size=4096, count=count
            ),
            transfers.processes,
        ),
        rounds=1, size=4096 * count, warm=False,
    )  # fmt: skip
    benchmark.extra_info["files_per_second"] = count / benchmark.extra_info["ours_seconds"][0]
