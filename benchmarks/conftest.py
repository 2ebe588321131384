"""Fixtures of the benchmarks: what is measured, from where, and how large."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

import pytest
from harness.attached import AttachError, attached, is_wanted
from harness.machine import machine_facts
from harness.processes import Measured, Watch, Worker
from harness.room import why_too_little
from harness.rounds import Reach, Spread, Watched
from harness.sshd import NoSshError, Ssh, sshd
from harness.stack import Stack, own_stack
from harness.targets import TARGETS, table
from harness.transfers import Transfers, random_file

MIB = 1 << 20

REACHED = pytest.StashKey[dict[str, Spread]]()


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reached = config.stash[REACHED]
    if reached:
        terminalreporter.section("targets")
        size, count = _number(config, "--large-mib"), _number(config, "--rounds")
        terminalreporter.write_line(
            f"The large file has {size} MiB{'' if size >= 1024 else ', so that targets of 1 GiB are not judged'}; "
            f"medians of {count} rounds."
        )
        terminalreporter.write_line(table(reached, size))


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
