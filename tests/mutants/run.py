"""Applies each mutant to a copy of the tree, and prints which the tests kill.

    make mutants                       all of them
    make mutants ONLY=uploads,cli      some tables
    make mutants NAME=journal          those whose name contains it
    make mutants SAMPLE=12 SEED=7      a random dozen

A mutant is killed if one of its tests fails. It is not killed by a test that hangs until its
timeout: such a test costs two minutes whenever it is needed, and says nothing about the cause.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from mutants.table import ROOT, Mutant, load, problems

_TEST_FAILED: Final = 1
_PASSED: Final = 0

#: Of one mutant's tests; each test has its own timeout, which is shorter.
_SECONDS: Final = 900.0

_TOO_LONG: Final = "the tests took more than"

#: Output of a test that ended by a timeout.
_HANGING: Final = (_TOO_LONG, "from pytest-timeout")


class Verdict(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "SURVIVED"
    #: No test failed, or only by its timeout.
    HUNG = "HUNG"
    #: The tests could not be run: a node id that does not exist, an import that fails.
    BROKEN = "BROKEN"
    #: It survived, and the table says why.
    EXCUSED = "survived, as the table says"
    #: The table says that it survives, and it does not.
    STALE = "STALE EXCUSE"


_AS_IT_SHOULD: Final = {Verdict.KILLED, Verdict.EXCUSED}


@dataclass(frozen=True, slots=True)
class Result:
    """A mutant's verdict.

    Attributes:
        seconds: that its tests took.
        output: of pytest.
    """

    mutant: Mutant
    verdict: Verdict
    seconds: float
    output: str


class Copy:
    """A copy of the tree, with an environment of its own, in which one mutant after the other is tried.

    The environment is its own because the installed packages lead to the tree that they were installed from.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._applied = 0
        # Beside the copy: what its programs leave goes with it.
        temporary = directory.with_name(f"{directory.name}t")
        temporary.mkdir()
        self._environment = _environment() | {"TMPDIR": str(temporary)}
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
        ).stdout
        for name in filter(None, listed.decode().split("\0")):
            source, target = ROOT / name, directory / name
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        # Some tests ask git for the files of the project.
        subprocess.run(["git", "init", "--quiet"], cwd=directory, check=True)
        subprocess.run(["git", "add", "--all"], cwd=directory, check=True)
        subprocess.run(
            ["make", "--silent", "setup"], cwd=directory, check=True, env=self._environment, stdout=sys.stderr
        )

    def test(self, tests: Iterable[str]) -> tuple[int, str]:
        """Run tests as the tree is; return pytest's exit status and output."""
        command = [".venv/bin/python", "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
        try:
            ran = subprocess.run(
                [*command, *tests],
                cwd=self._directory,
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            return _TEST_FAILED, f"{_TOO_LONG} {error.timeout:g} s"
        return ran.returncode, ran.stdout + ran.stderr

    def judge(self, mutant: Mutant) -> Result:
        """Apply a mutant, run its tests, and take the change back."""
        file = self._directory / mutant.file
        source = file.read_text("utf-8")
        self._write(file, mutant.applied(source))
        started = time.monotonic()
        try:
            status, output = self.test(mutant.tests or [_area_of(mutant)])
        finally:
            self._write(file, source)
        return Result(mutant, _verdict(mutant, status, output), time.monotonic() - started, output)

    def _write(self, file: Path, text: str) -> None:
        """Write a file with a modified time of its own, by which Python tells its bytecode from the last one's."""
        self._applied += 1
        file.write_text(text, "utf-8")
        later = time.time() + self._applied
        os.utime(file, (later, later))


def _verdict(mutant: Mutant, status: int, output: str) -> Verdict:
    if status == _PASSED:
        return Verdict.EXCUSED if mutant.survives else Verdict.SURVIVED
    if status != _TEST_FAILED:
        return Verdict.BROKEN
    if mutant.survives:
        return Verdict.STALE
    return Verdict.HUNG if any(sign in output for sign in _HANGING) else Verdict.KILLED


def _area_of(mutant: Mutant) -> str:
    """Return the tests that an excused mutant is tried with: those of the layers, which are quick."""
    return {"sdk": "tests/sdk", "supervisor_sim": "tests/agent", "gateway": "tests/gateway"}.get(
        mutant.file.partition("/")[0], "tests/protocol"
    )


def _environment() -> dict[str, str]:
    """Return this process's environment, less what would lead a copy's Python back to this tree."""
    return {
        key: value
        for key, value in os.environ.items()
        if key not in {"PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS"}
    }


def judge_all(mutants: Sequence[Mutant], jobs: int) -> list[Result]:
    """Try mutants in `jobs` copies side by side; print each verdict as it comes.

    Raises:
        ValueError: a row does not fit the tree, or a test fails without a mutant.
    """
    if wrong := problems(mutants):
        raise ValueError("\n".join(wrong))
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        copies = [Copy(Path(directory) / str(index)) for index in range(max(1, min(jobs, len(mutants))))]
        sound = sorted({test for mutant in mutants for test in mutant.tests})
        status, output = copies[0].test(sound) if sound else (_PASSED, "")
        if status != _PASSED:
            raise ValueError(f"the tests fail without a mutant:\n{output[-4000:]}")
        waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
        for mutant in mutants:
            waiting.put(mutant)
        results: list[Result] = []
        failures: list[BaseException] = []

        def work(copy: Copy) -> None:
            try:
                while True:
                    results.append(result := copy.judge(waiting.get_nowait()))
                    print(_line(result), flush=True)
            except queue.Empty:
                return
            except BaseException as error:  # noqa: BLE001 - raised below, in the thread that waits
                failures.append(error)

        threads = [threading.Thread(target=work, args=(copy,)) for copy in copies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return results


def wrong_of(results: Iterable[Result]) -> list[Result]:
    """Return the results that must not be."""
    return [result for result in results if result.verdict not in _AS_IT_SHOULD]


def _line(result: Result) -> str:
    return f"{result.verdict:10} {result.mutant.area:12} {result.mutant.name:56} {result.seconds:6.1f} s"


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="tables, separated by commas; all if empty")
    parser.add_argument("--name", default="", help="only mutants whose name contains this")
    parser.add_argument("--sample", type=int, default=0, help="so many at random; 0 for all")
    parser.add_argument("--seed", type=int, default=None, help="of the sample; printed if it was chosen")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="copies side by side")
    options = parser.parse_args()
    mutants = [m for m in load(filter(None, options.only.split(","))) if options.name in m.name]
    if options.sample:
        mutants = sample(mutants, options.sample, options.seed)
    try:
        results = judge_all(mutants, options.jobs)
    except ValueError as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 2
    wrong = wrong_of(results)
    for result in wrong:
        print(f"\n{result.verdict}: {result.mutant.name} ({result.mutant.file})\n{result.output[-1500:]}")
    excused = sum(result.verdict is Verdict.EXCUSED for result in results)
    print(
        f"{len(results)} mutants: {len(results) - len(wrong) - excused} killed, {excused} excused, {len(wrong)} wrong"
    )
    return 1 if wrong else 0


def sample(mutants: Sequence[Mutant], count: int, seed: int | None) -> list[Mutant]:
    """Return so many mutants at random, and print the seed that gives the same ones again."""
    chosen = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    print(f"a sample of {count} mutants; again with SAMPLE={count} SEED={chosen}", flush=True)
    return random.Random(chosen).sample(mutants, min(count, len(mutants)))


if __name__ == "__main__":
    sys.exit(_main())
