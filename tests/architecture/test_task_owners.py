"""Every task has an owner: only the primitives make tasks, everything else uses them or a TaskGroup."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Package → its modules that may make a task and must see to its end.
PRIMITIVES: dict[Path, set[str]] = {
    ROOT / "proto/src/openshell_files_process": {"tasks.py"},
    # gRPC ends the read of a call with the call.
    ROOT / "gateway/src/openshell_files_gateway": {"concurrency/stream_reads.py"},
    ROOT / "sdk/src/openshell_files": set(),
    ROOT / "supervisor_sim/src/openshell_supervisor_sim": set(),
}


def tasks_without_owner(source: str) -> list[int]:
    """Return the lines that make a task outside of a TaskGroup."""
    tree = ast.parse(source)
    groups = {
        item.optional_vars.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if isinstance(item.optional_vars, ast.Name) and "TaskGroup(" in ast.unparse(item.context_expr)
    }
    found: list[int] = []
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr="create_task") if name in groups:
                pass
            case (
                ast.Attribute(attr="create_task" | "ensure_future")
                | ast.Name(id="create_task" | "ensure_future")
            ):
                found.append(node.lineno)
            case ast.ImportFrom() if {"create_task", "ensure_future"} & {alias.name for alias in node.names}:
                found.append(node.lineno)
            case _:
                pass
    return found


@pytest.mark.parametrize("package", PRIMITIVES, ids=lambda package: package.name)
def test_only_primitives_make_tasks(package: Path) -> None:
    primitives = {package / module for module in PRIMITIVES[package]}
    assert [str(path) for path in primitives if not tasks_without_owner(path.read_text("utf-8"))] == []
    assert {
        file.relative_to(package).as_posix(): lines
        for file in sorted(package.rglob("*.py"))
        if file not in primitives and (lines := tasks_without_owner(file.read_text("utf-8")))
    } == {}


@pytest.mark.parametrize(
    "planted",
    [
        "asyncio.create_task(work())",
        "task = asyncio.ensure_future(work())",
        "asyncio.get_running_loop().create_task(work())",
        "from asyncio import create_task",
        "start = asyncio.create_task",
    ],
)
def test_a_planted_task_is_found(planted: str) -> None:
    allowed = """
async def main():
    async with asyncio.timeout(1), asyncio.TaskGroup() as group:
        group.create_task(work())
"""
    assert tasks_without_owner(allowed) == []
    assert tasks_without_owner(allowed + planted) == [5]
