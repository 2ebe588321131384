"""Each folder is a room with one idea: few modules, and imports in one direction (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    ROOT / "proto/src/openshell_files_protocol",
    ROOT / "proto/src/openshell_files_process",
    ROOT / "proto/src/openshell_files_disk",
    ROOT / "gateway/src/openshell_files_gateway",
    ROOT / "supervisor_sim/src/openshell_supervisor_sim",
    ROOT / "sdk/src/openshell_files",
]

#: Rooms, and modules that stand beside them, from the innermost outwards. Each imports only those before it. The
#: longest entry that a module's name begins with is the module's room.
ORDER: dict[str, list[tuple[str, ...]]] = {
    "openshell_files_disk": [
        ("filesystem",),
        ("trees",),
        ("archives",),
    ],
    "openshell_files_gateway": [
        ("installed", "concurrency", "server.core", "files.core", "files.options.core", "relay.core"),
        ("config",),
        ("auth",),
        ("server",),
        ("sandboxes", "simulation.core"),
        ("relay",),
        ("files",),
        ("simulation",),
        ("gateway", "dev"),
        ("cli",),
    ],
    "openshell_supervisor_sim": [
        ("faults", "confinement", "commands.core", "commands.environment", "commands.host"),
        ("agent.core", "agent.trace_points"),
        ("agent.filesystem",),
        ("agent.paths",),
        ("agent.store",),
        ("agent.upload", "agent.download", "agent.directories", "agent.trees", "agent.archives"),
        ("agent.concurrency", "agent.streams", "agent.settings"),
        ("agent.operations",),
        ("agent",),
        ("relay", "commands"),
        ("session",),
        ("agent_port", "startup"),
        ("running",),
        ("cli",),
    ],
    "openshell_files": [
        ("errors",),
        ("_known_errors",),
        ("_error_mapping",),
        ("_values",),
        ("auth", "options"),
        ("results", "tree_options"),
        ("tree_results",),
        ("archive_results",),
        ("_core", "_connectivity"),
        ("_arguments", "_local"),
        ("_async", "_sync"),
        ("_official",),
        ("cli",),
    ],
}

MOST_MODULES = 14
MOST_LINES = 400

#: Longer ones, each with its reason.
LONG = {
    "openshell_files_protocol/reasons.py": "the error table",
    "openshell_files/errors.py": "the table of exceptions",
}

#: Rooms with more modules, and how many.
FULL: dict[str, int] = {}


def modules_of(source: Path) -> dict[str, Path]:
    """Return the modules of a package by their names within it; the package itself is "". Generated messages are left out."""
    found: dict[str, Path] = {}
    for file in sorted(source.rglob("*.py")):
        parts = file.relative_to(source).with_suffix("").parts
        if parts[0] != "pb":
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports_within(source: Path, modules: Mapping[str, Path], name: str) -> set[str]:
    """Return the modules of its package that a module imports, in functions and for types, too."""
    return set(_imports(source, modules, name)) - {name}


def _imports(source: Path, modules: Mapping[str, Path], name: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(modules[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            full = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: relative imports hide what is imported"
            full = [
                f"{node.module}.{alias.name}"
                if f"{node.module}.{alias.name}".removeprefix(f"{source.name}.") in modules
                else str(node.module)
                for alias in node.names
            ]
        else:
            continue
        for module in full:
            if module == source.name:
                yield ""
            elif module.startswith(f"{source.name}."):
                yield module.removeprefix(f"{source.name}.")


def room_of(name: str, order: Sequence[tuple[str, ...]]) -> int | None:
    """Return the place of a module's room in the order."""
    places = {entry: place for place, entries in enumerate(order) for entry in entries}
    while name and name not in places:
        name = name.rpartition(".")[0]
    return places.get(name)


def wrong_ways(source: Path, order: Sequence[tuple[str, ...]]) -> set[str]:
    """Return the imports that lead outwards, or aside into another room, as `importer -> imported`."""
    modules = modules_of(source)
    wrong = set[str]()
    for name in modules:
        place = room_of(name, order)
        for imported in imports_within(source, modules, name):
            other = room_of(imported, order)
            # The package itself is a face of everything, and says its version.
            if place is None or other is None or other <= place:
                continue
            wrong.add(f"{name} -> {imported}")
    return wrong


def circles(imports: Mapping[str, set[str]]) -> list[str]:
    """Return the modules that import each other, directly or by way of others."""

    def reached(start: str) -> set[str]:
        seen, waiting = set[str](), [start]
        while waiting:
            for following in imports.get(waiting.pop(), ()):
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
        return seen

    return [name for name in sorted(imports) if name in reached(name)]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_every_module_is_in_a_room(source: Path) -> None:
    order = ORDER.get(source.name)
    if order is not None:
        assert [name for name in modules_of(source) if name and room_of(name, order) is None] == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_rooms_import_in_one_direction(source: Path) -> None:
    assert wrong_ways(source, ORDER.get(source.name, [])) == set()


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_no_two_modules_import_each_other(source: Path) -> None:
    modules = modules_of(source)
    assert circles({name: imports_within(source, modules, name) for name in modules if name}) == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_a_room_has_few_modules(source: Path) -> None:
    sizes: dict[str, int] = {}
    for file in modules_of(source).values():
        if file.name != "__init__.py":
            folder = file.parent.relative_to(source.parent).as_posix()
            sizes[folder] = sizes.get(folder, 0) + 1
    assert {folder: size for folder, size in sizes.items() if size > FULL.get(folder, MOST_MODULES)} == {}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_a_module_is_short(source: Path) -> None:
    lengths = {
        file.relative_to(source.parent).as_posix(): len(file.read_text("utf-8").splitlines())
        for file in modules_of(source).values()
    }
    long = {name: length for name, length in lengths.items() if length > MOST_LINES and name not in LONG}
    assert long == {}
    assert [
        name for name in LONG if name.startswith(f"{source.name}/") and lengths.get(name, 0) <= MOST_LINES
    ] == []


def test_a_planted_import_is_found(tmp_path: Path) -> None:
    source = tmp_path / "ours"
    (source / "inner").mkdir(parents=True)
    (source / "outer").mkdir()
    (source / "inner/rules.py").write_text("from ours.inner import table\n")
    (source / "inner/table.py").write_text("")
    (source / "outer/call.py").write_text("from ours.inner.rules import x\n")
    order = [("inner",), ("outer",)]
    assert wrong_ways(source, order) == set()
    for planted in (
        "import ours.outer.call",
        "from ours.outer import call",
        "from ours.outer.call import x",
        "def f():\n    from ours.outer.call import x",
    ):
        (source / "inner/table.py").write_text(planted)
        assert wrong_ways(source, order) == {"inner.table -> outer.call"}
        modules = modules_of(source)
        found = circles({name: imports_within(source, modules, name) for name in modules})
        assert found == ["inner.rules", "inner.table", "outer.call"]
