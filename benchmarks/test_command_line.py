"""The command line: what its start takes, against the least that a client of gRPC in Python takes."""

from __future__ import annotations

import pytest
from harness.commands import COMMAND, IMPORT_GRPC, OPENSHELL_FILES, run_command
from harness.rounds import Benchmark, Reach, Work, interleaved
from harness.transfers import Transfers

#: Pairs of each round: a start is short, and so is what disturbs it.
PAIRS = 5


def against_grpc(benchmark: Benchmark, ours: Work, reach: Reach, figure: str, rounds: int) -> None:
    """Note the worse of two ratios, of time and of CPU time."""
    pairs = interleaved(
        benchmark, ours, lambda: run_command(*IMPORT_GRPC), rounds=PAIRS * rounds, against="import grpc"
    )
    reach(figure, pairs.time_ratio)
    reach(figure, pairs.cpu_ratio([COMMAND], [COMMAND]))


@pytest.mark.quick
@pytest.mark.target
@pytest.mark.benchmark(group="command line")
def test_help(benchmark: Benchmark, rounds: int, reach: Reach) -> None:
    against_grpc(benchmark, lambda: run_command(OPENSHELL_FILES, "--help"), reach, "cli-help", rounds)


@pytest.mark.quick
@pytest.mark.target
@pytest.mark.benchmark(group="command line")
def test_upload_of_a_small_file(
    benchmark: Benchmark, transfers: Transfers, rounds: int, reach: Reach
) -> None:
    """The whole command, as a script calls it for one file."""
    stack, file = transfers.stack, transfers.here("small-command", 1024)
    words = ("upload", stack.sandboxes[0].name, str(file), "small-command", "--durability", "rename")
    against_grpc(
        benchmark,
        lambda: run_command(OPENSHELL_FILES, *words, environment=stack.environment),
        reach,
        "cli-small",
        rounds,
    )
