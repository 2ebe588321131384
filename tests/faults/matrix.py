"""The fault matrix: {client, gateway, supervisor} killed at every point of an upload and a download.

Run as a program it tries every cell, prints the matrix, and ends with status 1
if anything that must hold did not.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import structlog
from fault_cells import (
    DOWNLOAD_POINTS,
    RESENT_LIMIT,
    UPLOAD_POINTS,
    FaultScene,
    Outcome,
    Point,
    Victim,
    fault_scene,
)
from openshell_files_protocol.limits import MIB

_WIDTH = 34


async def _cell(scene: FaultScene, kind: str, victim: Victim, point: Point) -> Outcome | str:
    """Return what a cell showed, or what did not hold."""
    try:
        run = scene.upload if kind == "upload" else scene.download
        return await run(victim, point)
    except Exception as error:  # noqa: BLE001 - a failed cell is a result, the others are wanted too
        return f"{type(error).__name__}: {error}".split("\n")[0]


def _words(outcome: Outcome | str) -> str:
    if isinstance(outcome, str):
        return "FAIL"
    again = "" if outcome.sent_again is None else f" again {outcome.sent_again / MIB:.1f}"
    state = f" {outcome.state}" if outcome.state else ""
    return f"ok{state} @{outcome.resumed_from / MIB:.1f}{again}"


def _print_matrix(kind: str, points: Sequence[Point], outcomes: dict[tuple[str, str], Outcome | str]) -> None:
    print(f"{kind:18}" + "".join(f"{victim:{_WIDTH}}" for victim in Victim))
    for point in points:
        cells = [_words(outcomes[victim, point.name]) for victim in Victim]
        print(f"{point.name:18}" + "".join(f"{cell:{_WIDTH}}" for cell in cells))
    print(flush=True)


async def _main() -> int:
    # The stack says that its children die; here they are meant to.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    began = time.monotonic()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as root:
        async with fault_scene(Path(root)) as scene:
            for kind, points in (("upload", UPLOAD_POINTS), ("download", DOWNLOAD_POINTS)):
                outcomes: dict[tuple[str, str], Outcome | str] = {}
                for victim in Victim:
                    for point in points:
                        outcome = outcomes[victim, point.name] = await _cell(scene, kind, victim, point)
                        if isinstance(outcome, str):
                            failures.append(f"{kind}, {victim} killed, {point.name}: {outcome}")
                _print_matrix(kind, points, outcomes)
    print(
        "`@n`: MiB that were there when the transfer went on; `again`: MiB that were sent twice, "
        f"at most {RESENT_LIMIT / MIB:.1f} (two chunk windows).\n"
        "Each cell: old file or new, whole; GetUpload agrees with the disk; published exactly once."
    )
    for failure in failures:
        print(f"FAIL {failure}")
    cells = len(Victim) * (len(UPLOAD_POINTS) + len(DOWNLOAD_POINTS))
    print(f"{cells - len(failures)} of {cells} cells hold, {time.monotonic() - began:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
