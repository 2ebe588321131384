"""Who belongs to which workspace (AUT-5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from openshell_files_gateway.auth.principals import User
from openshell_files_gateway.auth.roles import RoleNames

if TYPE_CHECKING:
    from openshell_files_gateway.config.tables import WorkspaceSettings

WorkspaceRole = Literal["user", "admin"]


class WorkspaceMembership:
    """Answers whether a user may act in a workspace.

    It answers yes or no and raises nothing: what a refusal looks like depends
    on the question. For a sandbox of somebody else it is `SANDBOX_NOT_FOUND`,
    so that nobody learns which sandboxes exist.

    Args:
        roles: names of the platform's roles. Platform administrators may act
            everywhere.
        members: by workspace the role of each member, by subject.
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
        """Say whether the user has at least that role in the workspace.

        Args:
            user: who asks.
            workspace: name of the workspace; one that does not exist has no
                members.
            role: the role that is needed; `admin` includes `user`.
        """
        if self._roles.is_admin(user):
            return True
        held = self._members.get(workspace, {}).get(user.subject)
        return held in ("admin", role)
