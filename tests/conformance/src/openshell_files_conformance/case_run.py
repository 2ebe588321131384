"""Running one case: its deadline, and what becomes of clauses that it did not get to."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import grpc

from openshell_files_conformance.checks import (
    CannotGoOnError,
    CaseContext,
    CaseEndedError,
    CheckResult,
    Env,
    Event,
    Verdict,
    worst,
)
from openshell_files_conformance.clauses import clauses
from openshell_files_conformance.registry import Case
from openshell_files_conformance.roles import Target
from openshell_files_conformance.target.launch import TargetError

#: How long the peers of a case may take to close, in seconds.
CLOSING_SECONDS = 5.0
#: What a target can do to a case that did not expect it. Everything else is an error of the suite.
_BY_THE_TARGET = (CannotGoOnError, grpc.RpcError, TargetError, OSError, EOFError)


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What came of a case, or of one repetition of it."""

    case: Case
    checks: tuple[CheckResult, ...]
    seconds: float = 0.0
    transcript: tuple[Event, ...] = field(default=(), repr=False)

    @property
    def verdict(self) -> Verdict:
        """The worst of its checks."""
        return worst([check.verdict for check in self.checks])

    @property
    def outcome(self) -> list[tuple[str, Verdict]]:
        """What a repetition must come to as well."""
        return sorted((check.name, check.verdict) for check in self.checks)


def without_running(case: Case, verdict: Verdict, reason: str) -> CaseResult:
    """Return the result of a case that was not run: the same for each of its clauses."""
    return CaseResult(case, _for_clauses(case, case.clauses, verdict, reason))


def _for_clauses(
    case: Case, missing: Sequence[str], verdict: Verdict, reason: str
) -> tuple[CheckResult, ...]:
    return tuple(CheckResult(case.id, one.lower(), one, verdict, reason=reason) for one in missing)


async def run_case(case: Case, target: Target, scale: float) -> CaseResult:
    """Run a case against a target.

    Args:
        case: what to run.
        target: that is ready.
        scale: multiplies its deadline.
    """
    absent = sorted(set(case.needs) - target.capabilities)
    if absent:
        reason = f"the target does not declare {', '.join(absent)}"
        return without_running(case, Verdict.UNSUPPORTED, reason)
    table = clauses()
    severities = {one: table[one].binding for one in case.clauses}
    start = time.monotonic()
    env = target.env(CaseContext(case.id, severities, target.capabilities, scale))
    end = await _within_deadline(case, env, scale)
    missing = [one for one in case.clauses if all(check.clause != one for check in env.results)]
    checks = (*env.results, *_for_clauses(case, missing, end.verdict, end.reason))
    if not missing and not end.on_record:
        checks += (CheckResult(case.id, "to-the-end", case.clauses[0], end.verdict, reason=end.reason),)
    return CaseResult(case, checks, time.monotonic() - start, tuple(env.transcript))


class _End(NamedTuple):
    """How a case ended, and so what its unchecked clauses come to.

    Attributes:
        on_record: the checks say already why it ended so, if it did not end well.
    """

    verdict: Verdict
    reason: str
    on_record: bool = False


async def _within_deadline(case: Case, env: Env, scale: float) -> _End:
    """Run the case, close its peers, and return what its unchecked clauses come to."""
    deadline = asyncio.timeout(case.timeout * scale)
    try:
        async with deadline:
            outcome = await _prepared_and_run(case, env)
    except TimeoutError:
        if not deadline.expired():
            raise
        outcome = _End(Verdict.TIMEOUT, f"the case did not end within {case.timeout * scale:g} s")
    try:
        async with asyncio.timeout(CLOSING_SECONDS * scale):
            await env.resources.aclose()
    except asyncio.CancelledError:
        if _cancelled_from_outside():
            raise
        env.note("closing the peers: a peer waited for a call that it had cancelled")
    except Exception as error:  # noqa: BLE001 - a peer's end must not hide what the case found out
        env.note(f"closing the peers: {error!r}")
    return outcome


async def _prepared_and_run(case: Case, env: Env) -> _End:
    try:
        await env.prepare()
    except _BY_THE_TARGET as error:
        return _End(Verdict.SETUP_FAILED, f"the peers of the case could not be set up: {said(error)}")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the suite's
        return _unexpected(env, error)
    try:
        await case.run(env)
    except CaseEndedError as error:
        return _End(Verdict.DEPENDENCY_FAILED, f"the case ended with its check {error}", on_record=True)
    except TimeoutError as error:
        # Not the case's deadline: an answer that a peer waited for did not come.
        return _End(Verdict.UNTESTABLE, f"the case could not go on: waited in vain {error}".rstrip())
    except _BY_THE_TARGET as error:
        return _End(Verdict.UNTESTABLE, f"the case could not go on: {said(error)}")
    except asyncio.CancelledError as error:
        if _cancelled_from_outside():
            raise
        # It waited for a call that it had cancelled itself.
        return _unexpected(env, error)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the suite's
        return _unexpected(env, error)
    failed = [check.name for check in env.results if not check.verdict.conforms]
    if failed:
        # Such as `if env.check(...):`, with further checks below it.
        return _End(Verdict.DEPENDENCY_FAILED, f"not checked after {failed[0]} failed", on_record=True)
    return _End(
        Verdict.HARNESS_ERROR, "the case declares this clause and checks nothing of it", on_record=True
    )


def _cancelled_from_outside() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _unexpected(env: Env, error: BaseException) -> _End:
    env.note("".join(traceback.format_exception(error)))
    failed = [check.name for check in env.results if not check.verdict.conforms]
    if failed:
        # The case took for granted what the check found missing.
        reason = f"after {failed[0]} failed the case could not go on: {type(error).__name__}"
        return _End(Verdict.DEPENDENCY_FAILED, reason, on_record=True)
    return _End(Verdict.HARNESS_ERROR, f"error in the suite: {type(error).__name__}: {error}")


def said(error: BaseException) -> str:
    """Return an error in a line: the status of a call, or its type and text."""
    if isinstance(error, grpc.Call):
        return f"a call ended with {error.code().name}: {error.details()}"
    if isinstance(error, grpc.aio.AioRpcError):
        return f"a call ended with {error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {error}"


def as_dependent(result: CaseResult, failed: str) -> CaseResult:
    """Return the result with its failures put down to a case that it depends on."""
    reason = f"{failed} fails, which this case depends on"
    return replace(
        result,
        checks=tuple(
            check
            if check.verdict.conforms or check.verdict is Verdict.HARNESS_ERROR
            else replace(check, verdict=Verdict.DEPENDENCY_FAILED, reason=f"{reason}; {check.message}")
            for check in result.checks
        ),
    )
