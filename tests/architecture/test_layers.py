"""The rules know no input and output, and imports point inwards (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "protocol": ROOT / "proto/src/openshell_files_protocol",
    "process": ROOT / "proto/src/openshell_files_process",
    "disk": ROOT / "proto/src/openshell_files_disk",
    "gateway": ROOT / "gateway/src/openshell_files_gateway",
    "supervisor": ROOT / "supervisor_sim/src/openshell_supervisor_sim",
    "sdk": ROOT / "sdk/src/openshell_files",
    "conformance": ROOT / "tests/conformance/src/openshell_files_conformance",
}

#: What a core must not know.
FORBIDDEN_IN_CORE = {
    *("grpc", "httpx", "aiofiles", "sqlite3", "socket", "select", "selectors", "subprocess"),
    *("asyncio", "threading", "multiprocessing", "concurrent", "signal", "time"),
    *("os", "pathlib", "shutil", "tempfile", "fcntl", "mmap"),
    # It would hide an import from this test.
    "importlib",
}
#: Names from those modules that are only types, or rules about text.
HARMLESS = {"os.PathLike", "pathlib.PurePath", "pathlib.PurePosixPath"}

CORES = [
    ("gateway", "files/core"),
    ("gateway", "files/options/core"),
    ("gateway", "relay/core"),
    ("gateway", "server/core"),
    ("gateway", "simulation/core"),
    ("supervisor", "agent/core"),
    ("supervisor", "commands/core"),
    ("sdk", "_core"),
]

#: Modules outside of a core that are rules and values like it, and which it may therefore use.
BESIDE_CORE = {
    "gateway": {
        "openshell_files_gateway.sandboxes.phases",
        "openshell_files_gateway.server.core.transfer_limits",
    },
    "sdk": {
        "openshell_files._error_mapping",
        "openshell_files._known_errors",
        "openshell_files._values",
        "openshell_files.archive_results",
        "openshell_files.auth",
        "openshell_files.errors",
        "openshell_files.options",
        "openshell_files.results",
        "openshell_files.tree_options",
        "openshell_files.tree_results",
    },
}

#: Which distribution may import which.
ALLOWED = {
    "protocol": set[str](),
    "process": {"openshell_files_protocol"},
    "disk": {"openshell_files_protocol"},
    "gateway": {"openshell_files_protocol", "openshell_files_process"},
    "supervisor": {"openshell_files_protocol", "openshell_files_process", "openshell_files_disk"},
    "sdk": {"openshell_files_protocol", "openshell_files_process", "openshell_files_disk"},
    # It would judge what it brought along.
    "conformance": set[str](),
}
OURS = {source.name for source in SOURCES.values()}


def imports_of(file: Path) -> set[str]:
    """Return the modules that a file imports, as far as they are absolute."""
    return {name for name, _ in _imports(file, "")}


def _imports(file: Path, package: str) -> Iterator[tuple[str, str]]:
    """Yield module and name of each import; the name is empty where a module is imported.

    Args:
        file: source of a module.
        package: that the module is in, for relative imports; without it they are left out.
    """
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                if not package:
                    continue
                above = package.split(".")[: 1 - node.level or None]
                module = ".".join([*above, *filter(None, [module])])
            yield from ((module, alias.name) for alias in node.names)


def _module_at(file: Path, source: Path) -> str:
    parts = file.relative_to(source.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_module(name: str, source: Path) -> bool:
    path = source.parent / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def wrong_imports(file: Path, source: Path, core: str, beside: set[str]) -> set[str]:
    """Return what a module of a core imports and must not.

    Args:
        file: of the module.
        source: directory of the distribution's package.
        core: the core, relative to it.
        beside: modules of the distribution that it may use too.
    """
    own = _module_at(source / core, source)
    this = _module_at(file, source)
    package = this if file.name == "__init__.py" else this.rpartition(".")[0]
    wrong = set[str]()
    for module, name in _imports(file, package):
        full = f"{module}.{name}" if name else module
        root = module.partition(".")[0]
        if root == source.name:
            # `from package import module` imports the module, not a name of the package.
            target = full if name and _is_module(full, source) else module
            if target != own and not target.startswith(f"{own}.") and target not in beside:
                wrong.add(full)
        elif root in FORBIDDEN_IN_CORE and full not in HARMLESS:
            wrong.add(full)
    return wrong


@pytest.mark.parametrize(("name", "core"), CORES)
def test_a_core_has_only_rules(name: str, core: str) -> None:
    """And uses of its distribution only itself, and what is as much without input and output."""
    source, beside = SOURCES[name], BESIDE_CORE.get(name, set[str]())
    files = sorted((source / core).rglob("*.py"))
    assert files
    files += [source.parent / (module.replace(".", "/") + ".py") for module in beside]
    assert {
        _module_at(file, source): wrong
        for file in files
        if (wrong := wrong_imports(file, source, core, beside))
    } == {}


def test_every_core_is_looked_at() -> None:
    found = {
        (name, path.relative_to(source).as_posix())
        for name, source in SOURCES.items()
        for path in source.rglob("*core")
        # A folder that moved leaves what Python compiled.
        if any(path.rglob("*.py"))
    }
    assert found == set(CORES)


@pytest.mark.parametrize(
    "planted",
    [
        "import os",
        "import os.path",
        "from os import open",
        "from pathlib import Path",
        "from importlib import import_module",
        "def f():\n    import time",
        "import ours.outer",
        "import ours.agent.paths as p",
        "from ours import outer",
        "from ours import NAME",
        "from ours.agent import paths",
        "from ours.agent.paths import walk",
        "from ours.other.core import rules",
        "from ours.agent.corelike import x",
        "from .. import paths",
        "from ..paths import walk",
        "from ... import outer",
        "if TYPE_CHECKING:\n    from ours.agent.paths import walk",
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, planted: str) -> None:
    """A test of the test above."""
    source = tmp_path / "ours"
    for module in ("outer", "agent/paths", "agent/corelike", "agent/values", "other/core/rules"):
        path = source / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    core = source / "agent/core"
    core.mkdir()
    (core / "limits.py").touch()
    right = """
import stat
from os import PathLike
from ours.agent import core, values
from ours.agent.core import limits
from ours.agent.core.limits import LIMIT
from ours.agent.values import VALUE
from . import limits
from .limits import LIMIT
from ..values import VALUE
"""
    file = core / "rules.py"
    file.write_text(right)
    beside = {"ours.agent.values"}
    assert wrong_imports(file, source, "agent/core", beside) == set()
    file.write_text(right + planted)
    assert len(wrong_imports(file, source, "agent/core", beside)) == 1


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
