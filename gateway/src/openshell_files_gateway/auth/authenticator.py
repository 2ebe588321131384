"""Authenticates a call: turns its bearer token into a principal (AUT-1)."""

from __future__ import annotations

from collections.abc import Sequence

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.auth.bearer import bearer_token
from openshell_files_gateway.auth.oidc.user_tokens import UserTokenVerifier
from openshell_files_gateway.auth.principals import ALL_SCOPES, LOCAL_DEV_ISSUER, Principal, User
from openshell_files_gateway.auth.roles import RoleNames
from openshell_files_gateway.auth.sandbox_tokens import SandboxTokenVerifier
from openshell_files_gateway.auth.tokens import read_header
from openshell_files_gateway.config.tables import DEFAULT_ADMIN_ROLE, DEFAULT_USER_ROLE


def local_dev_user(roles: RoleNames) -> User:
    """Return the principal of calls without a token where unauthenticated users are allowed."""
    return User(
        subject="unauthenticated-local-dev",
        issuer=LOCAL_DEV_ISSUER,
        display_name="Unauthenticated Local Dev",
        roles=frozenset({roles.user or DEFAULT_USER_ROLE, roles.admin or DEFAULT_ADMIN_ROLE}),
        scopes=frozenset({ALL_SCOPES}),
        provider="local_dev",
    )


class Authenticator:
    """Verifies the token of a call.

    A token whose header names the gateway's own key is a sandbox's token;
    every other token is a user's. The header only chooses the verifier: no
    token is tried with both, and an invalid token is refused even where
    calls without a token are allowed.

    Args:
        sandboxes: verifies supervisors' tokens.
        users: verifies users' tokens; None if no issuer is configured.
        unauthenticated_user: principal of calls without a token; None if they
            are refused.
    """

    def __init__(
        self,
        *,
        sandboxes: SandboxTokenVerifier,
        users: UserTokenVerifier | None = None,
        unauthenticated_user: User | None = None,
    ) -> None:
        self._sandboxes = sandboxes
        self._users = users
        self._unauthenticated_user = unauthenticated_user

    async def authenticate(self, authorization: Sequence[str]) -> Principal:
        """Return the principal of a call.

        Args:
            authorization: all values of the metadata key `authorization`.

        Raises:
            TransferError: TOKEN_MISSING without a value, TOKEN_MALFORMED for
                several values, else the reason of the check that failed.
        """
        token = bearer_token(authorization)
        if token is None:
            if self._unauthenticated_user is not None:
                return self._unauthenticated_user
            raise TransferError(Reason.TOKEN_MISSING, "the call has no `authorization: Bearer <token>`")
        header = read_header(token)
        if self._sandboxes.claims_header(header):
            return self._sandboxes.verify(token, header)
        if self._users is None:
            raise TransferError(
                Reason.TOKEN_UNKNOWN_KEY,
                "no issuer is configured, so the gateway cannot verify users' tokens; call without a token",
            )
        return await self._users.verify(token)
