"""Expected failures: an entry that says too much, too little or the wrong thing fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance.suite_tests.toys import toy
from openshell_files_conformance.baseline import Entry, compare, load_baseline, rewritten
from openshell_files_conformance.checks import CheckResult, Verdict
from openshell_files_conformance.config import ConfigError

CASE = toy("one")
OTHER = toy("other")


def result(
    verdict: Verdict = Verdict.FAIL, name: str = "holds", seen: str = "2", case: str = CASE.id
) -> CheckResult:
    return CheckResult(case, name, "UPL-5", verdict, "1", seen)


def problems(*entries: Entry, results: list[CheckResult]) -> list[str]:
    return list(compare(entries, results, [CASE], [CASE, OTHER]).problems)


@pytest.mark.parametrize("pattern", [CASE.id, f"{CASE.id}:holds", "gateway/*:holds", f"{CASE.id}:h*"])
def test_a_failure_that_is_listed_is_expected(pattern: str) -> None:
    comparison = compare([Entry(pattern, "known")], [result()], [CASE], [CASE])
    assert comparison.expected == {f"{CASE.id}:holds"}
    assert comparison.problems == ()


def test_only_what_is_listed_is_expected() -> None:
    comparison = compare(
        [Entry(f"{CASE.id}:holds", "known")], [result(), result(name="other")], [CASE], [CASE]
    )
    assert comparison.expected == {f"{CASE.id}:holds"}


def test_what_passes_is_stale() -> None:
    assert "remove the entry" in problems(Entry(CASE.id, "known"), results=[result(Verdict.PASS)])[0]


def test_one_check_of_a_listed_case_that_passes_is_stale() -> None:
    found = problems(Entry(CASE.id, "known"), results=[result(), result(Verdict.PASS, "other")])
    assert len(found) == 1
    assert "other" in found[0]


@pytest.mark.parametrize("verdict", [Verdict.UNSUPPORTED, Verdict.WARN, Verdict.HARNESS_ERROR])
def test_what_is_no_failure_cannot_be_expected(verdict: Verdict) -> None:
    assert problems(Entry(CASE.id, "known"), results=[result(verdict)])


def test_another_message_is_stale() -> None:
    entry = Entry(CASE.id, "known", message="expected 1, seen 2")
    assert problems(entry, results=[result(seen="2 of them")]) == []
    assert problems(entry, results=[result(seen="3")])


def test_a_check_that_does_not_exist_is_stale() -> None:
    assert problems(Entry(f"{CASE.id}:hold", "known"), results=[result()])


def test_cases_that_were_not_selected_are_not_judged() -> None:
    assert problems(Entry(OTHER.id, "known"), results=[result()]) == []


def test_a_case_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="no such case"):
        problems(Entry("gateway/toys/gone", "known"), results=[])


def test_an_entry_of_more_than_twenty_checks_is_refused() -> None:
    many = [result(name=f"c{number}") for number in range(21)]
    assert problems(Entry(CASE.id, "known"), results=many[:20]) == []
    with pytest.raises(ConfigError, match="21 checks"):
        problems(Entry(CASE.id, "known"), results=many)


@pytest.mark.parametrize(
    "text",
    [
        "[[expected]]\ncheck = 'a'",
        "[[expected]]\ncheck = 'a'\nreason = ' '",
        "[[expected]]\nreason = 'a'",
        "[[expected]]\ncheck = 'a'\nreason = 'b'\nmesage = 'c'",
        "[[expected]]\ncheck = 'a'\nreason = 1",
        "[[expected]]\ncheck = 'a'\nreason = 'b'\n[[expected]]\ncheck = 'a'\nreason = 'c'",
        "[expected]\ncheck = 'a'\nreason = 'b'",
        "expected = ['a']",
        "[[flaky]]\ncheck = 'a'\nreason = 'b'",
        "[[expected",
    ],
)
def test_a_list_that_is_wrong_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "expected.toml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load_baseline(file)


def test_a_list_that_is_written_anew_fits_and_keeps_its_reasons(tmp_path: Path) -> None:
    old = [Entry(f"{CASE.id}:holds", 'a "known" \\ failure', "https://example.org/1")]
    results = [result(), result(name="new"), result(Verdict.PASS, "fine"), result(Verdict.WARN, "slow")]
    file = tmp_path / "expected.toml"
    file.write_text(rewritten(old, results))
    entries = load_baseline(file)
    assert [(entry.check, entry.reason) for entry in entries] == [
        (f"{CASE.id}:holds", 'a "known" \\ failure'),
        (f"{CASE.id}:new", "not looked into yet"),
    ]
    assert entries[0].issue == "https://example.org/1"
    assert compare(entries, results, [CASE], [CASE]).problems == ()
