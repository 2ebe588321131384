"""The callers that the gateway knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

#: Issuer of the user that stands for everybody where unauthenticated users
#: are allowed. No URL, so that no issuer can be it.
LOCAL_DEV_ISSUER: Final = "local-dev"

#: Satisfies every scope.
ALL_SCOPES: Final = "openshell:all"


@dataclass(frozen=True, slots=True)
class User:
    """A person or program that an identity provider vouches for.

    Attributes:
        subject: the issuer's name for the user, `sub`.
        issuer: the issuer's URL as configured.
        display_name: for logs and people, never for decisions.
        roles: names of the deployment's roles.
        scopes: what the token may be used for.
        provider: how the user was authenticated.
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
        """Names the user among those of all issuers; uploads belong to it (RSM-2)."""
        return f"{self.issuer}|{self.subject}"


@dataclass(frozen=True, slots=True)
class SandboxPrincipal:
    """The supervisor of one sandbox.

    Attributes:
        sandbox_id: the only sandbox that it speaks for.
    """

    sandbox_id: str


Principal = User | SandboxPrincipal
