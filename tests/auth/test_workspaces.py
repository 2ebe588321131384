"""AUT-5: who belongs to which workspace."""

from __future__ import annotations

import pytest
from openshell_files_gateway.auth.authenticator import local_dev_user
from openshell_files_gateway.auth.principals import User
from openshell_files_gateway.auth.roles import RoleNames
from openshell_files_gateway.auth.workspaces import WorkspaceMembership
from openshell_files_gateway.config.tables import WorkspaceMember, WorkspaceSettings


def user(subject: str, *roles: str) -> User:
    return User(subject, "https://issuer.example", subject, frozenset(roles), frozenset(), "oidc")


def membership(roles: RoleNames | None = None) -> WorkspaceMembership:
    return WorkspaceMembership.from_settings(
        roles or RoleNames(),
        [
            WorkspaceSettings(
                name="team",
                members=(WorkspaceMember(subject="alice"), WorkspaceMember(subject="olga", role="admin")),
            ),
            WorkspaceSettings(name="other", members=(WorkspaceMember(subject="bob"),)),
        ],
    )


@pytest.mark.parametrize(
    ("subject", "workspace", "role", "expected"),
    [
        ("alice", "team", "user", True),
        ("alice", "team", "admin", False),
        ("alice", "other", "user", False),
        ("alice", "missing", "user", False),
        ("alice", "", "user", False),
        ("Alice", "team", "user", False),
        ("bob", "team", "user", False),
        ("olga", "team", "user", True),
        ("olga", "team", "admin", True),
        ("olga", "other", "user", False),
        ("alice", "team", "owner", False),
    ],
)
def test_members_may_what_their_role_allows(
    subject: str, workspace: str, role: str, *, expected: bool
) -> None:
    assert membership().may(user(subject, "openshell-user"), workspace, role) is expected


@pytest.mark.parametrize("workspace", ["team", "other", "missing"])
def test_platform_administrators_may_everywhere(workspace: str) -> None:
    for person in (user("root", "openshell-admin"), local_dev_user(RoleNames())):
        assert membership().may(person, workspace, "admin")


def test_without_role_names_everybody_is_an_administrator() -> None:
    """Facts 2.3.4."""
    assert membership(RoleNames("", "")).may(user("anybody"), "team", "admin")


def test_administrators_go_by_the_configured_name() -> None:
    rules = membership(RoleNames("boss", "worker"))
    assert rules.may(user("anybody", "boss"), "team", "admin")
    assert not rules.may(user("anybody", "openshell-admin"), "team")
