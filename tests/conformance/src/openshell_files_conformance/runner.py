"""Running a selection of cases: targets are started once per launch configuration, and cases run beside each other.

A case whose dependency failed is not run if both belong to one launch. If they do not, it runs, and its failures are put down to the
dependency afterwards: so the verdicts do not depend on the order in which launches happen to run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openshell_files_conformance.case_run import CaseResult, as_dependent, run_case, said, without_running
from openshell_files_conformance.checks import HarnessError, Verdict
from openshell_files_conformance.config import TargetConfig
from openshell_files_conformance.registry import Case
from openshell_files_conformance.roles import Role, Target
from openshell_files_conformance.target.launch import (
    TargetError,
    TargetNotReadyError,
    UnsupportedLaunchError,
)

#: How long a target, with everything around it, may take to stop.
STOPPING_SECONDS = 60.0
Report = Callable[[CaseResult], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How a selection is run.

    Attributes:
        jobs: cases that run at the same time.
        shuffle: seed of the order; without it, cases run in the order of their ids.
        repeat: how often each case is run.
        isolate: every case gets a target of its own.
        probe: whether the launcher is asked for a setting that does not exist, before anything else.
    """

    jobs: int = 4
    shuffle: int | None = None
    repeat: int = 1
    isolate: bool = False
    probe: bool = True


@dataclass(slots=True)
class Launch:
    """Cases that share a target."""

    number: int
    settings: Mapping[str, Any]
    cases: list[Case] = field(default_factory=list[Case])


def launches(cases: Sequence[Case], options: Options) -> list[Launch]:
    """Group cases by the target that they can share, in the order of their first case."""
    groups: dict[str, Launch] = {}
    for case in cases:
        own = case.id if case.alone or options.isolate else ""
        key = json.dumps([case.launch, own], sort_keys=True)
        groups.setdefault(key, Launch(len(groups), case.launch)).cases.append(case)
    return list(groups.values())


class Runner:
    """Runs cases of one role against its target.

    Args:
        role: that is judged.
        config: of its target.
        options: how.
        run_dir: directory for what launches write.
        progress: is told each result as soon as it is there.

    Attributes:
        capabilities: that the target declared; known when the first launch was ready.
    """

    def __init__(
        self, role: Role, config: TargetConfig, options: Options, run_dir: Path, progress: Report
    ) -> None:
        self._progress = progress
        self._role = role
        self._config = config
        self._options = options
        self._run_dir = run_dir
        self._places = asyncio.Semaphore(options.jobs)
        # A target takes a core while it starts, so few of them are started beside each other.
        self._targets = asyncio.Semaphore(1 if options.jobs == 1 else max(2, options.jobs // 4))
        self.capabilities: frozenset[str] = frozenset()
        self._ready = False
        self._why_not = ""

    async def run(self, cases: Sequence[Case]) -> list[CaseResult]:
        """Run cases and return their results, one for each repetition.

        Args:
            cases: the selection.

        Raises:
            TargetNotReadyError: the target never became ready, or cannot be believed.
        """
        if self._options.probe:
            await self._probe()
        results = list[CaseResult]()
        for repetition in range(self._options.repeat):
            results += await self._once(cases, repetition)
        if not self._ready:
            raise TargetNotReadyError(self._why_not or "no launch was tried")
        return results

    async def _probe(self) -> None:
        """Ask for a setting that does not exist. A launcher that agrees would agree to every setting."""
        setting = f"zq_{secrets.token_hex(2)}_frobnicate"
        try:
            async with self._started({setting: 1}, self._directory("probe")):
                pass
        except UnsupportedLaunchError:
            return
        except TargetNotReadyError as error:
            raise TargetNotReadyError(f"honesty probe: {error}") from error
        raise TargetNotReadyError(
            f"honesty probe: the launcher agreed to the made-up setting {setting}; it must answer unsupported"
        )

    @contextlib.asynccontextmanager
    async def _started(self, settings: Mapping[str, Any], directory: Path) -> AsyncGenerator[Target]:
        """Start a target, and stop it in the end; neither may take for ever."""
        stack = contextlib.AsyncExitStack()
        starting = asyncio.timeout(2 * self._config.ready_timeout * self._config.scale + STOPPING_SECONDS)
        try:
            async with starting:
                target = await stack.enter_async_context(self._role.start(self._config, settings, directory))
        except TimeoutError:
            if starting.expired():
                raise TargetNotReadyError("the target and its surroundings did not start in time") from None
            raise
        try:
            yield target
        finally:
            try:
                async with asyncio.timeout(STOPPING_SECONDS):
                    await stack.aclose()
            except TimeoutError:
                raise HarnessError("the target and its surroundings did not stop in time") from None

    def _directory(self, name: str) -> Path:
        directory = self._run_dir / name
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    async def _once(self, cases: Sequence[Case], repetition: int) -> list[CaseResult]:
        order = list(cases)
        if self._options.shuffle is not None:
            random.Random(self._options.shuffle + repetition).shuffle(order)
        groups = launches(order, self._options)
        # The largest first, so that the last to end is a small one.
        groups.sort(key=lambda launch: -len(launch.cases))
        found = await asyncio.gather(*(self._launch(launch, repetition) for launch in groups))
        failed = {result.case.id for results in found for result in results if not result.verdict.conforms}
        merged = list[CaseResult]()
        for result in (one for results in found for one in results):
            blamed = next((other for other in result.case.depends_on if other in failed), None)
            merged.append(as_dependent(result, blamed) if blamed else result)
        return sorted(merged, key=lambda result: result.case.id)

    async def _launch(self, launch: Launch, repetition: int) -> list[CaseResult]:
        """Start a target, run the cases of the launch, and stop it."""
        directory = self._directory(f"launch-{repetition}-{launch.number}")
        async with self._targets:
            try:
                async with self._started(launch.settings, directory) as target:
                    self._ready = True
                    self.capabilities = target.capabilities
                    return await self._run_all(launch.cases, target)
            except UnsupportedLaunchError as error:
                self._why_not = self._why_not or f"the target cannot be launched: {error}"
                # A target that cannot be launched even without settings is not one without an option.
                verdict = Verdict.UNSUPPORTED if launch.settings else Verdict.SETUP_FAILED
                reason = f"the target cannot be launched with {error}"
            except TargetError as error:
                self._why_not = str(error)
                verdict, reason = Verdict.SETUP_FAILED, said(error)
        results = [without_running(case, verdict, reason) for case in launch.cases]
        for result in results:
            self._progress(result)
        return results

    async def _run_all(self, cases: Sequence[Case], target: Target) -> list[CaseResult]:
        over: dict[str, asyncio.Future[CaseResult]] = defaultdict(asyncio.get_running_loop().create_future)
        here = {case.id for case in cases}

        async def one(case: Case) -> CaseResult:
            # Waits before it takes a place, so that the dependency finds one.
            failed = [
                other
                for other in case.depends_on
                if other in here and not (await asyncio.shield(over[other])).verdict.conforms
            ]
            if failed:
                reason = f"{failed[0]} fails, which this case depends on"
                result = without_running(case, Verdict.DEPENDENCY_FAILED, reason)
            else:
                async with self._places:
                    result = await run_case(case, target, self._config.scale)
            self._progress(result)
            return result

        async def told(case: Case) -> CaseResult:
            """Run a case, and let those that depend on it go on, whatever becomes of it."""
            try:
                over[case.id].set_result(result := await one(case))
            except BaseException:
                over[case.id].cancel()
                raise
            return result

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(told(case)) for case in cases]
        return [task.result() for task in running]
