"""The figures that must hold, and whether they do."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from harness.rounds import Spread


@dataclass(frozen=True)
class Target:
    """A figure.

    Attributes:
        text: what is measured.
        bound: what must be reached.
        at_least: whether more is better.
        aim: what we would like to reach; None if no more than the bound.
        unit: behind the number.
    """

    text: str
    bound: float
    at_least: bool = True
    aim: float | None = None
    unit: str = " x"

    def text_at(self, large_mib: int) -> str:
        """Say what was measured in a run whose large file has another size than 1 GiB."""
        return self.text if large_mib >= 1024 else self.text.replace("1 GiB", f"{large_mib} MiB")

    def is_judged_at(self, large_mib: int) -> bool:
        """Whether a run with a large file of that size tells: of a small one, ssh's connection is most of the time."""
        return large_mib >= 1024 or "1 GiB" not in self.text

    def met(self, value: float) -> bool:
        """Whether a median reaches the bound."""
        return value >= self.bound if self.at_least else value <= self.bound


TARGETS: Final[Mapping[str, Target]] = {
    "ssh-up": Target("1 GiB upload, verified, against tar over ssh, default cipher", 2.5, aim=4),
    "ssh-down": Target("1 GiB download, verified, against tar over ssh, default cipher", 2.5, aim=4),
    "fast-ssh-up": Target("1 GiB upload against tar over ssh, fastest cipher", 1.5),
    "fast-ssh-down": Target("1 GiB download against tar over ssh, fastest cipher", 1.5),
    "tcp-up": Target("1 GiB upload against the bare three-process TCP relay", 0.5, aim=0.75),
    "tcp-down": Target("1 GiB download against the bare three-process TCP relay", 0.5, aim=0.75),
    "exec-up": Target("upload against exec slices", 3, aim=5),
    "exec-down": Target("download against base64 through exec", 4, aim=10),
    "rfc-up": Target("RFC-only upload at 64 KiB against tar over ssh", 1),
    "rfc-down": Target("RFC-only download against tar over ssh", 1),
    "small-exec": Target(
        "1 KiB: write_bytes (rename) against the exec path, how many times as fast", 2, aim=5
    ),
    "small-unary": Target(
        "1 KiB: write_bytes (rename) against a bare unary call over two hops", 4, at_least=False
    ),
    "cli-help": Target(
        'openshell-files --help: time and CPU time against python -c "import grpc"', 1.6, at_least=False
    ),
    "cli-small": Target(
        '1 KiB upload, whole command: time and CPU time against python -c "import grpc"', 3, at_least=False
    ),
    "link-up": Target("256 MiB up over 100 ms and 1 Gbit/s: share of the link", 85, unit=" %"),
    "link-down": Target("256 MiB down over 100 ms and 1 Gbit/s: share of the link", 85, unit=" %"),
    "many-total": Target("64 transfers at once: total against one", 0.85),
    "many-fair": Target("64 transfers at once: fairness (Jain)", 0.9, unit=""),
    "gateway-cpu": Target("upload: gateway CPU per GiB against one-hop gRPC's two ends", 1.2, at_least=False),
    "gateway-cpu-down": Target(
        "download: gateway CPU per GiB against one-hop gRPC's two ends", 1.2, at_least=False
    ),
    "memory-gateway": Target("memory above idle per transfer, gateway", 16, at_least=False, unit=" MiB"),
    "memory-supervisor": Target(
        "memory above idle per transfer, supervisor", 16, at_least=False, aim=8, unit=" MiB"
    ),
    "tree-up": Target("2000 x 4 KiB up: time against tar over ssh", 0.4, at_least=False),
    "tree-down": Target("2000 x 4 KiB down: time against tar over ssh", 0.4, at_least=False),
    "tree-many-up": Target("10 000 x 1 KiB up: time against tar over ssh", 0.8, at_least=False),
    "tree-many-down": Target("10 000 x 1 KiB down: time against tar over ssh", 0.8, at_least=False),
    "tree-unchanged": Target("10 000 unchanged files: time against rsync -a over ssh", 1.0, at_least=False),
    "tree-mirror": Target(
        "2000 files up, a command, down, one file changed: time against tar over ssh", 0.5, at_least=False
    ),
    "manifest": Target(
        "manifest of OpenAI's Agents SDK, 300 files of 4 KiB, one call each", 1.0, at_least=False, unit=" s"
    ),
    "archive-up": Target("256 MiB of tar, unpacked: speed against its plain upload", 0.7),
}


def table(reached: Mapping[str, Spread], large_mib: int = 1024, width: int = 100) -> str:
    """Return the table of the targets that were run, as text.

    Args:
        reached: by key.
        large_mib: of the run's large file.
        width: columns of the terminal; a figure's name goes on below itself.
    """
    lines = [f"{'':4} {'median':>8} {'must':>10} {'aim':>5} {'least to most':>16}  figure"]
    for name, target in TARGETS.items():
        if name not in reached:
            continue
        spread = reached[name]
        bound = f"{'>=' if target.at_least else '<='} {target.bound:g}{target.unit}"
        aim = "" if target.aim is None else f"{target.aim:g}"
        verdict = "ok" if target.met(spread.median) else "MISS"
        if not target.is_judged_at(large_mib):
            verdict = "?"
        between = f"{spread.least:.2f} to {spread.most:.2f}"
        figures = f"{verdict:4} {spread.median:>8.2f} {bound:>10} {aim:>5} {between:>16}  "
        name_width = max(20, width - len(figures))
        first, *rest = textwrap.wrap(target.text_at(large_mib), name_width)
        lines += [figures + first, *(" " * len(figures) + line for line in rest)]
    missing = len(TARGETS) - len(reached)
    if missing:
        lines.append(f"{missing} more figures were not run; `make bench-targets` runs them all.")
    return "\n".join(lines)
