"""The tables of mutants fit the tree, and a random dozen is killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutants.run import judge_all, sample, wrong_of
from mutants.table import Mutant, load, problems


def test_every_row_fits_the_tree() -> None:
    """A change of the code that a mutant was made of changes the row, too."""
    assert not problems(load())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"old": "absent"}, "occurs 0 times"),
        ({"old": "a"}, "occurs 2 times"),
        ({"new": "a = 1"}, "changes nothing"),
        ({"new": "a = ("}, "no Python"),
        ({"tests": ("test_it.py::test_other",)}, "there is no test"),
        ({"tests": ("test_none.py::test_it",)}, "there is no test"),
        ({"file": "none.py"}, "none.py"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path: Path, change: dict[str, str], said: str) -> None:
    (tmp_path / "it.py").write_text("a = 1\nb = a\n")
    (tmp_path / "test_it.py").write_text("def test_it() -> None: ...\n")
    fitting = {
        "area": "area",
        "name": "name",
        "file": "it.py",
        "old": "a = 1",
        "new": "a = 2",
        "tests": ("test_it.py::test_it[1]",),
        "survives": "",
    }
    assert not problems([Mutant(**fitting)], tmp_path)  # type: ignore[arg-type] # a table of mixed types
    wrong = problems([Mutant(**(fitting | change))], tmp_path)  # type: ignore[arg-type]
    assert len(wrong) == 1
    assert said in wrong[0]


@pytest.mark.long
def test_a_random_dozen_is_killed() -> None:
    assert not wrong_of(judge_all(sample(load(), 12, None), jobs=2))
