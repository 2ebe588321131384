"""From a call's metadata to the principal that calls (AUT-1)."""

from __future__ import annotations

from collections.abc import Sequence

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.auth.bearer import bearer_token
from openshell_files_gateway.auth.oidc.token_check import OidcVerifier
from openshell_files_gateway.auth.principals import ALL_SCOPES, LOCAL_DEV_ISSUER, Principal, User
from openshell_files_gateway.auth.roles import RoleNames
from openshell_files_gateway.auth.sandbox_tokens import SandboxTokenVerifier
from openshell_files_gateway.auth.tokens import read_header
from openshell_files_gateway.config.tables import DEFAULT_ADMIN_ROLE, DEFAULT_USER_ROLE


def local_dev_user(roles: RoleNames) -> User:
    """Return the user that stands for everybody where unauthenticated users are allowed."""
    return User(
        subject="unauthenticated-local-dev",
        issuer=LOCAL_DEV_ISSUER,
        display_name="Unauthenticated Local Dev",
        roles=frozenset({roles.user or DEFAULT_USER_ROLE, roles.admin or DEFAULT_ADMIN_ROLE}),
        scopes=frozenset({ALL_SCOPES}),
        provider="local_dev",
    )


class Authenticator:
    """Finds out who calls.

    A token whose header names the gateway's own key is a sandbox's; every
    other is a user's. Which it is decides only who checks it: nothing is
    tried twice, and a token that fails is never taken for no token.

    Args:
        sandboxes: verifies supervisors' tokens.
        users: verifies users' tokens; None if no issuer is configured.
        unauthenticated_user: who a call without credentials is; None if such
            calls are refused.
    """

    def __init__(
        self,
        *,
        sandboxes: SandboxTokenVerifier,
        users: OidcVerifier | None = None,
        unauthenticated_user: User | None = None,
    ) -> None:
        self._sandboxes = sandboxes
        self._users = users
        self._unauthenticated_user = unauthenticated_user

    async def authenticate(self, authorization: Sequence[str]) -> Principal:
        """Return the principal of a call.

        Args:
            authorization: every value of the metadata key `authorization`.

        Raises:
            TransferError: TOKEN_MISSING without credentials, TOKEN_MALFORMED
                with several, else the reason why the token was refused.
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
                "no issuer is configured, so users' tokens cannot be checked; call without a token",
            )
        return await self._users.verify(token)
