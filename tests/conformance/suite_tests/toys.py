"""Cases, targets and a role that need no network, for tests of the runner."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openshell_files_conformance.checks import CaseContext, Env
from openshell_files_conformance.config import TargetConfig
from openshell_files_conformance.registry import Case, Profile, RoleName
from openshell_files_conformance.target.launch import TargetNotReadyError, UnsupportedLaunchError

Body = Callable[[Env], Awaitable[None]]


async def passes(env: Env) -> None:
    env.check("holds", 1, equals=1, clause="UPL-5")


async def fails(env: Env) -> None:
    env.check("holds", 2, equals=1, clause="UPL-5")


def toy(name: str, run: Body = passes, *, clauses: tuple[str, ...] = ("UPL-5",), **fields: Any) -> Case:
    """Return a case that is not registered."""
    role: RoleName = "gateway"
    profile: Profile = fields.pop("profile", "core")
    return Case(f"gateway/toys/{name}", role, profile, f"Tries {name}.", clauses, run, **fields)


def context(*clauses: str, should: tuple[str, ...] = (), has: tuple[str, ...] = ()) -> CaseContext:
    """Return the context of a case that may name some clauses."""
    severities = {**dict.fromkeys(clauses, True), **dict.fromkeys(should, False)}
    return CaseContext("gateway/toys/one", severities, frozenset(has))


class ToyTarget:
    """A target without a process."""

    def __init__(self, capabilities: frozenset[str] = frozenset()) -> None:
        self.capabilities = capabilities

    def env(self, context: CaseContext) -> Env:
        return Env(context)


@dataclass
class ToyRole:
    """A role whose targets are started and stopped in the test's process.

    Attributes:
        supports: settings that a launch may have; without it, all of them.
        broken: settings whose launch does not become ready; `True` for every launch.
        running: how many targets run, and
        most: have run at the same time.
    """

    supports: frozenset[str] | None = None
    broken: frozenset[str] | bool = False
    capabilities: frozenset[str] = frozenset()
    launches: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    running: int = 0
    most: int = 0

    @contextlib.asynccontextmanager
    async def start(
        self, config: TargetConfig, settings: Mapping[str, Any], run_dir: Path
    ) -> AsyncGenerator[ToyTarget]:
        assert os.access(run_dir, os.W_OK)
        del config
        self.launches.append(settings)
        unknown = settings.keys() - (self.supports if self.supports is not None else settings.keys())
        if unknown:
            raise UnsupportedLaunchError(", ".join(sorted(unknown)))
        if self.broken is True or (self.broken and self.broken & settings.keys()):
            raise TargetNotReadyError("does not start")
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            yield ToyTarget(self.capabilities)
        finally:
            self.running -= 1
