"""Does the suite notice an implementation that does nothing?

Two of them exist for each role (`nothing/`): one that refuses everything, and one that says yes to everything and does nothing. The first is not
ready; the second is caught by the honesty probe and, without the probe, fails the cases. A case that it passes must be in
`requirements/nothing.toml`, with a reason; `*` in an entry stands for anything.
"""

from __future__ import annotations

import fnmatch
import shlex
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from openshell_files_conformance.config import Overrides, TargetConfig, load_config
from openshell_files_conformance.outcome import Exit
from openshell_files_conformance.registry import RoleName
from openshell_files_conformance.run_command import RunRequest, results_for
from openshell_files_conformance.runner import Options
from openshell_files_conformance.target.launch import TargetNotReadyError

#: The implementation does nothing, so waiting for it is in vain; this much is enough for what the suite's own peers do.
_SCALE = 0.2


async def run(roles: Sequence[RoleName], out: Path, jobs: int) -> Exit:
    """Judge the implementations that do nothing, and say whether they fail as they must."""
    problems = list[str]()
    for role in roles:
        for kind in ("refusing", "agreeing"):
            problems += await _not_ready(role, kind, out)
        problems += await _passed(role, out, jobs)
    for problem in problems:
        sys.stdout.write(f"FAIL     {problem}\n")
    sys.stdout.write("failure\n" if problems else "success: what does nothing does not conform\n")
    return Exit.NONCONFORMITY if problems else Exit.CONFORMS


def _request(role: RoleName, kind: str, out: Path, options: Options) -> RunRequest:
    command = shlex.join([sys.executable, "-m", f"openshell_files_conformance.nothing.{kind}", role])
    return RunRequest(
        role=role, overrides=Overrides(command=command, scale=_SCALE), out=out / role / kind, options=options
    )


def _config(request: RunRequest) -> TargetConfig:
    config = load_config(request.role, None, request.overrides, {})
    # Starting takes as long as ever.
    return replace(config, ready_timeout=config.ready_timeout / config.scale)


async def _not_ready(role: RoleName, kind: str, out: Path) -> list[str]:
    request = _request(role, kind, out, Options(jobs=1))
    try:
        await results_for(request, _config(request))
    except TargetNotReadyError as error:
        sys.stdout.write(f"{role}, {kind}: {error}\n")
        return []
    return [f"{role}, {kind}: was taken to be ready"]


async def _passed(role: RoleName, out: Path, jobs: int) -> list[str]:
    """Return the cases that the agreeing implementation passes and must not."""
    request = _request(role, "agreeing", out, Options(jobs=jobs, probe=False))
    results = await results_for(request, _config(request))
    if results is None:
        return [f"{role}: there are no cases"]
    reasons = _reasons()
    passed = {case["id"] for case in results["cases"] if case["verdict"] in {"pass", "warn"}}
    wrong = [case["id"] for case in results["cases"] if case["verdict"] == "harness-error"]
    sys.stdout.write(f"{role}, agreeing: passes {len(passed)} of {len(results['cases'])} cases\n")
    mine = sorted(name for name in reasons if name.startswith(f"{role}/"))
    unlisted = sorted(
        name for name in passed if not any(fnmatch.fnmatchcase(name, pattern) for pattern in mine)
    )
    stale = [pattern for pattern in mine if not fnmatch.filter(passed, pattern)]
    return [
        *(f"{name} is passed by an implementation that does nothing" for name in unlisted),
        *(f"{name} is not passed any more: remove it from nothing.toml" for name in stale),
        *(f"{name} ends with an error of the suite" for name in wrong),
    ]


def _reasons() -> dict[str, str]:
    text = files("openshell_files_conformance").joinpath("requirements", "nothing.toml").read_text("utf-8")
    groups = tomllib.loads(text).get("passed", [])
    return {case: group["reason"] for group in groups for case in group["cases"]}
