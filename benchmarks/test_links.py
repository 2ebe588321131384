"""Far away: one file over links of any length and width, the whole call with its connection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from harness.page import people_bytes
from harness.processes import Measured, Worker, link_to
from harness.rounds import Benchmark, Reach, Spread, alone, place
from harness.stack import Stack
from harness.transfers import Transfers, random_file

MIB = 1 << 20

#: Of a wire without a limit one round takes seconds at most; at 100 Mbit/s the file is as small.
SIZES = {0: 256 * MIB, 100: 16 * MIB, 1000: 256 * MIB}

DIRECTIONS = pytest.mark.parametrize("direction", ["upload", "download"])


def measure(
    benchmark: Benchmark,
    bare: Stack,
    transfers: Transfers,
    source: Path,
    direction: str,
    round_trip_ms: float,
    mbit: int,
    rounds: int,
) -> tuple[Measured, ...]:
    """Move a file over a link, each time with a client that has to connect first."""
    transfers.up(source, "far")

    with link_to(bare.endpoint, round_trip_ms=round_trip_ms, mbit=mbit) as link:
        far = replace(bare, endpoint=link.endpoint, environment=bare.through(link.endpoint))

        def once() -> Measured:
            with Worker("sdk_worker", environment=far.environment) as client:
                remote = Transfers(far, client, transfers.watched)
                return remote.up(source, "far") if direction == "upload" else remote.down("far", "far-got")

        measured = alone(benchmark, once, rounds=rounds, size=source.stat().st_size, warm=False)
    share = [source.stat().st_size * 8 / one.seconds / (mbit * 1e6) * 100 for one in measured if mbit]
    benchmark.extra_info["share"] = share
    width = f"{mbit} Mbit/s" if mbit else "no limit"
    place(
        benchmark,
        f"round-trip time, {direction}",
        f"{width}, {people_bytes(source.stat().st_size)}",
        round_trip_ms,
    )
    return measured


@pytest.mark.parametrize("mbit", [100, 1000, 0])
@pytest.mark.parametrize("round_trip_ms", [0, 1, 10, 50, 100])
@DIRECTIONS
@pytest.mark.benchmark(group="links")
def test_link(
    benchmark: Benchmark,
    bare: Stack,
    transfers: Transfers,
    large: Path,
    rounds: int,
    direction: str,
    round_trip_ms: int,
    mbit: int,
) -> None:
    size = min(SIZES[mbit], large.stat().st_size)
    source = random_file(transfers.stack.scratch / f"far-{size}", size)
    measure(benchmark, bare, transfers, source, direction, round_trip_ms, mbit, min(rounds, 3))


@pytest.mark.target
@DIRECTIONS
@pytest.mark.benchmark(group="links")
def test_share_of_a_long_fat_link(
    benchmark: Benchmark, bare: Stack, transfers: Transfers, rounds: int, reach: Reach, direction: str
) -> None:
    """256 MiB over 100 ms and 1 Gbit/s, which holds 12.5 MB at a time."""
    source = random_file(transfers.stack.scratch / f"far-{256 * MIB}", 256 * MIB)
    measured = measure(benchmark, bare, transfers, source, direction, 100, 1000, rounds)
    share = Spread.of([256 * MIB * 8 / one.seconds / 1e9 * 100 for one in measured])
    reach("link-up" if direction == "upload" else "link-down", share)
