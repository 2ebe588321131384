"""A class name is unique within its distribution, so that a reader can find the class by its name."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest
from architecture.test_rooms import SOURCES

#: Generated twins have the same classes; each is compared with the rest.
TWINS = {"openshell_files": ("_async", "_sync")}


def repeated(modules: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the class names that more than one module defines.

    Args:
        modules: source of each module by its name.
    """
    found: dict[str, list[str]] = {}
    for module, source in modules.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(module)
    return {name: places for name, places in found.items() if len(places) > 1}


@pytest.mark.parametrize("package", SOURCES, ids=lambda package: package.name)
def test_class_names_are_unique(package: Path) -> None:
    sources = {
        file.relative_to(package).as_posix(): file.read_text("utf-8")
        for file in sorted(package.rglob("*.py"))
        if "pb" not in file.relative_to(package).parts
    }
    twins = TWINS.get(package.name, ())
    for left_out in twins or [""]:
        shown = {name: text for name, text in sources.items() if name.split("/")[0] != left_out}
        assert repeated(shown) == {}


def test_a_planted_name_is_found() -> None:
    modules = {"one.py": "class A: ...", "two.py": "def f():\n    class A: ...", "three.py": "class B: ..."}
    assert repeated(modules) == {"A": ["one.py", "two.py"]}
