"""Benchmarks of a gateway that runs already: settings that are wrong are named, and what needs its processes is skipped."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from harness.attached import AttachError, attached
from harness_command import benchmarks


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Generator[dict[str, str]]:
    """BENCH_* of a stack that was started by hand."""
    root = tmp_path_factory.mktemp("attached")
    command = Path(sys.executable).with_name("openshell-files-gateway")
    with subprocess.Popen(
        [command, "dev", "--json", "--root", root / "stack"], stdout=subprocess.PIPE, text=True
    ) as stack:
        assert stack.stdout is not None
        said = json.loads(stack.stdout.readline())
        yield {
            "BENCH_ENDPOINT": said["endpoint"],
            "BENCH_TOKEN": said["token"],
            "BENCH_SANDBOX": said["sandboxes"][0]["name"],
        }
        stack.terminate()


def test_what_needs_no_process_of_the_gateway_runs_and_the_rest_says_why_not(
    settings: dict[str, str], tmp_path: Path
) -> None:
    result = tmp_path / "result.json"
    said = benchmarks(
        "benchmarks", "-k", "(test_chunk and upload and 1020) or test_upload_against_bare_tcp",
        f"--benchmark-json={result}", environment=settings,
    )  # fmt: skip
    assert "1 passed, 1 skipped" in said
    assert "unset BENCH_ENDPOINT" in said
    document = json.loads(result.read_text())
    assert document["settings"]["attached_to"] == settings["BENCH_ENDPOINT"]
    assert set(document["benchmarks"][0]["extra_info"]["ours_cpu"]) == {"client"}
    assert settings["BENCH_TOKEN"] not in result.read_text()


def test_a_wrong_setting_ends_the_run_at_once(settings: dict[str, str]) -> None:
    wrong = settings | {"BENCH_SANDBOX": "another"}
    said = benchmarks("benchmarks/test_sweeps.py::test_size", expected=4, environment=wrong)
    assert said.count("BENCH_SANDBOX=another: the gateway") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"BENCH_TOKEN": "abc"}, ("BENCH_TOKEN: ", "does not take it")),
        ({"BENCH_TOKEN": ""}, ("BENCH_TOKEN not. Set BENCH_TOKEN",)),
        ({"BENCH_SANDBOX": "another"}, ("BENCH_SANDBOX=another", "no such sandbox", "BENCH_WORKSPACE")),
        ({"BENCH_WORKSPACE": "other"}, ("BENCH_SANDBOX=demo", "'other'")),
        ({"BENCH_ENDPOINT": "http://127.0.0.1:80"}, ("is not HOST:PORT",)),
        ({"BENCH_TLS_CA": "/nowhere.pem"}, ("BENCH_TLS_CA=/nowhere.pem: there is no such file",)),
    ],
    ids=["token", "no token", "sandbox", "workspace", "endpoint", "authority"],
)
def test_a_wrong_setting_is_named_with_what_to_do(
    settings: dict[str, str], wrong: dict[str, str], expected: tuple[str, ...]
) -> None:
    with pytest.raises(AttachError) as caught, attached(settings | wrong):
        pass
    for text in expected:
        assert text in str(caught.value)
    assert settings["BENCH_TOKEN"] not in str(caught.value)


def test_an_endpoint_where_nobody_listens_is_named(settings: dict[str, str]) -> None:
    with socket.socket() as taken:
        # Bound and not listening: nobody else can listen there meanwhile.
        taken.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AttachError) as caught, attached(settings | {"BENCH_ENDPOINT": endpoint}):
            pass
    assert f"BENCH_ENDPOINT={endpoint}: no gateway answers there" in str(caught.value)
