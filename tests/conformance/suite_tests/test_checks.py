"""Checks: what is right, what is recorded, and what a case must not do."""

from __future__ import annotations

import itertools

import pytest
from conformance.suite_tests.toys import context
from openshell_files_conformance.checks import (
    ORDER,
    CaseEndedError,
    Env,
    HarnessError,
    Verdict,
    shown,
    worst,
)


def env() -> Env:
    return Env(context("UPL-5", should=("UPL-23",)))


def verdicts(env: Env) -> dict[str, Verdict]:
    return {result.name: result.verdict for result in env.results}


def test_each_kind_of_expectation_holds_or_not() -> None:
    one = env()
    assert one.check("a", 1, equals=1, clause="UPL-5")
    assert not one.check("b", 1, equals=2, clause="UPL-5")
    assert one.check("c", 1, one_of=(1, 2), clause="UPL-5")
    assert not one.check("d", 3, one_of=(1, 2), clause="UPL-5")
    assert one.check("e", 3, satisfies=("odd", lambda seen: seen % 2), clause="UPL-5")
    assert not one.check("f", 4, satisfies=("odd", lambda seen: seen % 2), clause="UPL-5")
    assert [one.results[index].verdict for index in range(6)] == [Verdict.PASS, Verdict.FAIL] * 3
    assert one.results[1].message == "expected 2, seen 1"
    assert one.results[3].message == "expected one of 1, 2, seen 3"
    assert one.results[5].message == "expected odd, seen 4"


def test_what_cannot_even_be_looked_at_is_not_right() -> None:
    one = env()
    assert not one.check("a", [], satisfies=("a small first", lambda seen: seen[0] < 5), clause="UPL-5")
    assert verdicts(one) == {"a": Verdict.FAIL}
    assert "IndexError" in one.transcript[0].text


def test_none_is_a_value_to_expect() -> None:
    one = env()
    assert one.check("a", None, equals=None, clause="UPL-5")
    assert not one.check("b", 1, equals=None, clause="UPL-5")


def test_a_failure_of_should_is_a_warning() -> None:
    one = env()
    one.check("a", 1, equals=2, clause="UPL-23")
    assert verdicts(one) == {"a": Verdict.WARN}
    assert Verdict.WARN.conforms


def test_a_required_check_ends_the_case() -> None:
    one = env()
    one.require("a", 1, equals=1, clause="UPL-5")
    with pytest.raises(CaseEndedError):
        one.require("b", 1, equals=2, clause="UPL-5")
    assert verdicts(one) == {"a": Verdict.PASS, "b": Verdict.FAIL}


def test_untestable_counts_as_a_failure() -> None:
    one = env()
    one.untestable("a", "no second sandbox", clause="UPL-5")
    assert verdicts(one) == {"a": Verdict.UNTESTABLE}
    assert not Verdict.UNTESTABLE.conforms


def test_only_what_is_not_declared_is_unsupported() -> None:
    one = Env(context("UPL-5", has=("lanes",)))
    one.unsupported("a", "trees", clause="UPL-5")
    assert verdicts(one) == {"a": Verdict.UNSUPPORTED}
    with pytest.raises(HarnessError):
        one.unsupported("b", "lanes", clause="UPL-5")


@pytest.mark.parametrize("clause", ["UPL-6", "upl-5"])
def test_a_clause_that_the_case_does_not_declare_is_an_error(clause: str) -> None:
    with pytest.raises(HarnessError):
        env().check("a", 1, equals=1, clause=clause)


def test_a_name_is_used_once() -> None:
    one = env()
    one.check("a", 1, equals=1, clause="UPL-5")
    with pytest.raises(HarnessError):
        one.check("a", 1, equals=1, clause="UPL-5")


def test_a_check_has_exactly_one_expectation() -> None:
    with pytest.raises(HarnessError):
        env().check("a", 1, clause="UPL-5")
    with pytest.raises(HarnessError):
        env().check("a", 1, equals=1, one_of=(1,), clause="UPL-5")


def test_the_worst_verdict_decides() -> None:
    assert set(ORDER) == set(Verdict)
    for better, worse in itertools.combinations(ORDER, 2):
        assert worst([worse, better]) is worse
    assert worst([]) is Verdict.HARNESS_ERROR


def test_names_differ_between_cases_and_runs() -> None:
    names = [one.fresh_name("x") for one in (env(), env()) for _ in range(2)]
    assert len(set(names)) == 4


def test_long_values_are_shortened() -> None:
    assert len(shown("x" * 10_000)) < 400
    assert "(1000 bytes)" in shown(b"x" * 1000)
    assert shown(Verdict.PASS) == "PASS"


def test_the_transcript_keeps_order_and_direction() -> None:
    one = env()
    one.transcript.sent("metadata")
    one.transcript.received("status")
    one.note("done")
    assert [(event.direction, event.text) for event in one.transcript] == [
        ("->", "metadata"),
        ("<-", "status"),
        ("--", "done"),
    ]
