"""What resuming costs: a 2 GiB upload that breaks at half, and goes on.

Two cases, against an upload in one go in the same run:

* the agent lives: it still has the digest of what it staged, so nothing is
  read again;
* the agent was restarted: it reads the staged prefix once.

Every finish reads the whole staging file once, to compare it with what
arrived; what resuming costs is what is read beyond that.

Bytes read are the agent's own, from /proc/PID/io; seconds are wall and CPU
time. Usage: ``resume.py [--mib 2048] [--rounds 3]``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from openshell_files import FilesClient, OidcAuth, Progress, UploadResult
from openshell_files_gateway.dev.stack import DevelopmentStack, StackSettings

MIB = 1 << 20


class CutError(Exception):
    """The upload is cut here."""


@dataclass(frozen=True)
class Cost:
    """What one upload, or the rest of one, cost.

    Attributes:
        seconds: wall time of the call.
        agent_cpu: CPU seconds of the supervisor's process.
        agent_read_mib: what that process read from files.
        sent_mib: content that the client sent.
    """

    seconds: float
    agent_cpu: float
    agent_read_mib: float
    sent_mib: float


class Measured:
    """Measures the supervisor while a call runs."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._cpu = self._cpu_now()
        self._read = self._read_now()
        self._started = time.monotonic()

    def end(self, result: UploadResult, sent: int) -> Cost:
        """Return the cost of the call that ended just now."""
        if result.size == 0:
            raise RuntimeError("nothing was uploaded")
        read = self._read_now() - self._read
        return Cost(time.monotonic() - self._started, self._cpu_now() - self._cpu, read / MIB, sent / MIB)

    def _cpu_now(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system

    def _read_now(self) -> int:
        return self._process.io_counters().read_chars


def upload_until(client: FilesClient, source: Path, cut_at: int) -> str:
    """Upload until `cut_at` bytes were sent, break off, and return the upload's id."""

    def cut(progress: Progress) -> None:
        if progress.transferred >= cut_at:
            raise CutError

    sandbox = client.sandbox("demo")
    try:
        sandbox.upload_path(source, "/sandbox/big", progress=cut)
    except CutError:
        pass
    else:
        raise RuntimeError("the upload was not cut")
    unfinished = sandbox.uploads()
    if len(unfinished) != 1:
        raise RuntimeError(f"one unfinished upload was expected, not {unfinished}")
    return unfinished[0].upload_id


def resume(client: FilesClient, source: Path, upload_id: str, pid: int) -> Cost:
    """Go on with an upload, and check that it did."""
    measured = Measured(pid)
    result = client.sandbox("demo").upload_path(source, "/sandbox/big", upload_id=upload_id)
    if result.resumed_from == 0:
        raise RuntimeError("the upload started over")
    return measured.end(result, result.bytes_sent)


async def restart_supervisor(stack: DevelopmentStack) -> None:
    """Stop the supervisor, start it, and wait until it serves."""
    await stack.supervisors[0].stop()
    await stack.supervisors[0].start()


async def one_round(stack: DevelopmentStack, source: Path) -> dict[str, Cost]:
    """Upload in one go, resume with the agent alive, resume after its restart."""
    description = stack.describe()
    auth = OidcAuth(token=description.token)
    size = (await asyncio.to_thread(source.stat)).st_size
    costs: dict[str, Cost] = {}
    with FilesClient(description.endpoint, auth=auth) as client:
        measured = Measured(stack.supervisors[0].pid)
        whole = await asyncio.to_thread(client.sandbox("demo").upload_path, source, "/sandbox/big")
        costs["in one go"] = measured.end(whole, whole.bytes_sent)
        upload_id = await asyncio.to_thread(upload_until, client, source, size // 2)
        pid = stack.supervisors[0].pid
        costs["resumed, agent alive"] = await asyncio.to_thread(resume, client, source, upload_id, pid)
        upload_id = await asyncio.to_thread(upload_until, client, source, size // 2)
        await restart_supervisor(stack)
        pid = stack.supervisors[0].pid
        costs["resumed, agent restarted"] = await asyncio.to_thread(resume, client, source, upload_id, pid)
    return costs


async def run(mib: int, rounds: int, directory: Path) -> list[dict[str, Cost]]:
    """Run all rounds on one stack."""
    source = directory / "source"
    with source.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
    async with DevelopmentStack(StackSettings(root=directory / "stack", restart=False)) as stack:
        return [await one_round(stack, source) for _ in range(rounds)]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--directory", default=None, help="where files go; default: the system's for temporary files"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="openshell-files-bench-", dir=arguments.directory) as directory:
        results = asyncio.run(run(arguments.mib, arguments.rounds, Path(directory)))
    if arguments.json:
        json.dump([{name: vars(cost) for name, cost in costs.items()} for costs in results], sys.stdout)
        return
    print(f"{arguments.mib} MiB, cut at half, medians of {arguments.rounds} (least to most)")
    for name in results[0]:
        seconds = [costs[name].seconds for costs in results]
        cpu = statistics.median(costs[name].agent_cpu for costs in results)
        read = statistics.median(costs[name].agent_read_mib for costs in results)
        sent = statistics.median(costs[name].sent_mib for costs in results)
        print(
            f"{name:26} {statistics.median(seconds):6.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), "
            f"agent CPU {cpu:5.2f} s, sent {sent:6.0f} MiB, agent read {read:6.0f} MiB of files"
        )


if __name__ == "__main__":
    main()
