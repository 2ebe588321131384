"""Fixtures of the benchmarks: what is measured, from where, and how large."""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

import pytest
from harness.attached import AttachError, attached, is_wanted
from harness.machine import machine_facts
from harness.page import people_name
from harness.processes import Measured, Watch, Worker
from harness.room import why_too_little
from harness.rounds import Reach, Spread, Watched
from harness.sshd import NoSshError, Ssh, sshd
from harness.stack import Stack, own_stack
from harness.targets import TARGETS, table
from harness.transfers import Transfers, random_file

MIB = 1 << 20

REACHED = pytest.StashKey[dict[str, Spread]]()

#: Lines about the benchmarks, as they ran: median of ours, and by how much it is faster than its baseline.
MEASURED = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("openshell-files")
    group.addoption("--large-mib", type=int, default=1024, help="Size of the large file.")
    group.addoption("--rounds", type=int, default=5, help="Interleaved rounds of each pair.")


def _number(config: pytest.Config, option: str) -> int:
    value = config.getoption(option)
    assert isinstance(value, int)
    return value


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REACHED] = {}
    config.stash[MEASURED] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print a line for each benchmark that fits a terminal; pytest-benchmark's own tables do not (`--benchmark-quiet`)."""
    lines = config.stash[MEASURED]
    if lines:
        terminalreporter.section("benchmarks")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Print the targets behind everything else, where they are looked for."""
    reached = config.stash[REACHED]
    if reached:
        size, count = _number(config, "--large-mib"), _number(config, "--rounds")
        judged = "" if size >= 1024 else ", so that targets of 1 GiB are not judged"
        print(f"\nTargets. The large file has {size} MiB{judged}; medians of {count} rounds.")
        print(table(reached, size, shutil.get_terminal_size((100, 24)).columns))


@pytest.fixture(autouse=True)
def line_for_the_terminal(request: pytest.FixtureRequest) -> Generator[None]:
    """Note what a benchmark came to, once it has run."""
    yield
    found: object = request.node.funcargs.get("benchmark")
    seconds = getattr(getattr(found, "stats", None), "stats", None)
    if seconds is None:
        return
    median = float(seconds.median)
    ratios: Sequence[float] = getattr(found, "extra_info", {}).get("speed_ratio", ())
    ratio = f"{statistics.median(ratios):.2f} x" if ratios else ""
    name = people_name(request.node.name)
    request.config.stash[MEASURED].append(f"{median * 1e3:>10.4g} ms {ratio:>9}  {name}")


def pytest_benchmark_update_machine_info(machine_info: dict[str, object]) -> None:
    """Record what the figures depend on."""
    machine_info |= machine_facts()


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, object]) -> None:
    """Record the targets beside the measurements."""
    output_json["settings"] = {
        "large_mib": _number(config, "--large-mib"),
        "rounds": _number(config, "--rounds"),
    } | ({"attached_to": os.environ["BENCH_ENDPOINT"]} if is_wanted() else {})
    output_json["targets"] = {
        name: {
            "text": TARGETS[name].text,
            "bound": TARGETS[name].bound,
            "met": TARGETS[name].met(spread.median),
            "median": spread.median,
            "least": spread.least,
            "most": spread.most,
        }
        for name, spread in config.stash[REACHED].items()
    }


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    return _number(request.config, "--rounds")


@pytest.fixture(scope="session")
def reach(request: pytest.FixtureRequest) -> Reach:
    """Notes what a target's figure came to. No test fails for it: machines differ; the table says it.

    A figure that several tests measure is as good as the worst of them.
    """

    def note(name: str, spread: Spread) -> None:
        target, reached = TARGETS[name], request.config.stash[REACHED]
        before = reached.get(name)
        if before is None or (spread.median < before.median) == target.at_least:
            reached[name] = spread

    return note


@pytest.fixture(scope="session")
def stack() -> Generator[Stack]:
    """The gateway under test."""
    if is_wanted():
        try:
            with attached(os.environ) as there:
                yield there
        except AttachError as error:
            # Every other benchmark would say the same.
            pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
        return
    with own_stack(sandboxes=4) as running:
        yield running


@pytest.fixture(scope="session")
def own(stack: Stack) -> Stack:
    """The gateway under test, if its processes and files are on this machine."""
    if not stack.pids:
        pytest.skip(
            "needs the gateway's processes and the sandbox's files on this machine (unset BENCH_ENDPOINT)"
        )
    return stack


@pytest.fixture(scope="session")
def bare(stack: Stack) -> Stack:
    """The gateway under test, if it serves without TLS: behind a link it has another address than its certificate."""
    if "OPENSHELL_FILES_TLS_CA" in stack.environment:
        pytest.skip("needs a gateway without TLS, since the link emulator has another address (BENCH_TLS_CA)")
    return stack


@pytest.fixture(scope="session")
def large(stack: Stack, request: pytest.FixtureRequest) -> Path:
    """The large file: random bytes, so that nothing can be saved by compressing."""
    size = _number(request.config, "--large-mib") * MIB
    # Itself, in the sandbox, what replaces it there, what came back, and as much of a baseline or in parts.
    if reason := why_too_little(stack.scratch, 6 * size):
        pytest.skip(reason)
    return random_file(stack.scratch / "large", size)


@pytest.fixture(scope="session")
def medium(stack: Stack, large: Path) -> Path:
    """At most 64 MiB, for what is so slow that a large file would take all day."""
    return random_file(stack.scratch / "medium", min(64 * MIB, large.stat().st_size))


@pytest.fixture(scope="session")
def client(stack: Stack) -> Generator[Worker]:
    """A client process with our SDK."""
    with Worker("sdk_worker", environment=stack.environment) as worker:
        yield worker


@pytest.fixture(scope="session")
def ssh() -> Generator[Ssh]:
    try:
        with sshd() as running:
            yield running
    except NoSshError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def watched() -> Watched:
    """Run something while processes are watched."""

    def run(work: Callable[[], object], processes: Mapping[str, Sequence[int]]) -> Measured:
        with Watch(processes) as watch:
            work()
            watch.done()
        return watch.result()

    return run


@pytest.fixture(scope="session")
def transfers(stack: Stack, client: Worker, watched: Watched) -> Transfers:
    """Our SDK against the gateway under test."""
    return Transfers(stack, client, watched)


@pytest.fixture(scope="session")
def own_transfers(own: Stack, client: Worker, watched: Watched) -> Transfers:
    """The same, where the sandbox's files are on this machine."""
    return Transfers(own, client, watched)
