"""The two kinds of principals: users, and supervisors of sandboxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

#: Issuer of the principal of unauthenticated calls, where those are allowed. It
#: is no URL, so no configured issuer can have it.
LOCAL_DEV_ISSUER: Final = "local-dev"

#: Scope that includes all others.
ALL_SCOPES: Final = "openshell:all"


@dataclass(frozen=True, slots=True)
class User:
    """A person or program that an identity provider authenticated.

    Attributes:
        subject: the user's `sub`, unique at its issuer.
        issuer: the issuer's URL as configured.
        display_name: name for logs and messages, never for decisions.
        roles: the user's roles in the deployment.
        scopes: the token's scopes.
        provider: method of authentication.
    """

    subject: str
    issuer: str
    display_name: str
    roles: frozenset[str]
    scopes: frozenset[str]
    provider: Literal["oidc", "local_dev"]

    def __post_init__(self) -> None:
        if "|" in self.issuer:
            raise ValueError("an issuer with '|' makes User.key ambiguous")

    @property
    def key(self) -> str:
        """Name of the user, unique over all issuers; it identifies the owner of uploads (RSM-2)."""
        return f"{self.issuer}|{self.subject}"


@dataclass(frozen=True, slots=True)
class SandboxPrincipal:
    """The supervisor of one sandbox.

    Attributes:
        sandbox_id: the supervisor's sandbox.
    """

    sandbox_id: str


Principal = User | SandboxPrincipal
