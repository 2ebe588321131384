"""The bridge to pytest: every case of the suite against the reference, as a test of its own.

A role is judged once, when its first case is asked for; `make conformance` does the same without pytest.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from openshell_files_conformance.config import Overrides, load_config
from openshell_files_conformance.registry import ROLES, RoleName, load_cases
from openshell_files_conformance.report.lines import failure_lines
from openshell_files_conformance.report.model import Results
from openshell_files_conformance.run_command import RunRequest, results_for

REFERENCE = Path(__file__).parents[1] / "adapters" / "reference.toml"
ALL = [(role, name) for role in ROLES for name in load_cases(role)]


@cache
def judged(role: RoleName, out: Path) -> Results:
    # Its command is `python`.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    request = RunRequest(role=role, config_file=REFERENCE, out=out)
    results = asyncio.run(results_for(request, load_config(role, REFERENCE, Overrides(), {})))
    assert results is not None
    return results


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conformance")


def case_of(results: Results, name: str) -> Mapping[str, Any]:
    return next(case for case in results["cases"] if case["id"] == name)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("role", "name"), ALL, ids=[name for _, name in ALL])
def test_the_reference_conforms(role: RoleName, name: str, out: Path) -> None:
    results = judged(role, out)
    case = case_of(results, name)
    if case["verdict"] == "unsupported":
        pytest.skip(case["checks"][0]["reason"])
    assert case["verdict"] == "pass", "\n".join(failure_lines({"cases": [case]}))
