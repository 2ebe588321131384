"""The command line: exit statuses, selections, and the list that is written anew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from conformance.suite_tests.toys import Body, ToyRole, fails, passes, toy
from openshell_files_conformance import cli, run_command
from openshell_files_conformance.checks import CannotGoOnError, Env
from openshell_files_conformance.registry import Case, RoleName


async def stuck(env: Env) -> None:
    raise CannotGoOnError(env.case_id)


async def wrong(env: Env) -> None:
    raise LookupError(env.case_id)


class Scene:
    """The command line with toys for cases and targets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self.cases: list[Case] = []
        self.role = ToyRole(supports=frozenset({"x"}))
        self.directory = directory

        def load_cases(role: RoleName) -> dict[str, Case]:
            del role
            return {case.id: case for case in self.cases}

        def load_role(name: RoleName) -> ToyRole:
            del name
            return self.role

        monkeypatch.setattr(run_command, "load_cases", load_cases)
        monkeypatch.setattr(run_command, "load_role", load_role)
        monkeypatch.chdir(directory)

    def run(self, *arguments: str, cases: Sequence[Case]) -> int:
        self.cases = list(cases)
        return cli.main(["run", "--target", "gateway", "--command", "toy", *arguments])


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scene:
    return Scene(monkeypatch, tmp_path)


def test_a_target_that_conforms_ends_with_0(scene: Scene) -> None:
    assert scene.run(cases=[toy("a"), toy("b", passes)]) == 0
    results = json.loads((scene.directory / "conformance-results/results.json").read_text())
    assert results["result"] == "success"
    assert [case["id"] for case in results["cases"]] == ["gateway/toys/a", "gateway/toys/b"]


@pytest.mark.parametrize("body", [fails, stuck])
def test_a_target_that_does_not_conform_ends_with_1(
    scene: Scene, body: Body, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scene.run(cases=[toy("a"), toy("b", body)]) == 1
    said = capsys.readouterr().out
    assert "gateway/toys/b" in said
    assert "run --target gateway --command toy --select gateway/toys/b" in said


def test_nothing_selected_ends_with_4(scene: Scene) -> None:
    assert scene.run("--select", "gateway/none", cases=[toy("a")]) == 4
    assert scene.run(cases=[]) == 4
    assert scene.run("--profile", "trees", cases=[toy("a")]) == 4


def test_only_unsupported_cases_end_with_4(scene: Scene) -> None:
    assert scene.run("--select", "*/a", cases=[toy("a", needs=("lanes",))]) == 4


def test_a_profile_that_is_asked_for_and_missing_ends_with_1(scene: Scene) -> None:
    cases = [toy("a"), toy("b", needs=("trees",), profile="trees")]
    assert scene.run(cases=cases) == 0
    assert scene.run("--profile", "core", "--profile", "trees", cases=cases) == 1


def test_an_error_of_the_suite_ends_with_4(scene: Scene) -> None:
    assert scene.run(cases=[toy("a"), toy("b", wrong)]) == 4


def test_a_target_that_is_not_ready_ends_with_3(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.role.broken = True
    assert scene.run(cases=[toy("a")]) == 3
    assert "does not start" in capsys.readouterr().err
    scene.role = ToyRole()
    assert scene.run(cases=[toy("a")]) == 3
    assert "honesty probe" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "--target", "server"],
        ["run", "--target", "gateway", "--jobs", "0"],
        ["run", "--target", "gateway", "--jobs", "many"],
        ["run", "--target", "gateway", "--profile", "most"],
        ["run", "--target", "gateway", "--unknown"],
        ["walk"],
        [],
    ],
)
def test_wrong_arguments_end_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(arguments)
    assert error.value.code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--target", "gateway"],
        ["run", "--target", "gateway", "--config", "none.toml"],
        ["run", "--target", "sdk", "--endpoint", "127.0.0.1:1"],
        ["run", "--target", "gateway", "--command", "x", "--scale", "-1"],
        ["report", "none.json"],
        ["matrix", "none.json"],
    ],
)
def test_a_wrong_configuration_ends_with_2(scene: Scene, arguments: list[str]) -> None:
    del scene
    assert cli.main(arguments) == 2


def test_expected_failures_from_start_to_end(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """A list is written, holds, and is stale when the failure is gone."""
    bad, good = [toy("a"), toy("b", fails)], [toy("a"), toy("b")]
    flags = ("--expected-failures", "expected.toml")
    assert scene.run(*flags, cases=bad) == 2
    assert scene.run(*flags, "--update-baseline", "--select", "*/b", cases=bad) == 2
    assert scene.run("--update-baseline", cases=bad) == 2
    assert scene.run(*flags, "--update-baseline", cases=bad) == 0
    assert scene.run(*flags, cases=bad) == 0
    capsys.readouterr()
    assert scene.run(*flags, cases=good) == 1
    assert "STALE" in capsys.readouterr().out
    assert scene.run(*flags, "--select", "*/a", cases=good) == 0
    assert scene.run(*flags, cases=[toy("a")]) == 2


def test_flags_reach_the_run(scene: Scene) -> None:
    cases = [toy("a"), toy("b", launch={"x": 1})]
    assert (
        scene.run("--jobs", "1", "--shuffle", "7", "--repeat", "2", "--isolate", "--out", "o", cases=cases)
        == 0
    )
    timing = json.loads((scene.directory / "o/results.json").read_text())["timing"]
    assert timing == {"scale": 1.0, "jobs": 1, "shuffle": 7, "repeat": 2}
    # The probe, and each case twice.
    assert len(scene.role.launches) == 5


def test_reports_can_be_made_anew(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.run(cases=[toy("a", fails)])
    results = "conformance-results/results.json"
    page = scene.directory / "conformance-results/report.html"
    written = page.read_text()
    page.unlink()
    assert cli.main(["report", results]) == 0
    assert page.read_text() == written
    capsys.readouterr()
    assert cli.main(["matrix", results, results]) == 0
    assert "| UPL-5 | fail | fail |" in capsys.readouterr().out


def test_everything_an_implementer_needs_is_written(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "kit"]) == 0
    kit = scene.directory / "kit"
    for name in (
        "proto/openshell/v1/files.proto",
        "vectors/trees/names.json",
        "schemas/launcher.json",
        "guides/messages.md",
    ):
        assert (kit / name).stat().st_size > 0
    assert "- **UPL-5** (MUST) `data.offset` MUST be" in (kit / "clauses.md").read_text()
    assert cli.main(["export", "kit"]) == 2
    assert "not empty" in capsys.readouterr().err
