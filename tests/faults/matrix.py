"""The fault matrix: {client, gateway, supervisor} killed at every point of an upload and a download, of a file and of a tree.

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
from tree_fault_cells import (
    TREE_DOWNLOAD_POINTS,
    TREE_UPLOAD_POINTS,
    TreeOutcome,
    download_tree,
    upload_tree,
)

_WIDTH = 34


#: The points of each kind of transfer.
KINDS: dict[str, Sequence[Point]] = {
    "upload": UPLOAD_POINTS,
    "download": DOWNLOAD_POINTS,
    "tree up": TREE_UPLOAD_POINTS,
    "tree down": TREE_DOWNLOAD_POINTS,
}


async def _cell(scene: FaultScene, kind: str, victim: Victim, point: Point) -> Outcome | TreeOutcome | str:
    """Return what a cell showed, or what did not hold."""
    try:
        match kind:
            case "upload":
                return await scene.upload(victim, point)
            case "download":
                return await scene.download(victim, point)
            case "tree up":
                return await upload_tree(scene, victim, point)
            case _:
                return await download_tree(scene, victim, point)
    except Exception as error:  # noqa: BLE001 - a failed cell is a result, the others are wanted too
        return f"{type(error).__name__}: {error}".split("\n")[0]


def _words(outcome: Outcome | TreeOutcome | str) -> str:
    if isinstance(outcome, str):
        return "FAIL"
    if isinstance(outcome, TreeOutcome):
        return f"ok {outcome.arrived} there, {outcome.sent} sent"
    again = "" if outcome.sent_again is None else f" again {outcome.sent_again / MIB:.1f}"
    state = f" {outcome.state}" if outcome.state else ""
    return f"ok{state} @{outcome.resumed_from / MIB:.1f}{again}"


def _print_matrix(
    kind: str, points: Sequence[Point], outcomes: dict[tuple[str, str], Outcome | TreeOutcome | str]
) -> None:
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
            for kind, points in KINDS.items():
                outcomes: dict[tuple[str, str], Outcome | TreeOutcome | str] = {}
                for victim in Victim:
                    for point in points:
                        outcome = outcomes[victim, point.name] = await _cell(scene, kind, victim, point)
                        if isinstance(outcome, str):
                            failures.append(f"{kind}, {victim} killed, {point.name}: {outcome}")
                _print_matrix(kind, points, outcomes)
    print(
        "`@n`: MiB that were there when the transfer went on; `again`: MiB that were sent twice, "
        f"at most {RESENT_LIMIT / MIB:.1f} (two chunk windows).\n"
        "Each cell of a file: old file or new, whole; GetUpload agrees with the disk; published exactly once.\n"
        "Each cell of a tree: every file old or new, whole; the trees are equal in the end."
    )
    for failure in failures:
        print(f"FAIL {failure}")
    cells = len(Victim) * sum(map(len, KINDS.values()))
    print(f"{cells - len(failures)} of {cells} cells hold, {time.monotonic() - began:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
