"""Checks and their verdicts: what a case finds out, one named statement at a time.

A case records its findings through `Env`. `check` never raises, so that later checks of the case still run; `require` ends the case when what follows
could not mean anything. A check names one clause of the protocol, and the clause decides whether its failure is a nonconformity or a warning
(`clauses.py`); a case cannot decide it.
"""

from __future__ import annotations

import enum
import itertools
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from google.protobuf.message import Message

from openshell_files_conformance.message_text import message_text


class Verdict(enum.StrEnum):
    """What came of a check."""

    PASS = "pass"
    FAIL = "fail"
    #: A clause with SHOULD does not hold.
    WARN = "warn"
    #: A declared option is absent; only what no profile requires may be absent.
    UNSUPPORTED = "unsupported"
    #: The check could not be made, because something that it needs is missing. Counts as a failure: a skip reads as green.
    UNTESTABLE = "untestable"
    #: The target, or a peer, could not be started for this case.
    SETUP_FAILED = "setup-failed"
    #: A case or a required check before this one failed.
    DEPENDENCY_FAILED = "dependency-failed"
    #: The case did not end within its deadline.
    TIMEOUT = "timeout"
    #: The suite itself is wrong; says nothing about the target.
    HARNESS_ERROR = "harness-error"

    @property
    def conforms(self) -> bool:
        """Whether a target with this verdict may still conform."""
        return self in {Verdict.PASS, Verdict.WARN, Verdict.UNSUPPORTED}


#: From the best to the worst; a case, a clause and a run are as bad as their worst check.
ORDER: Final = (
    Verdict.PASS,
    Verdict.UNSUPPORTED,
    Verdict.WARN,
    Verdict.DEPENDENCY_FAILED,
    Verdict.UNTESTABLE,
    Verdict.SETUP_FAILED,
    Verdict.TIMEOUT,
    Verdict.FAIL,
    Verdict.HARNESS_ERROR,
)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the worst of some verdicts; of none, HARNESS_ERROR: nothing was found out."""
    return max(verdicts, key=ORDER.index, default=Verdict.HARNESS_ERROR)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One statement about the target, and whether it holds."""

    case_id: str
    name: str
    clause: str
    verdict: Verdict
    expected: str = ""
    seen: str = ""
    reason: str = ""

    @property
    def id(self) -> str:
        """Name of the check in lists and baselines."""
        return f"{self.case_id}:{self.name}"

    @property
    def message(self) -> str:
        """Say in one line what is wrong; baselines compare its beginning."""
        if self.reason:
            return self.reason
        return f"expected {self.expected}, seen {self.seen}"


Direction = Literal["->", "<-", "--"]


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a transcript."""

    seconds: float
    direction: Direction
    text: str

    def __str__(self) -> str:
        return f"{self.seconds:8.3f} {self.direction} {self.text}"


class Transcript(list[Event]):
    """What happened during a case, in order. Peers append to it; it is shown if the case fails."""

    def __init__(self) -> None:
        super().__init__()
        self._start = time.monotonic()

    def sent(self, text: str) -> None:
        """Note what the suite sent to the target."""
        self._add("->", text)

    def received(self, text: str) -> None:
        """Note what the suite received from the target."""
        self._add("<-", text)

    def note(self, text: str) -> None:
        """Note something else."""
        self._add("--", text)

    def _add(self, direction: Direction, text: str) -> None:
        self.append(Event(time.monotonic() - self._start, direction, text))


class CaseEndedError(Exception):
    """A required check failed, so the rest of the case means nothing. The runner catches it."""


class CannotGoOnError(Exception):
    """The target did something after which the case cannot go on. Peers raise it; what was not checked becomes untestable."""


class HarnessError(Exception):
    """The suite is wrong: a case names a clause that it did not declare, for example."""


class _Missing(enum.Enum):
    MISSING = "missing"


MISSING: Final = _Missing.MISSING


@dataclass(frozen=True, slots=True)
class CaseContext:
    """What the runner tells an environment about the case that it is for."""

    case_id: str
    #: The clauses that the case may name, with the severity of each.
    clauses: dict[str, bool]
    capabilities: frozenset[str] = frozenset()
    time_scale: float = 1.0
    #: Distinguishes the names of this run of this case from those of every other.
    token: str = field(default_factory=lambda: secrets.token_hex(4))


_names = itertools.count(1)


class Env:
    """What every case has, whatever its role: checks, notes, names of its own.

    Environments of the roles are subclasses, which add the peers of the role.

    Attributes:
        transcript: what happened during the case.
        resources: closed when the case is over, however it ends.
        results: the checks so far.
    """

    def __init__(self, context: CaseContext) -> None:
        self.context = context
        self.transcript = Transcript()
        self.resources = AsyncExitStack()
        self.results: list[CheckResult] = []

    async def prepare(self) -> None:
        """Get ready for the case, within its deadline. For subclasses; what fails here is setup-failed."""

    @property
    def case_id(self) -> str:
        """The case's id; every call of the suite carries it in the metadata `x-conformance-case`."""
        return self.context.case_id

    @property
    def capabilities(self) -> frozenset[str]:
        """The options that the target declared."""
        return self.context.capabilities

    def has(self, capability: str) -> bool:
        """Whether the target declared an option."""
        return capability in self.capabilities

    def scaled(self, seconds: float) -> float:
        """Return a time to wait, multiplied by the scale that the implementer configured."""
        return seconds * self.context.time_scale

    def fresh_name(self, stem: str = "file") -> str:
        """Return a name that no other case, and no other run of this one, uses."""
        return f"{stem}-{self.context.token}-{next(_names)}"

    def note(self, text: str) -> None:
        """Write a line into the transcript."""
        self.transcript.note(text)

    def check(
        self,
        name: str,
        seen: Any,
        *,
        clause: str,
        equals: Any = MISSING,
        one_of: Sequence[Any] | _Missing = MISSING,
        satisfies: tuple[str, Callable[[Any], object]] | _Missing = MISSING,
    ) -> bool:
        """Record whether what was seen is what a clause demands.

        Args:
            name: of the check, kebab-case, the same whether it passes or fails.
            seen: what the target did.
            clause: that demands it, declared by the case.
            equals: the only right value, or
            one_of: all right values, or
            satisfies: what is right in words, and a function that says whether a value is.

        Returns:
            Whether the check passed.
        """
        given = [wanted for wanted in (equals, one_of, satisfies) if wanted is not MISSING]
        if len(given) != 1:
            message = f"{self.case_id}:{name} needs exactly one of equals, one_of, satisfies"
            raise HarnessError(message)
        if not isinstance(satisfies, _Missing):
            expected, predicate = satisfies
            passed = self._holds(name, predicate, seen)
        elif not isinstance(one_of, _Missing):
            expected, passed = f"one of {', '.join(map(shown, one_of))}", seen in one_of
        else:
            expected, passed = shown(equals), bool(seen == equals)
        verdict = Verdict.PASS if passed else self._failure(clause)
        self._record(CheckResult(self.case_id, name, clause, verdict, expected, shown(seen)))
        return passed

    def require(
        self,
        name: str,
        seen: Any,
        *,
        clause: str,
        equals: Any = MISSING,
        one_of: Sequence[Any] | _Missing = MISSING,
        satisfies: tuple[str, Callable[[Any], object]] | _Missing = MISSING,
    ) -> None:
        """Record a check like `check`, and end the case if it fails.

        Raises:
            CaseEndedError: the check failed. Declared clauses without a check become dependency-failed.
        """
        if not self.check(name, seen, clause=clause, equals=equals, one_of=one_of, satisfies=satisfies):
            raise CaseEndedError(name)

    def untestable(self, name: str, reason: str, *, clause: str) -> None:
        """Record that a check could not be made, which counts as a failure."""
        self._record(CheckResult(self.case_id, name, clause, Verdict.UNTESTABLE, reason=reason))

    def unsupported(self, name: str, capability: str, *, clause: str) -> None:
        """Record that a check is not made, because the target did not declare a capability.

        Raises:
            HarnessError: the target declared it, so the check has to be made.
        """
        if self.has(capability):
            message = f"{self.case_id}:{name}: the target declared {capability}"
            raise HarnessError(message)
        reason = f"the target does not declare {capability}"
        self._record(CheckResult(self.case_id, name, clause, Verdict.UNSUPPORTED, reason=reason))

    def _holds(self, name: str, predicate: Callable[[Any], object], seen: Any) -> bool:
        """Whether a value is right; one that the function cannot even look at is not."""
        try:
            return bool(predicate(seen))
        except Exception as error:  # noqa: BLE001 - an empty list where the target should have sent something, for example
            self.note(f"{name}: what was seen cannot be looked at: {error!r}")
            return False

    def _failure(self, clause: str) -> Verdict:
        return Verdict.FAIL if self.context.clauses.get(clause, True) else Verdict.WARN

    def _record(self, result: CheckResult) -> None:
        if result.clause not in self.context.clauses:
            message = f"{result.id} names {result.clause}, which the case does not declare"
            raise HarnessError(message)
        if any(result.name == other.name for other in self.results):
            message = f"{result.id} is recorded twice"
            raise HarnessError(message)
        self.results.append(result)
        self.transcript.note(f"check {result.name} ({result.clause}): {result.verdict}")


def shown(value: Any, limit: int = 300) -> str:
    """Return a value as reports show it: short, and bytes by their beginning and number."""
    if isinstance(value, bytes) and len(value) > 64:
        return f"{value[:32]!r}… ({len(value)} bytes)"
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Message):
        text = message_text(value)
    else:
        text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
