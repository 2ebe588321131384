"""The cases: what there is to run, found by role, profile and pattern.

    @case("gateway/upload/offset-gap", profile="core", clauses=("UPL-5",), depends_on=("gateway/upload/one-chunk",))
    async def offset_gap(env: GatewayEnv) -> None:
        '''A chunk that skips bytes is refused.'''

An id is `role/area/behaviour` in kebab-case. It is never used again for something else, so that lists of expected failures stay true.
"""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import pkgutil
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final, Literal, TypeVar, cast, get_args

from openshell_files_conformance.checks import CannotGoOnError as CannotGoOnError  # noqa: PLC0414 - cases import all from here
from openshell_files_conformance.checks import CaseContext as CaseContext  # noqa: PLC0414
from openshell_files_conformance.checks import CaseEndedError as CaseEndedError  # noqa: PLC0414
from openshell_files_conformance.checks import Env as Env  # noqa: PLC0414
from openshell_files_conformance.checks import HarnessError as HarnessError  # noqa: PLC0414
from openshell_files_conformance.clauses import clauses

RoleName = Literal["gateway", "supervisor", "sdk"]
ROLES: Final[tuple[RoleName, ...]] = get_args(RoleName)
Profile = Literal["rfc", "core", "resume", "trees", "archives", "auth", "relay", "lanes"]
PROFILES: Final[tuple[Profile, ...]] = get_args(Profile)

_ID = re.compile(r"(?:gateway|supervisor|sdk)(?:/[a-z0-9]+(?:-[a-z0-9]+)*){2}")
_CLAUSE = re.compile(r"[A-Z]{3}-\d+")


@dataclass(frozen=True, slots=True)
class Case:
    """One behaviour that is tried, with the clauses that its checks may name.

    Attributes:
        needs: capabilities without which the case is unsupported.
        depends_on: cases whose failure makes this one meaningless.
        launch: settings of the target; cases with equal settings share one.
        alone: the case stops, floods or exhausts its target, so it has one of its own.
        timeout: in seconds, before the implementer's scale.
    """

    id: str
    role: RoleName
    profile: Profile
    summary: str
    clauses: tuple[str, ...]
    run: Callable[[Any], Awaitable[None]] = field(repr=False, compare=False)
    needs: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    launch: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    alone: bool = False
    timeout: float = 20.0

    @property
    def area(self) -> str:
        """The middle part of the id."""
        return self.id.split("/")[1]


_cases: dict[str, Case] = {}
AnyEnv = TypeVar("AnyEnv", bound=Env)


def case(
    case_id: str,
    *,
    profile: Profile,
    clauses: Sequence[str],
    needs: Sequence[str] = (),
    depends_on: Sequence[str] = (),
    launch: Mapping[str, Any] | None = None,
    alone: bool = False,
    timeout: float = 20.0,
) -> Callable[[Callable[[AnyEnv], Awaitable[None]]], Callable[[AnyEnv], Awaitable[None]]]:
    """Register the decorated coroutine function as a case.

    Raises:
        HarnessError: the id, a clause or the docstring is not as it must be.
    """

    def register(run: Callable[[AnyEnv], Awaitable[None]]) -> Callable[[AnyEnv], Awaitable[None]]:
        problem = _problem(case_id, clauses, run.__doc__)
        if problem:
            raise HarnessError(f"{case_id}: {problem}")
        _cases[case_id] = Case(
            id=case_id,
            role=cast(RoleName, case_id.split("/", maxsplit=1)[0]),
            profile=profile,
            summary=inspect.cleandoc(run.__doc__ or "").split("\n\n")[0].replace("\n", " "),
            clauses=tuple(clauses),
            run=run,
            needs=tuple(needs),
            depends_on=tuple(depends_on),
            launch=dict(launch or {}),
            alone=alone,
            timeout=timeout,
        )
        return run

    return register


def _problem(case_id: str, clauses: Sequence[str], docstring: str | None) -> str:
    if not _ID.fullmatch(case_id):
        return "an id is role/area/behaviour in kebab-case"
    if case_id in _cases:
        return "the id is used twice"
    if not clauses or not all(_CLAUSE.fullmatch(clause) for clause in clauses):
        return "needs clauses, such as UPL-5"
    if len(set(clauses)) != len(clauses):
        return "names a clause twice"
    if not docstring:
        return "needs a docstring that says what it tries"
    return ""


def load_cases(role: RoleName | None = None) -> dict[str, Case]:
    """Import the modules of cases, and return the cases by id.

    Args:
        role: whose cases are wanted; without it, all.
    """
    for name in ROLES if role is None else (role,):
        package = importlib.import_module(f"openshell_files_conformance.cases.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    found = {key: value for key, value in sorted(_cases.items()) if role in {None, value.role}}
    _verify(found)
    return found


def _verify(cases: Mapping[str, Case]) -> None:
    """Raise HarnessError if a case names what does not exist, or depends on itself."""
    table = clauses()
    for one in cases.values():
        unknown = [clause for clause in one.clauses if clause not in table]
        unknown += [other for other in one.depends_on if other not in cases]
        if unknown:
            raise HarnessError(f"{one.id} names {', '.join(unknown)}, which does not exist")
    try:
        # Raises CycleError, whatever the order is used for.
        TopologicalSorter({one.id: one.depends_on for one in cases.values()}).prepare()
    except CycleError as error:
        raise HarnessError(f"cases depend on themselves: {' → '.join(error.args[1])}") from error


def matching(cases: Iterable[Case], patterns: Sequence[str]) -> list[Case]:
    """Return the cases whose id, or the name of a check in it, one of the patterns fits; without patterns, all.

    A pattern is an id in which `*` stands for anything, the beginning of an id up to a slash, or a clause.
    """
    if not patterns:
        return list(cases)
    return [one for one in cases if any(fits(one, pattern) for pattern in patterns)]


def fits(one: Case, pattern: str) -> bool:
    """Whether a pattern chooses a case."""
    wanted = pattern.partition(":")[0].rstrip("/")
    if _CLAUSE.fullmatch(wanted):
        return wanted in one.clauses
    return fnmatch.fnmatchcase(one.id, wanted) or one.id.startswith(f"{wanted}/")
