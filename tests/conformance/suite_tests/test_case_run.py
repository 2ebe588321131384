"""One case: its deadline, and what its unchecked clauses come to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest
from conformance.suite_tests.toys import ToyTarget, fails, passes, toy
from openshell_files_conformance.case_run import CaseResult, as_dependent, run_case
from openshell_files_conformance.checks import CannotGoOnError, CaseContext, Env, Verdict

TWO = ("UPL-5", "UPL-6")


def outcome(result: CaseResult) -> dict[str, Verdict]:
    return {check.name: check.verdict for check in result.checks}


async def run(
    body: Callable[[Env], Awaitable[None]], clauses: tuple[str, ...] = TWO, seconds: float = 5
) -> CaseResult:
    return await run_case(toy("one", body, clauses=clauses, timeout=seconds), ToyTarget(), 1.0)


async def test_what_was_checked_stands() -> None:
    assert outcome(await run(passes, ("UPL-5",))) == {"holds": Verdict.PASS}
    assert outcome(await run(fails, ("UPL-5",))) == {"holds": Verdict.FAIL}


async def test_a_clause_that_is_declared_and_not_checked_is_an_error_of_the_suite() -> None:
    assert outcome(await run(passes)) == {"holds": Verdict.PASS, "upl-6": Verdict.HARNESS_ERROR}


async def test_what_is_left_out_after_a_failed_check_is_dependent() -> None:
    async def body(env: Env) -> None:
        if env.check("first", 1, equals=2, clause="UPL-5"):
            env.check("second", 1, equals=1, clause="UPL-6")

    assert outcome(await run(body)) == {"first": Verdict.FAIL, "upl-6": Verdict.DEPENDENCY_FAILED}


async def test_what_follows_a_failed_requirement_is_dependent() -> None:
    async def body(env: Env) -> None:
        env.require("first", 1, equals=2, clause="UPL-5")

    assert outcome(await run(body)) == {"first": Verdict.FAIL, "upl-6": Verdict.DEPENDENCY_FAILED}


async def test_a_case_that_does_not_end_has_run_out_of_time() -> None:
    async def body(env: Env) -> None:
        env.check("holds", 1, equals=1, clause="UPL-5")
        await asyncio.Event().wait()

    assert outcome(await run(body, seconds=0.05)) == {"holds": Verdict.PASS, "upl-6": Verdict.TIMEOUT}
    assert outcome(await run(body, ("UPL-5",), seconds=0.05)) == {
        "holds": Verdict.PASS,
        "to-the-end": Verdict.TIMEOUT,
    }


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (CannotGoOnError("no answer"), Verdict.UNTESTABLE),
        (
            grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata(), "x"),
            Verdict.UNTESTABLE,
        ),
        (ConnectionResetError("gone"), Verdict.UNTESTABLE),
        (EOFError("gone"), Verdict.UNTESTABLE),
        (TimeoutError("for a frame"), Verdict.UNTESTABLE),
        (KeyError("x"), Verdict.HARNESS_ERROR),
        (AssertionError("x"), Verdict.HARNESS_ERROR),
        (asyncio.CancelledError(), Verdict.HARNESS_ERROR),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
async def test_who_is_to_blame_for_an_exception(error: BaseException, verdict: Verdict) -> None:
    async def body(env: Env) -> None:
        env.check("holds", 1, equals=1, clause="UPL-5")
        raise error

    assert outcome(await run(body)) == {"holds": Verdict.PASS, "upl-6": verdict}
    assert outcome(await run(body, ("UPL-5",))) == {"holds": Verdict.PASS, "to-the-end": verdict}


async def test_what_a_case_takes_for_granted_after_a_failed_check_is_no_error_of_the_suite() -> None:
    async def body(env: Env) -> None:
        env.check("header", None, equals="header", clause="UPL-5")
        raise AssertionError

    assert outcome(await run(body)) == {"header": Verdict.FAIL, "upl-6": Verdict.DEPENDENCY_FAILED}
    assert outcome(await run(body, ("UPL-5",))) == {"header": Verdict.FAIL}


async def test_a_capability_that_is_not_declared_leaves_the_case_out() -> None:
    case = toy("one", needs=("lanes",))
    assert (await run_case(case, ToyTarget(), 1.0)).verdict is Verdict.UNSUPPORTED
    assert (await run_case(case, ToyTarget(frozenset({"lanes"})), 1.0)).verdict is Verdict.PASS


async def test_peers_are_closed_however_the_case_ends() -> None:
    closed = list[str]()

    async def body(env: Env) -> None:
        env.resources.callback(closed.append, "peer")
        raise CannotGoOnError

    await run(body)
    assert closed == ["peer"]


@pytest.mark.parametrize("error", [RuntimeError("peer"), asyncio.CancelledError()])
async def test_a_peer_that_cannot_be_closed_does_not_hide_what_was_found(error: BaseException) -> None:
    def broken() -> None:
        raise error

    async def body(env: Env) -> None:
        env.resources.callback(broken)
        env.check("holds", 1, equals=1, clause="UPL-5")

    result = await run(body, ("UPL-5",))
    assert result.verdict is Verdict.PASS
    assert "peer" in result.transcript[-1].text


async def test_preparation_that_fails_is_of_the_setup() -> None:
    class Unprepared(Env):
        async def prepare(self) -> None:
            raise CannotGoOnError("no session")

    class Target(ToyTarget):
        def env(self, context: CaseContext) -> Env:
            return Unprepared(context)

    assert (await run_case(toy("one"), Target(), 1.0)).verdict is Verdict.SETUP_FAILED


async def test_a_failure_is_put_down_to_the_dependency_and_a_pass_is_not() -> None:
    dependent = as_dependent(await run(fails, ("UPL-5",)), "gateway/toys/first")
    assert dependent.verdict is Verdict.DEPENDENCY_FAILED
    assert "gateway/toys/first" in dependent.checks[0].message
    assert as_dependent(await run(passes, ("UPL-5",)), "gateway/toys/first").verdict is Verdict.PASS
