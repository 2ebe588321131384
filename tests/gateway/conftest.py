"""A gateway that makes sandboxes, whose supervisors do nothing but run."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import psutil
import pytest
from gateway_harness import GatewayHarness, running_gateway
from leaks import grpc_engine, nothing_is_left_in_this_process
from openshell_files_gateway.config.tables import ComputeSettings, SandboxTokenSettings

__all__ = ["grpc_engine", "nothing_is_left_in_this_process"]


@pytest.fixture
async def computing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[GatewayHarness, None]:
    stub = tmp_path / "supervisor"
    stub.write_text(f"#!{sys.executable} -I\nimport signal\nwhile True:\n    signal.pause()\n")
    stub.chmod(0o700)

    def command(_: str) -> str:
        return str(stub)

    monkeypatch.setattr("openshell_files_gateway.gateway.command", command)
    changes = {
        "compute": ComputeSettings(directory=tmp_path / "compute", stop_with_gateway=True, max_sandboxes=8)
    }
    tokens = SandboxTokenSettings(signing_key=tmp_path / "key.pem")
    async with running_gateway(sandbox_tokens=tokens, changes=changes) as running:
        yield running
    for process in psutil.process_iter(["cmdline"]):
        assert str(stub) not in (process.info["cmdline"] or ()), "the gateway stopped its supervisors"
