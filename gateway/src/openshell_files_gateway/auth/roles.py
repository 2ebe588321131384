"""The two roles of a deployment, under the names that the issuer gives them."""

from __future__ import annotations

from dataclasses import dataclass

from openshell_files_gateway.auth.principals import User
from openshell_files_gateway.config.tables import DEFAULT_ADMIN_ROLE, DEFAULT_USER_ROLE


@dataclass(frozen=True, slots=True)
class RoleNames:
    """The names of the platform's roles in tokens.

    If both are empty, every authenticated user is an administrator.

    Attributes:
        admin: role of platform administrators.
        user: role of all other users; administrators have it as well.

    Raises:
        ValueError: exactly one of them is empty.
    """

    admin: str = DEFAULT_ADMIN_ROLE
    user: str = DEFAULT_USER_ROLE

    def __post_init__(self) -> None:
        if bool(self.admin) != bool(self.user):
            raise ValueError("name both roles or neither")

    @property
    def authentication_only(self) -> bool:
        """True if roles are ignored."""
        return not self.admin

    def is_admin(self, user: User) -> bool:
        """Return True if the user is a platform administrator."""
        return self.authentication_only or self.admin in user.roles

    def is_user(self, user: User) -> bool:
        """Return True if the user has the user role, or is an administrator."""
        return self.is_admin(user) or self.user in user.roles
