"""Two results side by side: noise is not called a difference, and what one of them lacks is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from harness.compare import Difference, compare, main
from harness.results import Results
from harness.results import Test as Measurement


def results(**seconds: Sequence[float]) -> Results:
    tests = tuple(Measurement(name, "group", values, {}) for name, values in seconds.items())
    return Results(tests, {}, {}, {}, "")


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([1.0, 1.1], [9.0, 9.1], "too few rounds to tell"),
        ([1.0, 1.1, 1.2], [1.15, 1.3, 1.4], "inside the noise"),
        # Apart, by less than one run differs in itself.
        ([1.0, 1.1, 1.4], [1.41, 1.45, 1.5], "inside the noise"),
        ([1.0, 1.1, 1.2], [2.0, 2.1, 2.2], "WORSE"),
        ([2.0, 2.1, 2.2], [1.0, 1.1, 1.2], "better"),
    ],
)
def test_only_what_is_beyond_the_noise_is_a_difference(
    before: list[float], after: list[float], verdict: str
) -> None:
    assert Difference("ratio", before, after, more_is_better=False, paired=True).verdict == verdict


def test_seconds_take_more_rounds_and_are_not_laid_to_the_code_alone() -> None:
    before, after = [1.0, 1.1, 1.2], [2.0, 2.1, 2.2]
    assert Difference("seconds", before, after, more_is_better=False).verdict == "too few rounds to tell"
    longer = Difference("seconds", [*before, 1.1, 1.1], [*after, 2.1, 2.1], more_is_better=False)
    assert longer.verdict == "WORSE, or the machine was"


def test_more_of_a_ratio_is_better() -> None:
    assert (
        Difference("ratio", [1.0, 1.1, 1.2], [2.0, 2.1, 2.2], more_is_better=True, paired=True).verdict
        == "better"
    )


def test_benchmarks_that_one_run_lacks_are_named() -> None:
    said = compare(results(both=[1.0], gone=[1.0]), results(both=[1.0], new=[1.0], newer=[2.0]))
    assert "Only in the run before (1): gone" in said
    assert "Only in the run after (2): new, newer" in said
    assert "1 to 1 | 1 to 1: too few rounds to tell" in said


def test_runs_with_nothing_in_common_say_so() -> None:
    assert "no benchmark in common" in compare(results(one=[1.0]), results(other=[1.0]))


def test_a_path_where_nothing_is_and_a_file_that_is_no_json_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert main([str(tmp_path / "nowhere.json"), str(broken)]) == 1
    assert f"compare: {tmp_path}/nowhere.json: there is no such file" in capsys.readouterr().err
    assert main([str(broken), str(broken)]) == 1
    assert f"compare: {broken} is not a result" in capsys.readouterr().err
    assert main([str(broken)]) == 2
    assert "BEFORE=before.json AFTER=after.json" in capsys.readouterr().err
