"""The state of an upload has one owner (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUPERVISOR = ROOT / "supervisor_sim/src/openshell_supervisor_sim"
UPLOAD = SUPERVISOR / "agent/upload"

#: The class that performs every transition of an upload, and the two that it owns.
OWNER, OWNED = UPLOAD / "live_upload.py", UPLOAD / "staged_content.py"
LIFE = SUPERVISOR / "agent/core/upload_life.py"


def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def assigned(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Return the attributes that code assigns, of whatever object."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=found):
                targets = list(found)
            case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
                targets = [target]
            case _:
                continue
        for part in (part for target in targets for part in ast.walk(target)):
            if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                yield part


def attributes_of(*files: Path) -> set[str]:
    """Return the attributes that the classes of modules assign to themselves."""
    return {attribute.attr for file in files for attribute in assigned(tree_of(file))}


def foreign_assignments(file: Path, attributes: set[str]) -> list[str]:
    """Return the assignments of such attributes to another object than `self`."""
    return [
        ast.unparse(attribute)
        for attribute in assigned(tree_of(file))
        if attribute.attr in attributes
        and not (isinstance(attribute.value, ast.Name) and attribute.value.id == "self")
    ]


AGENT = [file for file in sorted((SUPERVISOR / "agent").rglob("*.py")) if file not in {OWNER, OWNED}]


@pytest.mark.parametrize("file", AGENT, ids=lambda file: file.relative_to(SUPERVISOR).as_posix())
def test_only_an_upload_assigns_its_state(file: Path) -> None:
    """State, holder, row and content of an upload change in `LiveUpload`, which has the table."""
    assert foreign_assignments(file, attributes_of(OWNER, OWNED)) == []
    if file != LIFE:
        assert "UploadLife" not in {name.id for name in ast.walk(tree_of(file)) if isinstance(name, ast.Name)}


def test_a_planted_assignment_is_found(tmp_path: Path) -> None:
    for planted in ("upload._holder = None", "self.upload._life = x", "a, upload.content.size = 1, 2"):
        (tmp_path / "module.py").write_text(planted)
        assert len(foreign_assignments(tmp_path / "module.py", attributes_of(OWNER, OWNED))) == 1
