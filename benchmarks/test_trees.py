"""Directories: our warm SDK beside whole commands of tar and rsync over ssh on loopback, connection included.

Each measurement gets a new destination, made empty before, unless what is there already is the question.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tarfile
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from harness.processes import Measured, Worker
from harness.room import why_too_little
from harness.rounds import Benchmark, Reach, Watched, interleaved
from harness.sshd import NoRsyncError, Ssh
from harness.stack import Stack

MIB = 1 << 20

#: Of a directory of the trees here.
PER_DIRECTORY = 100


def make_tree(top: Path, files: int, size: int) -> Path:
    """Make a tree of files of random bytes, once."""
    if not top.exists():
        for number in range(files):
            directory = top / f"d{number // PER_DIRECTORY:03}"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"f{number:05}").write_bytes(os.urandom(size))
    return top


class Trees:
    """Our SDK in a client process, and the places of its trees.

    Args:
        stack: the gateway under test.
        worker: a `tree_worker`.
        watched: the fixture of that name.
    """

    def __init__(self, stack: Stack, worker: Worker, watched: Watched) -> None:
        self.stack = stack
        self.scratch = stack.scratch
        self._worker = worker
        self._watched = watched
        self._sandbox = stack.sandboxes[0]
        assert self._sandbox.directory is not None
        #: The sandbox's working directory on this machine.
        self.there: Path = self._sandbox.directory
        #: The same as commands in the sandbox see it.
        self.workdir = self._sandbox.workdir

    def run(self, fresh: Path | None = None, **question: object) -> Measured:
        """Ask, with every process watched; `fresh` is removed before."""
        if fresh is not None:
            shutil.rmtree(fresh, ignore_errors=True)
        return self._watched(
            lambda: self._worker.ask(sandbox=self._sandbox.name, **question),
            {"client": [self._worker.pid], **self.stack.pids},
        )

    def other(self, work: Callable[[], object], fresh: Path | None = None) -> Measured:
        """Run a baseline; `fresh` is removed before, and made."""
        if fresh is not None:
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
        return self._watched(work, {})

    def tree(self, files: int, size: int) -> Path:
        """Make a tree, once."""
        if reason := why_too_little(self.scratch, 4 * files * max(size, 4096)):
            pytest.skip(reason)
        return make_tree(self.scratch / f"tree-{files}-{size}", files, size)


@pytest.fixture(scope="module")
def trees(own: Stack, watched: Watched) -> Generator[Trees]:
    with Worker("tree_worker", environment=own.environment) as worker:
        yield Trees(own, worker, watched)


SIZES = pytest.mark.parametrize(
    ("files", "size", "target"),
    [
        pytest.param(2000, 4096, "tree-{way}", id="2000 x 4 KiB", marks=pytest.mark.quick),
        pytest.param(10_000, 1024, "tree-many-{way}", id="10000 x 1 KiB"),
    ],
)


@pytest.mark.target
@SIZES
@pytest.mark.benchmark(group="trees")
def test_tree_up_against_tar(
    benchmark: Benchmark, trees: Trees, ssh: Ssh, rounds: int, reach: Reach, files: int, size: int, target: str
) -> None:  # fmt: skip
    source, remote, tar = trees.tree(files, size), trees.there / "tree", trees.scratch / "tar-tree"
    pairs = interleaved(
        benchmark,
        lambda: trees.run(remote, do="up", source=str(source), remote="tree"),
        lambda: trees.other(lambda: ssh.tar_up(source, tar), tar),
        rounds=rounds, size=files * size, against="tar over ssh",
    )  # fmt: skip
    assert sum(len(names) for _, _, names in os.walk(remote)) == files
    shutil.rmtree(tar)
    reach(target.format(way="up"), pairs.time_ratio)


@pytest.mark.target
@SIZES
@pytest.mark.benchmark(group="trees")
def test_tree_down_against_tar(
    benchmark: Benchmark, trees: Trees, ssh: Ssh, rounds: int, reach: Reach, files: int, size: int, target: str
) -> None:  # fmt: skip
    source, here, tar = trees.tree(files, size), trees.scratch / "tree-back", trees.scratch / "tar-back"
    trees.run(trees.there / "tree", do="up", source=str(source), remote="tree")
    pairs = interleaved(
        benchmark,
        lambda: trees.run(here, do="down", remote="tree", target=str(here)),
        lambda: trees.other(lambda: ssh.tar_down(source, tar), tar),
        rounds=rounds, size=files * size, against="tar over ssh",
    )  # fmt: skip
    assert sum(len(names) for _, _, names in os.walk(here)) == files
    for made in (here, tar):
        shutil.rmtree(made)
    reach(target.format(way="down"), pairs.time_ratio)


@pytest.mark.target
@pytest.mark.benchmark(group="trees")
def test_unchanged_tree_against_rsync(
    benchmark: Benchmark, trees: Trees, ssh: Ssh, rounds: int, reach: Reach
) -> None:
    """10 000 files that are there already: `rsync -a`, with size and time, as ours."""
    source, there = trees.tree(10_000, 1024), trees.scratch / "rsync-there"
    try:
        ssh.rsync_up(source, there)
    except NoRsyncError as error:
        pytest.skip(str(error))
    trees.run(trees.there / "same", do="up", source=str(source), remote="same")
    pairs = interleaved(
        benchmark,
        lambda: trees.run(do="up", source=str(source), remote="same"),
        lambda: trees.other(lambda: ssh.rsync_up(source, there)),
        rounds=rounds, against="rsync -a over ssh",
    )  # fmt: skip
    shutil.rmtree(there)
    reach("tree-unchanged", pairs.time_ratio)


@pytest.mark.target
@pytest.mark.benchmark(group="trees")
def test_mirror_cycle_against_tar(
    benchmark: Benchmark, trees: Trees, ssh: Ssh, rounds: int, reach: Reach
) -> None:
    """2000 files up, a command that changes one, and all of them back: what a tool does around each command."""
    source = trees.tree(2000, 4096)
    mine, theirs, tar = (trees.scratch / name for name in ("mirror", "mirror-tar", "mirror-there"))
    for copy in (mine, theirs):
        shutil.copytree(source, copy, dirs_exist_ok=True)
    tar.mkdir()

    def by_tar() -> None:
        ssh.tar_up(theirs, tar)
        ssh.run(_change(tar / theirs.name))
        ssh.tar_down(tar / theirs.name, theirs.parent)

    command = ["sh", "-c", _change(Path(trees.workdir, "mirror"))]
    pairs = interleaved(
        benchmark,
        lambda: trees.run(do="mirror", source=str(mine), remote="mirror", command=command),
        lambda: trees.other(by_tar),
        rounds=rounds, against="tar over ssh, three connections",
    )  # fmt: skip
    changed = [(copy / "d000" / "f00000").stat().st_size for copy in (mine, theirs)]
    assert changed == [changed[0]] * 2
    for made in (mine, theirs, tar):
        shutil.rmtree(made)
    reach("tree-mirror", pairs.time_ratio)


def _change(top: Path) -> str:
    """Return a command that changes a file of a tree."""
    return f"echo x >> {shlex.quote(str(top / 'd000' / 'f00000'))}"


@pytest.mark.target
@pytest.mark.benchmark(group="trees")
def test_extracted_tar_against_plain_upload(
    benchmark: Benchmark, trees: Trees, rounds: int, reach: Reach
) -> None:
    """One tar of 256 MiB, unpacked in the sandbox, beside the same file that stays a file."""
    size = 256 * MIB
    if reason := why_too_little(trees.scratch, 4 * size):
        pytest.skip(reason)
    archive, remote = trees.scratch / "archive.tar", trees.there / "unpacked"
    content = make_tree(trees.scratch / "archive", 256, MIB)
    with tarfile.open(archive, "w") as tar:
        tar.add(content, "archive")
    shutil.rmtree(content)
    pairs = interleaved(
        benchmark,
        lambda: trees.run(remote, do="extract", archive=str(archive), remote="unpacked"),
        lambda: trees.run(do="plain", source=str(archive), remote="plain.tar"),
        rounds=rounds, size=size, against="upload of the same file",
    )  # fmt: skip
    assert len(list(remote.rglob("f*"))) == 256
    archive.unlink()
    (trees.there / "plain.tar").unlink()
    reach("archive-up", pairs.speed_ratio)
