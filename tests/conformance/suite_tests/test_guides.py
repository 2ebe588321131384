"""The guides say all that an implementer has to provide: settings of launches and capabilities, of each role."""

from __future__ import annotations

from pathlib import Path

import pytest
from openshell_files_conformance.registry import ROLES, RoleName, load_cases

GUIDES = Path(__file__).parents[1] / "guides"


@pytest.mark.parametrize("role", ROLES)
def test_every_setting_and_capability_is_explained(role: RoleName) -> None:
    """A name that is wrong in a case, and would leave it out for everybody, is in no guide either."""
    text = (GUIDES / f"{role}.md").read_text("utf-8")
    cases = load_cases(role).values()
    names = {name for case in cases for name in (*case.needs, *case.launch)}
    assert sorted(name for name in names if f"`{name}`" not in text) == []
