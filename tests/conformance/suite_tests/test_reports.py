"""Reports: the results fit their schema, and every rendering shows each failing check."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from conformance.suite_tests.toys import toy
from openshell_files_conformance.case_run import CaseResult
from openshell_files_conformance.checks import CheckResult, Transcript, Verdict
from openshell_files_conformance.config import ConfigError, TargetConfig
from openshell_files_conformance.outcome import Exit, Outcome
from openshell_files_conformance.report.files import write_reports
from openshell_files_conformance.report.html import html
from openshell_files_conformance.report.junit import junit
from openshell_files_conformance.report.lines import failure_lines, summary_lines
from openshell_files_conformance.report.markdown import markdown
from openshell_files_conformance.report.matrix import matrix
from openshell_files_conformance.report.model import (
    RunFacts,
    read_results,
    redacted,
    results_of,
    results_problem,
)

FACTS = RunFacts(
    role="gateway",
    config=TargetConfig(implementation={"name": "<acme>", "version": "1"}),
    command=("openshell-files-conformance", "run", "--target", "gateway", "--command", "a b"),
    selection=(),
    capabilities=frozenset({"lanes"}),
    started=datetime(2026, 1, 2, tzinfo=UTC),
    seconds=1.5,
    jobs=2,
    shuffle=None,
    repeat=1,
)
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"


def result(name: str, verdict: Verdict, clause: str = "UPL-5", **fields: Any) -> CaseResult:
    case = toy(name, clauses=(clause,), **fields)
    transcript = Transcript()
    transcript.sent(f"metadata with {TOKEN}")
    check = CheckResult(case.id, "holds", clause, verdict, "<1> | 2", "\x00 & 3", "")
    return CaseResult(case, (check,), 0.25, tuple(transcript))


ALL = tuple(result(str(verdict), verdict) for verdict in Verdict)
RESULTS = results_of(Outcome(ALL), FACTS)


def test_the_results_fit_their_schema() -> None:
    assert results_problem(RESULTS) == ""
    assert results_problem({**RESULTS, "role": "client"})
    assert results_problem({name: value for name, value in RESULTS.items() if name != "cases"})


def test_every_failing_check_is_printed_with_all_that_is_needed() -> None:
    lines = "\n".join(failure_lines(RESULTS))
    for verdict in Verdict:
        shown = f"gateway/toys/{verdict}:holds" in lines
        assert shown is (verdict not in {Verdict.PASS, Verdict.UNSUPPORTED})
    assert "UPL-5 (MUST) `data.offset` MUST be the number of bytes" in lines
    assert "expected  <1> | 2" in lines
    assert (
        "openshell-files-conformance run --target gateway --command 'a b' --select gateway/toys/fail" in lines
    )
    assert "failure" in list(summary_lines(RESULTS))[-1]


def test_tokens_are_not_published() -> None:
    assert TOKEN[:20] not in json.dumps(RESULTS)
    assert redacted(f"Bearer {TOKEN}!") == "Bearer <token>!"


def test_junit_has_a_test_case_for_each_check() -> None:
    root = ET.fromstring(junit(RESULTS))
    items = root.findall(".//testcase")
    assert len(items) == len(ALL)
    failures = [item for item in items if item.find("failure") is not None]
    assert len(failures) == sum(not verdict.conforms for verdict in Verdict)
    assert len(root.findall(".//skipped")) == 1


def test_the_page_needs_nothing_else_and_has_every_case_and_clause() -> None:
    page = html(RESULTS)
    assert not re.search(r"""(?:src|href)=["'](?!#)|@import|url\(""", page)
    assert "width=device-width" in page
    assert "&lt;acme&gt;" in page
    assert "<acme>" not in page
    for verdict in Verdict:
        assert f'id="gateway/toys/{verdict}"' in page
    assert 'href="#UPL-5"' in page
    assert 'id="UPL-5"' in page


def test_a_table_of_markdown_stays_one() -> None:
    text = markdown(RESULTS)
    assert "<1> \\| 2" in text
    assert "| core | 2 | 6 | 1 |" in text


def test_reports_are_written_and_made_anew(tmp_path: Path) -> None:
    write_reports(RESULTS, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("results.json", "junit.xml", "report.md", "report.html", "transcripts"),
    }
    assert (tmp_path / "transcripts/gateway/toys/fail.txt").read_text().count("metadata") == 1
    assert read_results(tmp_path / "results.json") == RESULTS
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ConfigError):
        read_results(tmp_path / "results.json")


def test_the_matrix_has_a_column_for_each_and_only_what_differs() -> None:
    good = results_of(Outcome((result("a", Verdict.PASS), result("b", Verdict.PASS, "UPL-6"))), FACTS)
    bad = results_of(
        Outcome((result("a", Verdict.FAIL),)),
        dataclasses.replace(FACTS, config=TargetConfig(implementation={"name": "bad"})),
    )
    text = matrix([good, bad])
    assert "| UPL-5 | pass | fail |" in text
    assert "UPL-6" not in text
    assert "| <acme> 1 gateway | success | 2/2 |" in text


@pytest.mark.parametrize(
    ("outcome", "status", "word"),
    [
        (Outcome((result("a", Verdict.PASS),)), Exit.CONFORMS, "success"),
        (Outcome((result("a", Verdict.WARN),)), Exit.CONFORMS, "success"),
        (
            Outcome((result("a", Verdict.PASS), result("b", Verdict.UNSUPPORTED))),
            Exit.CONFORMS,
            "partial",
        ),
        (Outcome((result("a", Verdict.FAIL),)), Exit.NONCONFORMITY, "failure"),
        (Outcome((result("a", Verdict.UNTESTABLE),)), Exit.NONCONFORMITY, "failure"),
        (
            Outcome((result("a", Verdict.FAIL),), expected=frozenset({"gateway/toys/a:holds"})),
            Exit.CONFORMS,
            "failure",
        ),
        (
            Outcome((result("a", Verdict.PASS),), problems=("stale",)),
            Exit.NONCONFORMITY,
            "failure",
        ),
        (
            Outcome((result("a", Verdict.PASS),), unstable=("gateway/toys/a",)),
            Exit.NONCONFORMITY,
            "failure",
        ),
        (Outcome((result("a", Verdict.HARNESS_ERROR), result("b", Verdict.FAIL))), Exit.HARNESS, "failure"),
        (Outcome(()), Exit.HARNESS, "failure"),
        (Outcome((result("a", Verdict.UNSUPPORTED),)), Exit.HARNESS, "failure"),
        (
            Outcome(
                (result("a", Verdict.PASS), result("b", Verdict.UNSUPPORTED, profile="trees")),
                required=("core", "trees"),
            ),
            Exit.NONCONFORMITY,
            "failure",
        ),
    ],
)
def test_what_a_run_comes_to(outcome: Outcome, status: Exit, word: str) -> None:
    assert outcome.exit_status is status
    assert outcome.result == word


def test_a_clause_is_as_bad_as_its_worst_check() -> None:
    results = (
        result("a", Verdict.PASS),
        result("b", Verdict.FAIL),
        result("c", Verdict.PASS, "UPL-6"),
        result("d", Verdict.UNSUPPORTED, "UPL-6"),
        result("e", Verdict.UNSUPPORTED, "UPL-7"),
    )
    assert Outcome(results).clause_verdicts() == {
        "UPL-5": Verdict.FAIL,
        "UPL-6": Verdict.PASS,
        "UPL-7": Verdict.UNSUPPORTED,
    }
