"""Expected failures: a list that cannot rot.

    [[expected]]
    check = "gateway/upload/offset-gap:status"   # or a case, for all of its checks; `*` stands for anything
    reason = "the staging area counts from the last flush"
    issue = "https://…/issues/12"                # optional
    message = "expected OFFSET_MISMATCH"         # optional: how the failure's message must begin

An entry fails the run if what it names passes, fails with another message, was not made, or does not exist. An entry of more than
twenty checks is refused. The list is written anew by `run --update-baseline`, after a whole run only.
"""

from __future__ import annotations

import fnmatch
import json
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from openshell_files_conformance.checks import CheckResult, Verdict
from openshell_files_conformance.config import ConfigError
from openshell_files_conformance.registry import Case

#: How many checks an entry may stand for: a wider one would hide what it was not written for.
WIDEST: Final = 20
_FIELDS: Final = frozenset({"check", "reason", "issue", "message"})


@dataclass(frozen=True, slots=True)
class Entry:
    """A failure that is expected, or several of them."""

    check: str
    reason: str
    issue: str = ""
    message: str = ""

    @property
    def case_pattern(self) -> str:
        """The part of the pattern that names the case."""
        return self.check.partition(":")[0]

    def names(self, result: CheckResult) -> bool:
        """Whether the entry is about a check."""
        case_pattern, _, check_pattern = self.check.partition(":")
        return fnmatch.fnmatchcase(result.case_id, case_pattern) and fnmatch.fnmatchcase(
            result.name, check_pattern or "*"
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a list says about a run.

    Attributes:
        expected: ids of checks that failed as they were expected to.
        problems: why the list is wrong, a line each.
    """

    expected: frozenset[str]
    problems: tuple[str, ...]


def load_baseline(file: Path) -> list[Entry]:
    """Read a list of expected failures.

    Raises:
        ConfigError: it cannot be read, or an entry is not as it must be.
    """
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error
    if tables.keys() - {"expected"} or not isinstance(tables.get("expected", []), list):
        raise ConfigError(f"{file}: nothing but [[expected]] may be in it")
    entries = [_entry(file, fields) for fields in tables.get("expected", [])]
    repeated = {one.check for one in entries if sum(one.check == other.check for other in entries) > 1}
    if repeated:
        raise ConfigError(f"{file}: {', '.join(sorted(repeated))} is listed twice")
    return entries


def _entry(file: Path, given: Any) -> Entry:
    if not isinstance(given, dict):
        raise ConfigError(f"{file}: an entry is a table: {given}")
    fields = cast(dict[str, str], given)
    if not all(isinstance(value, str) for value in cast(dict[str, object], given).values()):
        raise ConfigError(f"{file}: an entry has texts only: {fields}")
    unknown = fields.keys() - _FIELDS
    if unknown:
        raise ConfigError(f"{file}: an entry has no field {', '.join(sorted(unknown))}")
    if not fields.get("check") or not fields.get("reason", "").strip():
        raise ConfigError(f"{file}: an entry needs check and reason: {fields}")
    return Entry(**fields)


def compare(
    entries: Sequence[Entry], results: Sequence[CheckResult], selected: Iterable[Case], known: Iterable[Case]
) -> Comparison:
    """Compare a list with the checks of a run.

    Args:
        entries: the list.
        results: all checks of the run.
        selected: cases that were run; entries of others are not judged.
        known: all cases of the role.

    Raises:
        ConfigError: an entry names no case, or more than twenty checks.
    """
    selected_ids, known_ids = [one.id for one in selected], [one.id for one in known]
    expected, problems = set[str](), list[str]()
    for entry in entries:
        if not fnmatch.filter(known_ids, entry.case_pattern):
            raise ConfigError(f"expected failure {entry.check}: there is no such case")
        if not fnmatch.filter(selected_ids, entry.case_pattern):
            continue
        named = [result for result in results if entry.names(result)]
        if len(named) > WIDEST:
            raise ConfigError(
                f"expected failure {entry.check} is of {len(named)} checks; {WIDEST} are the most"
            )
        if not named:
            problems.append(f"stale: {entry.check}: there is no such check, or it was not made")
        for result in named:
            problem = _problem(entry, result)
            if problem:
                problems.append(f"stale: {result.id}: {problem}")
            else:
                expected.add(result.id)
    return Comparison(frozenset(expected), tuple(problems))


def _problem(entry: Entry, result: CheckResult) -> str:
    if result.verdict is Verdict.HARNESS_ERROR:
        return "the suite is wrong there, which is nothing to expect"
    if result.verdict is Verdict.UNSUPPORTED:
        return f"is expected to fail ({entry.reason}), and was not made: {result.reason}"
    if result.verdict is Verdict.WARN:
        return "is a warning, which need not be expected"
    if result.verdict is Verdict.PASS:
        return f"is expected to fail ({entry.reason}), and passes: remove the entry"
    if not result.message.startswith(entry.message):
        return f"is expected to fail with {entry.message!r}, and fails with {result.message!r}"
    return ""


def rewritten(entries: Sequence[Entry], results: Sequence[CheckResult]) -> str:
    """Return the list that fits a run: what fails stays with its reason, or gets one to be written."""
    failing = [
        one for one in results if not one.verdict.conforms and one.verdict is not Verdict.HARNESS_ERROR
    ]
    lines = ["# Checks that are expected to fail. An entry that does not fail any more fails the run.\n"]
    for result in failing:
        old = next((entry for entry in entries if entry.names(result)), None)
        fields = {"check": result.id, "reason": old.reason if old else "not looked into yet"}
        if old and old.issue:
            fields["issue"] = old.issue
        # TOML's basic strings are JSON's.
        lines.append("[[expected]]")
        lines += [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
        lines.append("")
    return "\n".join(lines)
