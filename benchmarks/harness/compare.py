"""Two runs side by side, with the noise: `python -m harness.compare BEFORE.json AFTER.json`."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.results import Results, Test, read

_CAUTION: Final = (
    "The noise is what the rounds of one run differ by. A machine that was busier during the whole of one run moves "
    "seconds by more than that, so they need five rounds to be judged (ROUNDS=5), and another pair of runs to be "
    "believed; ratios to a baseline that was measured in turn need three."
)


@dataclass(frozen=True)
class Difference:
    """How one figure changed.

    Attributes:
        name: of the test, and of the figure.
        before: its values, by round.
        after: the same, of the later run.
        more_is_better: whether growth is good.
        paired: whether each value is a ratio of two that were measured side
            by side, so that it holds on a busy machine too.
    """

    name: str
    before: Sequence[float]
    after: Sequence[float]
    more_is_better: bool
    paired: bool = False

    @property
    def ratio(self) -> float:
        """The later median against the earlier one."""
        earlier = statistics.median(self.before)
        return statistics.median(self.after) / earlier if earlier else float("inf")

    @property
    def verdict(self) -> str:
        """What the difference means, as far as the rounds can tell.

        Three rounds and three others lie apart by chance once in ten times; so
        the medians have to differ by more than the rounds of either run do.
        Two runs of the same code differ by so much in every eighth figure that
        is no ratio, by what else the machine did during one of them: those
        take more rounds, and are never laid to the code alone.
        """
        if min(len(self.before), len(self.after)) < (3 if self.paired else 5):
            return "too few rounds to tell"
        noise = max(max(values) - min(values) for values in (self.before, self.after))
        apart = max(self.before) < min(self.after) or max(self.after) < min(self.before)
        if not apart or abs(statistics.median(self.after) - statistics.median(self.before)) <= noise:
            return "inside the noise"
        verdict = "better" if (self.ratio > 1) == self.more_is_better else "WORSE"
        return verdict if self.paired else f"{verdict}, or the machine was"


def differences(before: Results, after: Results) -> Iterator[Difference]:
    """Yield the figures that both runs have.

    Ratios to a baseline come before seconds: they hold from machine to machine.
    """
    earlier = {test.name: test for test in before.tests}
    for test in after.tests:
        if test.name in earlier:
            yield from _of(test.name, earlier[test.name], test)


def _of(name: str, before: Test, after: Test) -> Iterator[Difference]:
    ratios = before.extra.get("speed_ratio"), after.extra.get("speed_ratio")
    if ratios[0] and ratios[1]:
        yield Difference(
            f"{name}: ratio to the baseline", ratios[0], ratios[1], more_is_better=True, paired=True
        )
    yield Difference(f"{name}: seconds", before.seconds, after.seconds, more_is_better=False)
    if before.bytes and before.bytes == after.bytes:
        for process, cpu in before.extra.get("ours_cpu", {}).items():
            later = after.extra.get("ours_cpu", {}).get(process)
            if later:
                yield Difference(f"{name}: CPU s, {process}", cpu, later, more_is_better=False)


def missing(before: Results, after: Results) -> Iterator[str]:
    """Yield a line for each run that lacks benchmarks of the other."""
    names = [{test.name for test in results.tests} for results in (before, after)]
    for which, only in (("before", names[0] - names[1]), ("after", names[1] - names[0])):
        if only:
            yield f"Only in the run {which} ({len(only)}): {', '.join(sorted(only))}"


def compare(before: Results, after: Results) -> str:
    """Return the table as text."""
    if not {test.name for test in before.tests} & {test.name for test in after.tests}:
        return "\n".join(["The runs have no benchmark in common.", *missing(before, after)])
    lines = [
        f"{'figure':<84} {'before':>9} {'after':>9} {'ratio':>6}  least to most, before | after: verdict"
    ]
    if before.settings != after.settings:
        lines.insert(0, f"The runs differ in their options: {before.settings}, {after.settings}")
    if before.machine.get("processor") != after.machine.get("processor"):
        lines.insert(0, "The runs are of different machines: look at ratios to baselines only.")
    for one in differences(before, after):
        spreads = " | ".join(f"{min(values):.3g} to {max(values):.3g}" for values in (one.before, one.after))
        lines.append(
            f"{one.name:<84} {statistics.median(one.before):>9.3g} {statistics.median(one.after):>9.3g} "
            f"{one.ratio:>6.2f}  {spreads}: {one.verdict}"
        )
    return "\n".join([*lines, "", *missing(before, after), _CAUTION])


def main(arguments: Sequence[str]) -> int:
    """Print it."""
    if len(arguments) != 2:
        print("usage: make bench-compare BEFORE=before.json AFTER=after.json", file=sys.stderr)
        return 2
    try:
        print(compare(read(Path(arguments[0])), read(Path(arguments[1]))))
    except (OSError, ValueError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
