"""Verifies users' tokens with the issuer's published keys (AUT-2)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from openshell_files_gateway.auth.claims import (
    ClaimRules,
    RegisteredClaims,
    check_claims,
    read_roles,
    read_scopes,
)
from openshell_files_gateway.auth.oidc.jwks import JwksCache
from openshell_files_gateway.auth.principals import User
from openshell_files_gateway.auth.tokens import read_header, verify_signature
from openshell_files_gateway.auth.verified_tokens import VerifiedToken, VerifiedTokens
from openshell_files_gateway.config.tables import OidcSettings


class UserTokenVerifier:
    """Verifies a user's token and returns the user.

    Args:
        settings: the issuer, and the values that its tokens must have.
        jwks: cache of the issuer's keys.
        clock: Unix time in seconds.
        verified: cache of verified tokens.
    """

    def __init__(
        self,
        settings: OidcSettings,
        jwks: JwksCache,
        *,
        clock: Callable[[], float] = time.time,
        verified: VerifiedTokens[User] | None = None,
    ) -> None:
        self._settings = settings
        self._jwks = jwks
        self._clock = clock
        self._verified = VerifiedTokens[User]() if verified is None else verified
        self._rules = ClaimRules(settings.issuer, settings.audience, settings.leeway)

    async def verify(self, token: str) -> User:
        """Verify a token and return its user: form, key, signature and claims, in this order.

        Raises:
            TransferError: the reason of the failed check, without any part of
                the token: TOKEN_MALFORMED, TOKEN_BAD_ALGORITHM, TOKEN_UNKNOWN_KEY,
                TOKEN_BAD_SIGNATURE, TOKEN_WRONG_ISSUER, TOKEN_WRONG_AUDIENCE,
                TOKEN_EXPIRED, TOKEN_NOT_YET_VALID or TOKEN_CLAIM_INVALID; or
                ISSUER_UNAVAILABLE if no check was possible.
        """
        remembered = self._verified.find(token, self._clock())
        if remembered is not None:
            # `find` also starts a refresh of the keys when it is due.
            if await self._jwks.find(remembered.key.key_id) == remembered.key:
                return remembered.principal
            self._verified.forget(token)
        header = read_header(token)
        key = await self._jwks.find(header.key_id)
        claims = verify_signature(token, key)
        registered = check_claims(claims, self._rules, self._clock())
        user = self._user(registered, claims)
        self._verified.remember(token, VerifiedToken(user, key, registered.expires_at))
        return user

    def _user(self, registered: RegisteredClaims, claims: Mapping[str, object]) -> User:
        name = claims.get("preferred_username")
        scopes = self._settings.scopes_claim
        return User(
            subject=registered.subject,
            issuer=self._settings.issuer,
            display_name=name
            if isinstance(name, str) and name and name.isprintable()
            else registered.subject,
            roles=read_roles(claims, self._settings.roles_claim),
            scopes=read_scopes(claims, scopes) if scopes else frozenset(),
            provider="oidc",
        )
