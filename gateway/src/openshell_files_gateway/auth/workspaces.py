"""Membership of users in workspaces (AUT-5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from openshell_files_gateway.auth.principals import User
from openshell_files_gateway.auth.roles import RoleNames

if TYPE_CHECKING:
    from openshell_files_gateway.config.tables import WorkspaceSettings

WorkspaceRole = Literal["user", "admin"]


class WorkspaceMembership:
    """Decides whether a user may use a workspace.

    The caller of this class raises the error, since its reason depends on the
    request: for a sandbox in another workspace it is `SANDBOX_NOT_FOUND`, so
    that callers cannot find out which sandboxes exist.

    Args:
        roles: names of the platform's roles. Platform administrators may use
            every workspace.
        members: role by subject, by workspace.
    """

    def __init__(self, *, roles: RoleNames, members: Mapping[str, Mapping[str, WorkspaceRole]]) -> None:
        self._roles = roles
        self._members = {workspace: dict(subjects) for workspace, subjects in members.items()}

    @classmethod
    def from_settings(cls, roles: RoleNames, workspaces: Iterable[WorkspaceSettings]) -> WorkspaceMembership:
        """Read the members from the configuration."""
        return cls(
            roles=roles,
            members={
                workspace.name: {member.subject: member.role for member in workspace.members}
                for workspace in workspaces
            },
        )

    def may(self, user: User, workspace: str, role: str = "user") -> bool:
        """Return True if the user has at least that role in the workspace.

        Args:
            user: the authenticated user.
            workspace: name of the workspace; an unknown one has no members.
            role: the required role; `admin` includes `user`.
        """
        if self._roles.is_admin(user):
            return True
        held = self._members.get(workspace, {}).get(user.subject)
        return held in ("admin", role)
