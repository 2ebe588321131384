"""What a supervisor that lies costs the other sandboxes: the speed of their transfers while it does.

One sandbox is honest: the SDK uploads 256 MiB into it and downloads them again. Into another one comes, instead of its
supervisor, `lying_supervisor.py`, which tells one lie as fast as it can; where the lie needs them, there are callers into
its sandbox. Each round measures the honest sandbox once without the liar and once with it, one after the other; the
ratio is that of the two speeds of the same round. "none" is no lie: the same callers, and a supervisor that answers
them as it should.

The liar and its callers run with `nice 19`: they would run on another machine, and on one with two cores it is their
own use of the processor that would be measured otherwise. What the gateway does because of them is not niced.

Usage: ``liar.py [--mib 256] [--rounds 3] [--lie NAME]...``. Ends with status 1 if a median is below 0.8.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from lying_supervisor import LIES
from openshell_files import Durability, FilesClient, OidcAuth
from openshell_files_gateway.dev.stack import DevelopmentStack, StackSettings
from openshell_files_gateway.server.core.pace import BAN_SECONDS

MIB = 1 << 20

#: What the others have to keep of their speed.
LEAST_RATIO = 0.8

#: How long a lie is told before it is measured: longer than a flood is waited with (RLY-25), so that what is measured
#: is what the others live with, and not its first second.
WARM_UP_SECONDS = 2.0


@dataclass(frozen=True)
class Measured:
    """The honest sandbox for one upload and one download.

    Attributes:
        upload: MiB/s.
        download: MiB/s.
        gateway_cpu: CPU seconds of the gateway per second.
    """

    upload: float
    download: float
    gateway_cpu: float


@dataclass(frozen=True)
class Pair:
    """One round: without the liar, and with it."""

    without: Measured
    lying: Measured

    @property
    def upload(self) -> float:
        return self.lying.upload / self.without.upload

    @property
    def download(self) -> float:
        return self.lying.download / self.without.download


class Bench:
    """A stack with a sandbox for each lie, whose supervisor was stopped, behind the honest one.

    Args:
        stack: with so many sandboxes.
        source: what is uploaded.
    """

    def __init__(self, stack: DevelopmentStack, source: Path) -> None:
        if stack.gateway is None:
            raise RuntimeError("the stack was not started")
        self._stack = stack
        self._source = source
        self._gateway = psutil.Process(stack.gateway.pid)
        self._size = source.stat().st_size
        self._description = stack.describe()
        self._free_at: dict[str, float] = {}

    def measure(self) -> Measured:
        """Carry the file there and back."""
        auth = OidcAuth(token=self._description.token)
        with FilesClient(self._description.endpoint, auth=auth) as client:
            sandbox = client.sandbox(self._description.sandboxes[0].name)
            sandbox.uploads()  # opens the connection
            cpu, started = self._cpu(), time.monotonic()
            sandbox.upload_path(self._source, "/sandbox/file", durability=Durability.RENAME)
            uploaded = time.monotonic()
            sandbox.download("/sandbox/file", lambda _: None)
            ended = time.monotonic()
            mib = self._size / MIB
            return Measured(
                mib / (uploaded - started), mib / (ended - uploaded), (self._cpu() - cpu) / (ended - started)
            )

    @contextmanager
    def lying(self, lie: str) -> Generator[None]:
        """Let the other sandbox's supervisor lie."""
        number = 1 + list(LIES).index(lie)
        sandbox = self._description.sandboxes[number]
        time.sleep(max(0.0, self._free_at.get(lie, 0.0) - time.monotonic()))
        program = [
            "nice", "-n", "19", sys.executable, str(Path(__file__).with_name("lying_supervisor.py")),
            "--endpoint", self._description.endpoint, "--sandbox-id", sandbox.id, "--lie", lie,
            "--token-file", str(self._stack.root / "sandboxes" / sandbox.name / "token"),
        ]  # fmt: skip
        environment = os.environ | {"OPENSHELL_FILES_TOKEN": self._description.token}
        process = subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise RuntimeError(f"the liar did not start: {lie}")
            time.sleep(WARM_UP_SECONDS)
            yield
            if process.poll() is not None:
                raise RuntimeError(f"the liar ended: {lie}")
        finally:
            process.kill()
            process.communicate()
            # Nobody listens to one that flooded; what it costs is to be measured from its beginning.
            self._free_at[lie] = time.monotonic() + BAN_SECONDS

    def _cpu(self) -> float:
        times = self._gateway.cpu_times()
        return times.user + times.system


async def run(mib: int, rounds: int, lies: list[str], directory: Path) -> dict[str, list[Pair]]:
    """Run all lies on one stack, in every round each."""
    source = directory / "source"
    source.write_bytes(os.urandom(mib * MIB))
    pairs: dict[str, list[Pair]] = {lie: [] for lie in lies}
    settings = StackSettings(root=directory / "stack", sandboxes=1 + len(LIES), restart=False)
    async with DevelopmentStack(settings) as stack:
        for supervisor in stack.supervisors[1:]:
            await supervisor.stop()
        bench = Bench(stack, source)
        await asyncio.to_thread(bench.measure)  # warms what the others find warm
        for number in range(1, rounds + 1):
            for lie in lies:
                without = await asyncio.to_thread(bench.measure)
                with bench.lying(lie):
                    pair = Pair(without, await asyncio.to_thread(bench.measure))
                pairs[lie].append(pair)
                told = f"round {number}: {lie}: upload {pair.upload:.2f}, download {pair.download:.2f}"
                print(told, file=sys.stderr, flush=True)
    return pairs


def report(mib: int, rounds: int, pairs: dict[str, list[Pair]]) -> bool:
    """Print the table, and return whether every lie left the others enough."""
    print(f"{mib} MiB, {rounds} rounds; medians (least to most) of the speed with the liar to that without")
    print(f"{'lie':38} {'upload':>20} {'download':>20}   gateway's CPU without, with")
    enough = True
    for lie, rounds_of_lie in pairs.items():
        columns = list[str]()
        for ratios in ([pair.upload for pair in rounds_of_lie], [pair.download for pair in rounds_of_lie]):
            median = statistics.median(ratios)
            enough = enough and median >= LEAST_RATIO
            columns.append(f"{median:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        without = statistics.median(pair.without.gateway_cpu for pair in rounds_of_lie)
        lying = statistics.median(pair.lying.gateway_cpu for pair in rounds_of_lie)
        print(f"{lie:38} {columns[0]:>20} {columns[1]:>20}   {without:4.0%}, {lying:4.0%}", flush=True)
    every = [pair.without for pairs_of_lie in pairs.values() for pair in pairs_of_lie]
    print(
        f"without a liar: upload {statistics.median(one.upload for one in every):.0f} MiB/s, "
        f"download {statistics.median(one.download for one in every):.0f} MiB/s"
    )
    return enough


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lie", action="append", choices=LIES, help="only this one; may be repeated")
    parser.add_argument(
        "--directory", default=None, help="where files go; default: the system's for temporary files"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="openshell-files-bench-", dir=arguments.directory) as directory:
        pairs = asyncio.run(
            run(arguments.mib, arguments.rounds, arguments.lie or list(LIES), Path(directory))
        )
    if arguments.json:
        json.dump(
            {
                lie: [{"without": vars(one.without), "lying": vars(one.lying)} for one in of_lie]
                for lie, of_lie in pairs.items()
            },
            sys.stdout,
        )
        return
    if not report(arguments.mib, arguments.rounds, pairs):
        sys.exit(1)


if __name__ == "__main__":
    main()
