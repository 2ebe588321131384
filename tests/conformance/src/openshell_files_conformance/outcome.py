"""What a run comes to: one result for each case, the state of each clause and profile, and the exit status."""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from openshell_files_conformance.case_run import CaseResult
from openshell_files_conformance.checks import CheckResult, Verdict, worst
from openshell_files_conformance.registry import PROFILES, Profile


class Exit(enum.IntEnum):
    """Exit status of the commands."""

    CONFORMS = 0
    NONCONFORMITY = 1
    USAGE = 2
    NOT_READY = 3
    HARNESS = 4


#: partial: what was run conforms, and something that was asked for is not supported.
Result = Literal["success", "partial", "failure"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run comes to.

    Attributes:
        results: one for each case, in the order of the ids.
        unstable: cases whose repetitions came to different verdicts.
        expected: ids of checks that failed as they were expected to.
        problems: what is wrong with the list of expected failures.
        required: profiles that the target is to pass.
    """

    results: tuple[CaseResult, ...]
    unstable: tuple[str, ...] = ()
    expected: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    missing: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Find required profiles of which nothing could be judged: a target that lacks it all does not pass it."""
        judged = {result.case.profile for result in self.results if result.verdict is not Verdict.UNSUPPORTED}
        selected = {result.case.profile for result in self.results}
        missing = tuple(one for one in self.required if one in selected - judged)
        object.__setattr__(self, "missing", missing)

    @property
    def checks(self) -> list[CheckResult]:
        """All checks."""
        return [check for result in self.results for check in result.checks]

    @property
    def failing(self) -> list[CheckResult]:
        """The checks that fail the run."""
        return [one for one in self.checks if not one.verdict.conforms and one.id not in self.expected]

    @property
    def exit_status(self) -> Exit:
        """The status that the command ends with. An error of the suite outweighs everything: nothing may be trusted."""
        if any(check.verdict is Verdict.HARNESS_ERROR for check in self.checks):
            return Exit.HARNESS
        if not any(self._ran(result) for result in self.results):
            return Exit.HARNESS
        if self.failing or self.problems or self.unstable or self.missing:
            return Exit.NONCONFORMITY
        return Exit.CONFORMS

    @property
    def result(self) -> Result:
        """The word for it in reports."""
        if self.exit_status is not Exit.CONFORMS or self.expected:
            return "failure"
        if any(result.verdict is Verdict.UNSUPPORTED for result in self.results):
            return "partial"
        return "success"

    @staticmethod
    def _ran(result: CaseResult) -> bool:
        return any(check.verdict is not Verdict.UNSUPPORTED for check in result.checks)

    def profiles(self) -> dict[Profile, dict[str, int]]:
        """Return how many cases of each profile passed, failed, and were not supported."""
        numbers: dict[Profile, dict[str, int]] = {}
        for profile in PROFILES:
            verdicts = [result.verdict for result in self.results if result.case.profile == profile]
            if verdicts:
                unsupported = verdicts.count(Verdict.UNSUPPORTED)
                failed = sum(not verdict.conforms for verdict in verdicts)
                numbers[profile] = {
                    "passed": len(verdicts) - unsupported - failed,
                    "failed": failed,
                    "unsupported": unsupported,
                }
        return numbers

    def clause_verdicts(self) -> dict[str, Verdict]:
        """Return the worst verdict of each clause that a check names.

        A clause of which one check is unsupported and another passes has passed.
        """
        found = defaultdict[str, list[Verdict]](list)
        for check in self.checks:
            found[check.clause].append(check.verdict)
        return {
            clause: worst([one for one in verdicts if one is not Verdict.UNSUPPORTED] or verdicts)
            for clause, verdicts in found.items()
        }


def merged(repetitions: Iterable[CaseResult]) -> tuple[tuple[CaseResult, ...], tuple[str, ...]]:
    """Return one result for each case, the worst of its repetitions, and the cases whose repetitions differ."""
    by_case = defaultdict[str, list[CaseResult]](list)
    for result in repetitions:
        by_case[result.case.id].append(result)
    unstable = [name for name, results in by_case.items() if _differ(results)]
    final = [_of_repetitions(by_case[name]) for name in sorted(by_case)]
    return tuple(final), tuple(sorted(unstable))


def _differ(results: Sequence[CaseResult]) -> bool:
    return any(result.outcome != results[0].outcome for result in results)


def _of_repetitions(results: Sequence[CaseResult]) -> CaseResult:
    first_worst = next(one for one in results if one.verdict is worst([each.verdict for each in results]))
    return replace(first_worst, seconds=sum(one.seconds for one in results))
