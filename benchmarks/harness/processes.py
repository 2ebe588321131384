"""Processes under test: what they use while something is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Self

import psutil

BENCHMARKS: Final = Path(__file__).resolve().parents[1]

#: Between two looks at the memory of all processes.
_SAMPLE_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process used over a measurement.

    Attributes:
        cpu: seconds, of all its threads, by the operating system's account.
        idle_bytes: resident before.
        peak_bytes: most that was resident, of the samples taken.
        samples: seconds since the start, and bytes resident then.
    """

    cpu: float
    idle_bytes: int
    peak_bytes: int
    samples: tuple[tuple[float, int], ...] = ()

    @property
    def above_idle(self) -> int:
        """Bytes beyond what was resident before."""
        return max(0, self.peak_bytes - self.idle_bytes)


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement: wall time, and what each process used, by name."""

    seconds: float
    usage: Mapping[str, Usage]

    def cpu(self, *names: str) -> float:
        """CPU seconds of some processes together; of all if none is named."""
        return sum(usage.cpu for name, usage in self.usage.items() if not names or name in names)


class Watch:
    """Samples processes in a thread of its own; `with Watch(...) as watch: ...; watch.result()`.

    Args:
        processes: by name; one name may stand for several.
    """

    def __init__(self, processes: Mapping[str, Sequence[int]]) -> None:
        self._processes = {name: [psutil.Process(pid) for pid in pids] for name, pids in processes.items()}
        self._samples: dict[str, list[tuple[float, int]]] = {name: [] for name in processes}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="watch", daemon=True)
        self._began = 0.0
        self._ended = 0.0
        self._cpu: dict[str, float] = {}
        self._idle: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._idle = {name: self._resident(name) for name in self._processes}
        self._cpu = {name: self._cpu_now(name) for name in self._processes}
        self._began = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._ended:
            self._ended = time.perf_counter()
        self._stop.set()
        self._thread.join()
        self._cpu = {name: self._cpu_now(name) - before for name, before in self._cpu.items()}

    def done(self) -> None:
        """Stop the clock; what comes until the end of the block is not counted as time."""
        self._ended = time.perf_counter()

    def result(self) -> Measured:
        """Return the measurement, after the block."""
        usage = {
            name: Usage(
                self._cpu[name],
                self._idle[name],
                max([self._idle[name], *(size for _, size in samples)]),
                tuple(samples[:: max(1, len(samples) // 200)]),
            )
            for name, samples in self._samples.items()
        }
        return Measured(self._ended - self._began, usage)

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            now = time.perf_counter() - self._began
            for name, samples in self._samples.items():
                samples.append((round(now, 3), self._resident(name)))

    def _resident(self, name: str) -> int:
        total = 0
        for process in self._processes[name]:
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def _cpu_now(self, name: str) -> float:
        total = 0.0
        for process in self._processes[name]:
            # It may have ended.
            with suppress(OSError):
                total += time.clock_gettime(_cpu_clock(process.pid))
        return total


def _cpu_clock(pid: int) -> int:
    """Return the clock of a process's CPU time, all threads, in nanoseconds; clock_getcpuclockid(3) on Linux.

    /proc counts in hundredths of a second, which is more than a small file takes.
    """
    return (~pid << 3) | 2


def _search_path() -> str:
    """Return where programs of the harness find it, before what this process was told to search.

    Replacing that would measure the installed packages while the tests here load others.
    """
    return os.pathsep.join(filter(None, [str(BENCHMARKS), os.environ.get("PYTHONPATH", "")]))


class Worker:
    """A program of the harness that answers one JSON line to each.

    Args:
        module: of the harness, run with this interpreter.
        arguments: of the program.
        environment: beside this process's.
    """

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._program = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"harness.{module}", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=BENCHMARKS,
            env=os.environ | {"PYTHONPATH": _search_path()} | dict(environment or {}),
        )  # fmt: skip
        self.ready: dict[str, Any] = self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, **question: object) -> dict[str, Any]:
        """Send a question and wait for the answer.

        Raises:
            RuntimeError: the program failed, or ended.
        """
        return self.say(json.dumps(question))

    def say(self, line: str) -> dict[str, Any]:
        """The same with a line as it is."""
        pipe: IO[str] | None = self._process.stdin
        assert pipe is not None
        pipe.write(line + "\n")
        pipe.flush()
        return self._answer()

    def close(self) -> None:
        """End it; more than once is fine."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._program} ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


@dataclass(slots=True)
class Link:
    """A link emulator that runs, in front of an address."""

    worker: Worker
    endpoint: str = field(default="")

    def cut(self) -> None:
        """Close every connection through it."""
        self.worker.say("cut")

    def cut_after(self, count: int) -> None:
        """Close every connection once so many more bytes were carried, both directions together."""
        self.worker.say(f"cut-after {count}")


@contextmanager
def link_to(
    endpoint: str, *, round_trip_ms: float = 0.0, mbit: float = 0.0, queue_kib: int | None = None
) -> Generator[Link]:
    """Put a link in front of an address.

    Args:
        endpoint: HOST:PORT.
        round_trip_ms: both ways together.
        mbit: of each direction; 0 for no limit.
        queue_kib: waits for the wire; by default what the wire carries in one
            round trip, as routers are built, at least in 10 ms and 256 KiB:
            below that it would be a measurement of this machine's scheduler.
    """
    if queue_kib is None:
        queue_kib = max(256, round(mbit * 1e6 / 8 * max(10.0, round_trip_ms) / 1e3 / 1024))
    arguments = [
        "--to", endpoint, "--delay-ms", str(round_trip_ms / 2), "--mbit", str(mbit), "--queue-kib", str(queue_kib),
    ]  # fmt: skip
    with Worker("link", *arguments) as worker:
        yield Link(worker, f"127.0.0.1:{worker.ready['port']}")
