"""The command `run`: from the configuration to the reports."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from openshell_files_conformance import coverage
from openshell_files_conformance.baseline import Comparison, compare, load_baseline, rewritten
from openshell_files_conformance.case_run import CaseResult
from openshell_files_conformance.config import ConfigError, Overrides, TargetConfig, load_config
from openshell_files_conformance.outcome import Exit, Outcome, merged
from openshell_files_conformance.registry import Case, RoleName, load_cases, matching
from openshell_files_conformance.report.files import write_reports
from openshell_files_conformance.report.lines import failure_lines, summary_lines
from openshell_files_conformance.report.model import DISTRIBUTION, Results, RunFacts, results_of
from openshell_files_conformance.roles import load_role
from openshell_files_conformance.runner import Options, Runner


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What the command line asks for."""

    role: RoleName
    config_file: Path | None = None
    overrides: Overrides = field(default_factory=Overrides)
    patterns: tuple[str, ...] = ()
    quick: bool = False
    update_baseline: bool = False
    transcripts: bool = True
    out: Path = Path("conformance-results")
    options: Options = field(default_factory=Options)

    @property
    def partial(self) -> bool:
        """Whether less is run than what the configuration says."""
        return bool(self.patterns or self.quick or self.overrides.profiles)

    def command(self) -> tuple[str, ...]:
        """Return the arguments that ask for the same target."""
        words = [DISTRIBUTION, "run", "--target", self.role]
        overrides = self.overrides
        for flag, value in (
            ("--config", self.config_file),
            ("--command", overrides.command),
            ("--endpoint", overrides.endpoint),
            ("--scale", overrides.scale),
            ("--expected-failures", overrides.expected_failures),
        ):
            if value:
                words += [flag, str(value)]
        for profile in overrides.profiles:
            words += ["--profile", profile]
        return tuple(words)


def selected(
    cases: Iterable[Case], profiles: Sequence[str], patterns: Sequence[str], *, quick: bool
) -> list[Case]:
    """Return the cases of the profiles that the patterns choose; without profiles, of all of them."""
    chosen = [case for case in matching(cases, patterns) if not profiles or case.profile in profiles]
    return coverage.quick(chosen) if quick else chosen


async def judge(request: RunRequest) -> Exit:
    """Judge an implementation, print what is wrong, write the reports, and return the exit status.

    Raises:
        ConfigError: the configuration or the list of expected failures is wrong.
        TargetNotReadyError: the target could not be judged at all.
        HarnessError: the suite is wrong.
    """
    config = load_config(request.role, request.config_file, request.overrides)
    results = await results_for(request, config)
    if results is None:
        sys.stderr.write("nothing is selected, so nothing was found out\n")
        return Exit.HARNESS
    write_reports(results, request.out)
    for line in (*failure_lines(results, transcripts=request.transcripts), *summary_lines(results)):
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"reports: {request.out}\n")
    return Exit(results["exit_status"])


async def results_for(request: RunRequest, config: TargetConfig) -> Results | None:
    """Run the selection and return its results; nothing if nothing is selected."""
    known = list(load_cases(request.role).values())
    chosen = selected(known, config.profiles, request.patterns, quick=request.quick)
    if not chosen:
        return None
    baseline = _baseline_file(request, config)
    entries = load_baseline(baseline) if baseline and baseline.exists() else []
    # Refuses entries of cases that do not exist, before anything is run.
    compare(entries, [], [], known)

    run_dir = (request.out / "launches").resolve()
    if run_dir.exists():
        shutil.rmtree(run_dir)
    started, start = datetime.now(UTC), time.monotonic()
    runner = Runner(
        load_role(request.role), config, request.options, run_dir, _Progress(chosen, request.options)
    )
    final, unstable = merged(await runner.run(chosen))
    checks = [check for result in final for check in result.checks]
    if request.update_baseline and baseline:
        baseline.write_text(rewritten(entries, checks), "utf-8")
        entries = load_baseline(baseline)
    comparison = compare(entries, checks, chosen, known) if entries else Comparison(frozenset(), ())
    outcome = Outcome(
        final,
        unstable,
        comparison.expected,
        comparison.problems,
        required=() if request.patterns else config.profiles,
    )
    facts = RunFacts(
        role=request.role,
        config=config,
        command=request.command(),
        selection=(*request.patterns, *(("quick",) if request.quick else ())),
        capabilities=runner.capabilities,
        started=started,
        seconds=time.monotonic() - start,
        jobs=request.options.jobs,
        shuffle=request.options.shuffle,
        repeat=request.options.repeat,
    )
    return results_of(outcome, facts)


def _baseline_file(request: RunRequest, config: TargetConfig) -> Path | None:
    file = config.expected_failures
    if request.update_baseline:
        if file is None:
            raise ConfigError("--update-baseline needs a file: set expected_failures")
        if request.partial:
            raise ConfigError("--update-baseline needs a whole run, without --select, --quick and --profile")
    elif file and not file.exists():
        raise ConfigError(f"{file} does not exist")
    return file


class _Progress:
    """Counts cases on a terminal."""

    def __init__(self, cases: Sequence[Case], options: Options) -> None:
        self._all = len(cases) * options.repeat
        self._done = 0

    def __call__(self, result: CaseResult) -> None:
        self._done += 1
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{self._done}/{self._all} {result.case.id:<60.60}")
            sys.stderr.write("\n" if self._done == self._all else "")
            sys.stderr.flush()
