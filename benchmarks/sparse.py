"""What zeros cost: a sparse file of 4 GiB with 1 MiB of content, there and back.

Three transfers are made in every round, there and back, one after the other:

* sparse: holes of 4 GiB and 1 MiB of content in the middle;
* dense: the same 1 MiB alone;
* sparse by SHA-256: the same as the first with `--digest sha256`.

Both digests hash the zeros at both ends; BLAKE3, the default, in a third of the
time.

Each is made by the command, whose start is most of its time, and by the SDK in
this process, which has no start that hides the rest. The ratios are of seconds
that were measured in the same round. CPU seconds are
user and system time of the three processes that carry the file. Usage:
``sparse.py [--mib 4096] [--rounds 3]``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from openshell_files import DigestChoice, DownloadResult, FilesClient, OidcAuth, UploadResult
from openshell_files_gateway.dev.stack import DevelopmentStack, StackSettings

MIB = 1 << 20
COMMAND = Path(sysconfig.get_path("scripts")) / "openshell-files"

#: What is carried: the file, and the options of the command.
CASES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "dense": ("dense", ()),
    "sparse": ("sparse", ()),
    "sparse by SHA-256": ("sparse", ("--digest", "sha256")),
}


@dataclass(frozen=True)
class Cost:
    """What one command cost.

    Attributes:
        seconds: wall time of the command, with its start.
        cpu: CPU seconds by process.
        moved_mib: content that was sent or received.
        digest: which digest it was compared by.
    """

    seconds: float
    cpu: dict[str, float]
    moved_mib: float
    digest: str


def carry(
    environment: Mapping[str, str], pids: Mapping[str, int], arguments: tuple[str, ...], target: Path
) -> Cost:
    """Run a command, measure it, and check that the file arrived sparse."""
    before = {name: _cpu(psutil.Process(pid)) for name, pid in pids.items()}
    children = _children_cpu()
    started = time.monotonic()
    done = subprocess.run([COMMAND, *arguments], env=environment, stdout=subprocess.PIPE, check=True)
    seconds = time.monotonic() - started
    result = json.loads(done.stdout)
    cpu = {name: _cpu(psutil.Process(pid)) - before[name] for name, pid in pids.items()}
    cpu["client"] = _children_cpu() - children
    check_sparse(target, result["size"])
    moved = result.get("bytes_sent", result.get("bytes_received", 0))
    return Cost(seconds, cpu, moved / MIB, result["digest"].partition(":")[0])


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _children_cpu() -> float:
    times = os.times()
    return times.children_user + times.children_system


def by_sdk(
    transfer: Callable[[], UploadResult | DownloadResult], pids: Mapping[str, int], target: Path
) -> Cost:
    """Make one transfer in this process, measure it, and check that the file arrived sparse."""
    everybody = {**pids, "client": os.getpid()}
    before = {name: _cpu(psutil.Process(pid)) for name, pid in everybody.items()}
    started = time.monotonic()
    result = transfer()
    seconds = time.monotonic() - started
    cpu = {name: _cpu(psutil.Process(pid)) - before[name] for name, pid in everybody.items()}
    check_sparse(target, result.size)
    moved = result.bytes_sent if isinstance(result, UploadResult) else result.bytes_received
    return Cost(seconds, cpu, moved / MIB, (result.digest or "").partition(":")[0])


def check_sparse(path: Path, size: int) -> None:
    """Stop if a file has another size, or its holes were filled."""
    if path.stat().st_size != size or path.stat().st_blocks * 512 > 16 * MIB:
        raise RuntimeError(f"{path} did not arrive sparse")


def one_round(stack: DevelopmentStack, environment: Mapping[str, str], directory: Path) -> dict[str, Cost]:
    """Carry every file there and back, both ways."""
    if stack.gateway is None:
        raise RuntimeError("the stack was not started")
    pids = {"gateway": stack.gateway.pid, "supervisor": stack.supervisors[0].pid}
    costs: dict[str, Cost] = {}
    stored = Path(stack.sandboxes[0].root) / "sandbox" / "file"
    back = directory / "back"
    for name, (source, options) in CASES.items():
        common = ("--json", "--quiet", *options, "demo")
        up = ("upload", *common, str(directory / source), "/sandbox/file")
        costs[f"command, upload: {name}"] = carry(environment, pids, up, stored)
        down = ("download", *common, "/sandbox/file", str(back))
        costs[f"command, download: {name}"] = carry(environment, pids, down, back)
        back.unlink()
        stored.unlink()
    auth = OidcAuth(token=environment["OPENSHELL_FILES_TOKEN"])
    with FilesClient(environment["OPENSHELL_FILES_ENDPOINT"], auth=auth) as client:
        sandbox = client.sandbox("demo")
        # Opens the connection.
        sandbox.uploads()
        for name, (source, options) in CASES.items():
            digest: DigestChoice = "sha256" if options else "auto"
            send = partial(sandbox.upload_path, directory / source, "/sandbox/file", digest=digest)
            costs[f"SDK, upload: {name}"] = by_sdk(send, pids, stored)
            receive = partial(sandbox.download_path, "/sandbox/file", back, digest=digest)
            costs[f"SDK, download: {name}"] = by_sdk(receive, pids, back)
            back.unlink()
            stored.unlink()
    return costs


def make_sources(mib: int, directory: Path) -> None:
    """Make both files."""
    content = os.urandom(MIB)
    (directory / "dense").write_bytes(content)
    with (directory / "sparse").open("wb") as file:
        file.truncate(mib * MIB)
        # Not where a block begins: content falls as it falls.
        file.seek(mib * MIB // 2 + 4096)
        file.write(content)


async def run(mib: int, rounds: int, directory: Path) -> list[dict[str, Cost]]:
    """Run all rounds on one stack."""
    make_sources(mib, directory)
    async with DevelopmentStack(StackSettings(root=directory / "stack", restart=False)) as stack:
        description = stack.describe()
        environment = os.environ | {
            "OPENSHELL_FILES_ENDPOINT": description.endpoint,
            "OPENSHELL_FILES_TOKEN": description.token,
        }
        # The first command warms what the others find warm.
        await asyncio.to_thread(one_round, stack, environment, directory)
        return [await asyncio.to_thread(one_round, stack, environment, directory) for _ in range(rounds)]


def report(mib: int, results: list[dict[str, Cost]]) -> None:
    """Print medians, spread and ratios."""
    print(f"{mib} MiB with 1 MiB of content, and 1 MiB; medians of {len(results)} (least to most)")
    for name in results[0]:
        costs = [costs[name] for costs in results]
        seconds = [cost.seconds for cost in costs]
        cpu = ", ".join(
            f"{process} {statistics.median(cost.cpu[process] for cost in costs):.2f} s"
            for process in ("client", "gateway", "supervisor")
        )
        way, _, case = name.partition(": ")
        ratio = statistics.median(each[name].seconds / each[f"{way}: dense"].seconds for each in results)
        print(
            f"{way:17} {case:17} {statistics.median(seconds):6.3f} s ({min(seconds):.3f} to {max(seconds):.3f}), "
            f"{ratio:5.2f} x dense, {costs[0].moved_mib:.0f} MiB moved, {costs[0].digest}; CPU: {cpu}"
        )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=4096)
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
    report(arguments.mib, results)


if __name__ == "__main__":
    main()
