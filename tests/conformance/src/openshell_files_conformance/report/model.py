"""The results of a run as one JSON value; every report is made from it."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, cast

from jsonschema import Draft202012Validator

from openshell_files_conformance.case_run import CaseResult
from openshell_files_conformance.checks import CheckResult
from openshell_files_conformance.clauses import clauses, revision
from openshell_files_conformance.config import ConfigError, TargetConfig
from openshell_files_conformance.outcome import Outcome
from openshell_files_conformance.registry import RoleName

#: Version of the results' format.
FORMAT: Final = 1
DISTRIBUTION: Final = "openshell-files-conformance"
Results = Mapping[str, Any]
#: A JSON web token, or the beginning of one that was cut off.
_TOKEN: Final = re.compile(r"eyJ[\w-]{8,}(?:\.[\w-]*){0,2}")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run besides its outcome.

    Attributes:
        command: the arguments that run the same again, without a selection.
        selection: patterns; empty if everything was run.
    """

    role: RoleName
    config: TargetConfig
    command: tuple[str, ...]
    selection: tuple[str, ...]
    capabilities: frozenset[str]
    started: datetime
    seconds: float
    jobs: int
    shuffle: int | None
    repeat: int

    def alone(self, case_id: str) -> str:
        """Return the command that runs one case by itself."""
        return shlex.join([*self.command, "--select", case_id])


def results_of(outcome: Outcome, facts: RunFacts) -> Results:
    """Return the results of a run as they are written to `results.json`."""
    return {
        "format": FORMAT,
        "suite": {"name": DISTRIBUTION, "version": version(DISTRIBUTION), "protocol": revision()},
        "implementation": dict(facts.config.implementation),
        "role": facts.role,
        "result": outcome.result,
        "exit_status": int(outcome.exit_status),
        "started": facts.started.astimezone(UTC).isoformat(timespec="seconds"),
        "seconds": round(facts.seconds, 3),
        "reproduce": shlex.join(facts.command),
        "selection": list(facts.selection),
        "timing": {
            "scale": facts.config.scale,
            "jobs": facts.jobs,
            "shuffle": facts.shuffle,
            "repeat": facts.repeat,
        },
        "capabilities": sorted(facts.capabilities),
        "required_profiles": list(outcome.required),
        "missing_profiles": list(outcome.missing),
        "profiles": outcome.profiles(),
        "counts": dict(Counter(str(check.verdict) for check in outcome.checks)),
        "stale": list(outcome.problems),
        "unstable": list(outcome.unstable),
        "clauses": _clauses(outcome),
        "cases": [_case(result, outcome, facts) for result in outcome.results],
    }


def _clauses(outcome: Outcome) -> list[dict[str, str]]:
    verdicts = outcome.clause_verdicts()
    return [
        {
            "id": clause.id,
            "level": clause.level,
            "section": clause.section,
            "text": clause.text,
            "verdict": str(verdicts[clause.id]),
        }
        for clause in clauses().values()
        if clause.id in verdicts
    ]


def _case(result: CaseResult, outcome: Outcome, facts: RunFacts) -> dict[str, Any]:
    case = result.case
    fields: dict[str, Any] = {
        "id": case.id,
        "profile": case.profile,
        "summary": case.summary,
        "verdict": str(result.verdict),
        "seconds": round(result.seconds, 3),
        "launch": dict(case.launch),
        "reproduce": facts.alone(case.id),
        "checks": [_check(check, outcome) for check in result.checks],
    }
    if not result.verdict.conforms:
        fields["transcript"] = [redacted(str(event)) for event in result.transcript]
    return fields


def _check(check: CheckResult, outcome: Outcome) -> dict[str, Any]:
    return {
        "name": check.name,
        "clause": check.clause,
        "level": clauses()[check.clause].level,
        "verdict": str(check.verdict),
        "expected": redacted(check.expected),
        "seen": redacted(check.seen),
        "reason": redacted(check.reason),
        "expected_failure": check.id in outcome.expected,
    }


def redacted(text: str) -> str:
    """Return the text without tokens: results are meant to be published."""
    return _TOKEN.sub("<token>", text)


def read_results(file: Path) -> Results:
    """Read results that a run wrote.

    Raises:
        ConfigError: the file is none of them.
    """
    try:
        value = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: {error}") from error
    problem = results_problem(value)
    if problem:
        raise ConfigError(f"{file}: {problem}")
    return cast(Results, value)


def results_problem(value: Any) -> str:
    """Say in what results do not fit their schema; nothing if they fit."""
    text = files("openshell_files_conformance").joinpath("schemas", "results.json").read_text("utf-8")
    validator: Any = Draft202012Validator(json.loads(text))
    error = next(validator.iter_errors(value), None)
    return f"{'.'.join(map(str, error.path))}: {error.message}" if error else ""
