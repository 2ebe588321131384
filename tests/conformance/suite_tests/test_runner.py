"""Selections: launches that are shared, dependencies, order, places, and targets that cannot be had."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conformance.suite_tests.toys import ToyRole, ToyTarget, fails, passes, toy
from openshell_files_conformance import runner
from openshell_files_conformance.case_run import CaseResult
from openshell_files_conformance.checks import CannotGoOnError, Env, HarnessError, Verdict
from openshell_files_conformance.config import TargetConfig
from openshell_files_conformance.outcome import merged
from openshell_files_conformance.registry import Case
from openshell_files_conformance.runner import Options, Runner
from openshell_files_conformance.target.launch import TargetNotReadyError

SHARED = Options(probe=False)


async def run(
    tmp_path: Path, cases: Sequence[Case], role: ToyRole | None = None, options: Options = SHARED
) -> list[CaseResult]:
    seen = list[CaseResult]()
    runner = Runner(role or ToyRole(), TargetConfig(), options, tmp_path, seen.append)
    results = await runner.run(cases)
    assert len(seen) == len(results)
    return results


def verdicts(results: Sequence[CaseResult]) -> dict[str, Verdict]:
    return {result.case.id.rpartition("/")[2]: result.verdict for result in results}


async def test_cases_with_equal_settings_share_a_target(tmp_path: Path) -> None:
    role = ToyRole()
    cases = [
        toy("a"),
        toy("b"),
        toy("c", launch={"x": 1, "y": 2}),
        toy("d", launch={"y": 2, "x": 1}),
        toy("e", launch={"x": 2}),
    ]
    await run(tmp_path, cases, role)
    assert sorted(map(str, role.launches)) == sorted(map(str, [{}, {"x": 1, "y": 2}, {"x": 2}]))


async def test_a_case_that_is_alone_and_isolated_cases_have_their_own(tmp_path: Path) -> None:
    role = ToyRole()
    await run(tmp_path, [toy("a"), toy("b"), toy("c", alone=True)], role)
    assert len(role.launches) == 2
    role = ToyRole()
    await run(tmp_path, [toy("a"), toy("b")], role, Options(isolate=True, probe=False))
    assert len(role.launches) == 2
    assert role.running == 0


async def test_jobs_bound_the_cases_that_run(tmp_path: Path) -> None:
    running = most = 0

    async def body(env: Env) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1
        env.check("holds", 1, equals=1, clause="UPL-5")

    cases = [toy(f"c{number}", body, launch={"x": number % 3}) for number in range(30)]
    await run(tmp_path, cases, options=Options(jobs=3, probe=False))
    assert most == 3
    most = 0
    role = ToyRole()
    await run(tmp_path, cases, role, Options(jobs=1, probe=False))
    assert most == role.most == 1


@pytest.mark.parametrize("together", [True, False])
async def test_what_depends_on_a_failure_is_dependent(tmp_path: Path, *, together: bool) -> None:
    """Whether both share a target or not."""
    ran = list[str]()

    async def body(env: Env) -> None:
        ran.append(env.case_id)
        raise CannotGoOnError

    first = toy("z-first", fails)
    second = toy("a-second", body, depends_on=(first.id,), launch={} if together else {"x": 1})
    results = await run(tmp_path, [second, first])
    assert verdicts(results) == {"a-second": Verdict.DEPENDENCY_FAILED, "z-first": Verdict.FAIL}
    assert bool(ran) is not together


async def test_a_dependency_that_is_not_selected_is_not_waited_for(tmp_path: Path) -> None:
    results = await run(tmp_path, [toy("second", depends_on=("gateway/toys/first",))])
    assert verdicts(results) == {"second": Verdict.PASS}


async def test_many_dependent_cases_end_with_one_place(tmp_path: Path) -> None:
    cases = [toy("c0")]
    cases += [toy(f"c{number}", depends_on=(cases[0].id,)) for number in range(1, 10)]
    random.Random(1).shuffle(cases)
    results = await run(tmp_path, cases, options=Options(jobs=1, probe=False))
    assert {result.verdict for result in results} == {Verdict.PASS}


async def test_every_order_gives_the_same_verdicts(tmp_path: Path) -> None:
    cases = [toy("a"), toy("b", fails), toy("c", depends_on=("gateway/toys/b",)), toy("d", launch={"x": 1})]
    found = [
        verdicts(await run(tmp_path, cases, options=Options(shuffle=seed, probe=False)))
        for seed in (None, 1, 2, 3)
    ]
    assert all(one == found[0] for one in found)


async def test_repetitions_that_differ_are_unstable(tmp_path: Path) -> None:
    outcomes = iter([1, 2, 1])

    async def body(env: Env) -> None:
        env.check("holds", next(outcomes), equals=1, clause="UPL-5")

    results = await run(tmp_path, [toy("a", body), toy("b")], options=Options(repeat=3, probe=False))
    assert len(results) == 6
    final, unstable = merged(results)
    assert unstable == ("gateway/toys/a",)
    assert verdicts(final) == {"a": Verdict.FAIL, "b": Verdict.PASS}


async def test_a_setting_that_the_target_lacks_leaves_its_cases_out(tmp_path: Path) -> None:
    role = ToyRole(supports=frozenset())
    results = await run(tmp_path, [toy("a"), toy("b", launch={"x": 1})], role, Options())
    assert verdicts(results) == {"a": Verdict.PASS, "b": Verdict.UNSUPPORTED}


async def test_a_launch_that_fails_fails_its_cases(tmp_path: Path) -> None:
    role = ToyRole(broken=frozenset({"x"}))
    results = await run(tmp_path, [toy("a"), toy("b", launch={"x": 1})], role)
    assert verdicts(results) == {"a": Verdict.PASS, "b": Verdict.SETUP_FAILED}


async def test_a_target_that_never_starts_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(TargetNotReadyError, match="does not start"):
        await run(tmp_path, [toy("a")], ToyRole(broken=True))


async def test_a_launcher_that_agrees_to_everything_is_not_believed(tmp_path: Path) -> None:
    with pytest.raises(TargetNotReadyError, match="honesty probe"):
        await run(tmp_path, [toy("a")], ToyRole(), Options())


async def test_the_target_is_stopped_when_a_case_is_wrong(tmp_path: Path) -> None:
    async def body(env: Env) -> None:
        raise LookupError(env.case_id)

    role = ToyRole()
    results = await run(tmp_path, [toy("a", body), toy("b", passes)], role)
    assert verdicts(results) == {"a": Verdict.HARNESS_ERROR, "b": Verdict.PASS}
    assert role.running == 0


async def test_a_target_that_does_not_start_or_stop_does_not_hold_the_run_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stuck(ToyRole):
        def __init__(self, *, at_the_start: bool) -> None:
            super().__init__()
            self.at_the_start = at_the_start

        @contextlib.asynccontextmanager
        async def start(
            self, config: TargetConfig, settings: Mapping[str, Any], run_dir: Path
        ) -> AsyncGenerator[ToyTarget]:
            async with super().start(config, settings, run_dir) as target:
                if self.at_the_start:
                    await asyncio.Event().wait()
                yield target
                await asyncio.Event().wait()

    monkeypatch.setattr(runner, "STOPPING_SECONDS", 0.05)
    config = TargetConfig(ready_timeout=0.01)
    for at_the_start, error in ((True, TargetNotReadyError), (False, HarnessError)):
        one = Runner(Stuck(at_the_start=at_the_start), config, SHARED, tmp_path, lambda _: None)
        with pytest.raises(error):
            await one.run([toy("a")])
