"""The benchmark harness runs: one pair at the smallest size, its JSON, table, report and comparison. No figure is judged."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from harness import results
from harness.report_charts import throughput
from harness.rounds import Spread
from harness.sshd import NoSshError, sshd
from harness.targets import TARGETS, table
from harness_command import benchmarks, run

SWEEPS = {"test_first_byte", "test_size", "test_chunk"}

#: What differs from the first point of its sweep only in a number.
MORE_POINTS = (
    *(f"test_small_files.py::test_first_byte[{size}]" for size in ("1 MiB", "64 MiB")),
    *(
        f"test_sweeps.py::test_size[{way}-{size}]"
        for way in ("upload", "download")
        for size in ("1 KiB", "64 KiB")
    ),
    *(
        f"test_sweeps.py::test_chunk[{way}-{size} KiB]"
        for way in ("upload", "download")
        for size in (32, 64, 128, 256, 512)
    ),
)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Result file and what was printed, of one pair."""
    result = tmp_path_factory.mktemp("results") / "result.json"
    said = benchmarks(
        "benchmarks/test_against_limits.py", "-k", "cpu and upload", f"--benchmark-json={result}", mib=4
    )
    return result, said


def test_a_pair_gives_figures_and_a_table(outcome: tuple[Path, str]) -> None:
    result, said = outcome
    document = json.loads(result.read_text())
    assert set(document["targets"]) == {"gateway-cpu"}
    assert document["settings"] == {"large_mib": 4, "rounds": 1}
    extra = document["benchmarks"][0]["extra_info"]
    assert extra["bytes"] == 4 << 20
    assert len(extra["ours_seconds"]) == len(extra["baseline_seconds"]) == 1
    assert set(extra["ours_cpu"]) == {"client", "gateway", "supervisor"}
    assert "gateway CPU per GiB against one-hop gRPC" in said


def test_the_report_is_one_file_with_everything(outcome: tuple[Path, str], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    run("-m", "harness.report", str(outcome[0]), str(page))
    text = page.read_text()
    for title in ("Targets", "Ours beside its floors", "All benchmarks", "The machine and the settings"):
        assert f"<h2>{title}</h2>" in text
    document = json.loads(outcome[0].read_text())
    assert document["commit_info"]["id"][:12] in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("grpc.http2", "")
    for part in text.split("<svg")[1:]:
        ET.fromstring("<svg" + part.partition("</svg>")[0] + "</svg>")


def test_a_run_compared_with_itself_says_that_it_cannot_tell(outcome: tuple[Path, str]) -> None:
    said = run("-m", "harness.compare", str(outcome[0]), str(outcome[0]))
    assert "too few rounds to tell" in said
    assert "better" not in said
    assert "WORSE" not in said


@pytest.mark.parametrize("module", ["report", "compare"])
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, module: str) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    said = run("-m", f"harness.{module}", str(other), str(other), expected=1)
    assert "is not a result" in said


def test_without_ssh_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoSshError, match="apt install openssh-server openssh-client"), sshd():
        pass


@pytest.mark.parametrize(
    "left_out",
    [
        pytest.param(MORE_POINTS, id="a point of each sweep"),
        pytest.param((), id="every point", marks=pytest.mark.long),
    ],
)
def test_everything_of_bench_quick_runs(tmp_path: Path, left_out: tuple[str, ...]) -> None:
    """As `make bench-quick MIB=1 ROUNDS=1`; nothing is skipped but the files that are larger."""
    deselected = [f"--deselect={point}" for point in left_out]
    said = benchmarks(
        "benchmarks", "-m", "quick", *deselected, f"--benchmark-json={tmp_path}/quick.json", seconds=600
    )
    assert "failed" not in said
    ran = {one["fullname"] for one in json.loads((tmp_path / "quick.json").read_text())["benchmarks"]}
    assert not ran & set(left_out)
    assert {name.partition("::")[2].partition("[")[0] for name in ran} >= SWEEPS
    page = tmp_path / "quick.html"
    run("-m", "harness.report", f"{tmp_path}/quick.json", str(page))
    assert page.stat().st_size > 0


def test_what_was_not_run_is_said_with_the_command_that_runs_it(
    outcome: tuple[Path, str], tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    run("-m", "harness.report", str(outcome[0]), str(page))
    text = page.read_text()
    assert "<li>Memory over time: <code>make bench K=test_memory</code></li>" in text
    assert "<h2>Memory over time</h2>" not in text
    assert "<h2>Ours beside what people use today</h2>" not in text
    assert "not run</td>" not in text
    titles, bodies = zip(*(part.split("</h2>", 1) for part in text.split("<h2>")[1:]), strict=True)
    assert [
        title for title, body in zip(titles, bodies, strict=True) if "<td" not in body and "<svg" not in body
    ] == []


def test_no_throughput_is_shown_of_a_byte() -> None:
    small, large = (
        results.Test(
            f"test_size[upload-{size}]",
            "sizes",
            [0.1],
            {"bytes": size, "point": {"chart": "file size", "series": "upload", "x": size}},
        )
        for size in (1, 1 << 20)
    )
    both, only = throughput([small, large], "file size"), throughput([small], "file size")
    assert "<circle" in both
    assert both.count("<circle") == 1
    assert "<svg" not in only
    assert "100" in only


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_targets_fit_the_terminal(width: int) -> None:
    reached = dict.fromkeys(TARGETS, Spread(9.0, 9.0, 9.0, 1))
    assert max(map(len, table(reached, 1024, width).splitlines())) <= max(width, 72)


def test_targets_that_were_not_run_are_counted_and_not_listed() -> None:
    said = table({"ssh-up": Spread(9.0, 9.0, 9.0, 1)})
    assert f"{len(TARGETS) - 1} more figures were not run" in said
    assert "not run" not in said.replace("were not run", "")


def test_the_targets_are_the_last_that_is_printed(outcome: tuple[Path, str]) -> None:
    _, said = outcome
    assert said.rstrip().splitlines()[-1].endswith("`make bench-targets` runs them all.")
    assert "Rounds" not in said


def test_a_target_of_1_gib_is_not_judged_at_another_size() -> None:
    reached = {"ssh-up": Spread(9.0, 9.0, 9.0, 1), "small-exec": Spread(9.0, 9.0, 9.0, 1)}
    large, small = (table(reached, mib).splitlines() for mib in (1024, 64))
    assert large[1].startswith("ok ")
    assert "1 GiB upload" in large[1]
    assert small[1].startswith("? ")
    assert "64 MiB upload" in small[1]
    assert any(line.startswith("ok ") and "1 KiB: write_bytes" in line for line in small)
