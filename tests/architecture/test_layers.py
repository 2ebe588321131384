"""The rules know no input and output, and imports point inwards (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "protocol": ROOT / "proto/src/openshell_files_protocol",
    "gateway": ROOT / "gateway/src/openshell_files_gateway",
    "supervisor": ROOT / "supervisor_sim/src/openshell_supervisor_sim",
    "sdk": ROOT / "sdk/src/openshell_files",
}

#: What a core must not know.
FORBIDDEN_IN_CORE = {"grpc", "asyncio", "os", "time", "socket", "threading", "sqlite3", "httpx", "aiofiles"}

CORES = [
    SOURCES["gateway"] / "core",
    SOURCES["supervisor"] / "agent/core",
    SOURCES["supervisor"] / "commands/core",
    SOURCES["sdk"] / "_core",
]

#: Which distribution may import which.
ALLOWED = {
    "protocol": set[str](),
    "gateway": {"openshell_files_protocol"},
    "supervisor": {"openshell_files_protocol"},
    "sdk": {"openshell_files_protocol"},
}
OURS = {"openshell_files_protocol", "openshell_files_gateway", "openshell_supervisor_sim", "openshell_files"}


def imports_of(file: Path) -> set[str]:
    """Return the modules that a file imports, as far as they are absolute."""
    modules = set[str]()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module)
    return modules


@pytest.mark.parametrize("core", CORES, ids=lambda core: core.relative_to(ROOT).as_posix())
def test_a_core_has_only_rules(core: Path) -> None:
    files = sorted(core.glob("*.py"))
    assert files
    for file in files:
        known = {module.partition(".")[0] for module in imports_of(file)}
        assert not known & FORBIDDEN_IN_CORE, file


@pytest.mark.parametrize("name", SOURCES)
def test_imports_point_inwards(name: str) -> None:
    """The agent knows no transport, the SDK neither gateway nor supervisor, nobody an outer part."""
    own = SOURCES[name].name
    for file in sorted(SOURCES[name].rglob("*.py")):
        roots = {module.partition(".")[0] for module in imports_of(file)} & OURS
        assert roots <= ALLOWED[name] | {own}, file


def test_the_agent_knows_no_transport() -> None:
    for file in sorted((SOURCES["supervisor"] / "agent").rglob("*.py")):
        assert "grpc" not in {module.partition(".")[0] for module in imports_of(file)}, file


def test_the_sdk_loads_only_the_file_messages() -> None:
    """ADR 0003: the service's messages belong to the official SDK."""
    for file in sorted(SOURCES["sdk"].rglob("*.py")):
        for module in imports_of(file):
            assert not module.endswith(("openshell_pb2", "framing")), file
