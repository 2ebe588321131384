"""OpenAI's Agents SDK: a `Manifest` with a `LocalDir`, file by file through `session.write`, without a command."""

from __future__ import annotations

import shutil

import pytest
from harness.processes import Worker
from harness.rounds import Benchmark, Reach, Spread, Watched, alone
from harness.stack import Stack
from test_trees import make_tree

FILES = 300


@pytest.mark.target
@pytest.mark.quick
@pytest.mark.benchmark(group="trees")
def test_manifest_of_a_local_directory(
    benchmark: Benchmark, own: Stack, watched: Watched, rounds: int, reach: Reach
) -> None:
    sandbox = own.sandboxes[0]
    assert sandbox.directory is not None
    source, there = make_tree(own.scratch / "manifest", FILES, 4096), sandbox.directory / "manifest"
    with Worker("manifest_worker", environment=own.environment) as worker:

        def apply() -> dict[str, object]:
            shutil.rmtree(there, ignore_errors=True)
            return worker.ask(
                do="apply", sandbox=sandbox.name, root=f"{sandbox.workdir}/manifest", source=str(source)
            )

        apply()
        measured = alone(
            benchmark,
            lambda: watched(apply, {"client": [worker.pid], **own.pids}),
            rounds=rounds,
            size=FILES * 4096,
        )
    assert sum(path.is_file() for path in there.rglob("*")) == FILES
    reach("manifest", Spread.of([one.seconds for one in measured]))
