"""Makes authentication and authorization from the settings."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from openshell_files_gateway.auth.authenticator import Authenticator, local_dev_user
from openshell_files_gateway.auth.oidc.jwks import JwksCache
from openshell_files_gateway.auth.oidc.user_tokens import UserTokenVerifier
from openshell_files_gateway.auth.policy import MethodPolicy
from openshell_files_gateway.auth.roles import RoleNames
from openshell_files_gateway.auth.sandbox_tokens import SandboxTokenIssuer, SandboxTokenVerifier
from openshell_files_gateway.auth.workspaces import WorkspaceMembership
from openshell_files_gateway.config.settings import GatewaySettings
from openshell_files_gateway.config.signing_key import (
    SigningKey,
    generate_signing_key,
    load_or_create_signing_key,
)
from openshell_files_gateway.config.tables import SandboxTokenSettings


@dataclass(frozen=True, slots=True)
class Access:
    """The parts of authentication and authorization.

    Attributes:
        authenticator: authenticates the caller.
        policy: decides which methods a caller may call.
        membership: decides which workspaces a user may use.
        sandbox_tokens: signs supervisors' tokens.
        jwks: cache of the issuer's keys; None without an issuer.
    """

    authenticator: Authenticator
    policy: MethodPolicy
    membership: WorkspaceMembership
    sandbox_tokens: SandboxTokenIssuer
    jwks: JwksCache | None

    def start(self) -> None:
        """Start to fetch the issuer's keys, without waiting for them."""
        if self.jwks is not None:
            self.jwks.start()

    async def aclose(self) -> None:
        """Stop fetching the issuer's keys."""
        if self.jwks is not None:
            await self.jwks.aclose()


def assemble_access(settings: GatewaySettings, *, clock: Callable[[], float] = time.time) -> Access:
    """Make the parts from the settings. Call it before the event loop runs, since it reads or creates the signing key.

    Args:
        settings: the configuration.
        clock: Unix time in seconds.

    Raises:
        ConfigurationError: the signing key cannot be used, or a method has no
            authorization rule.
    """
    oidc = settings.oidc
    roles = RoleNames(oidc.admin_role, oidc.user_role) if oidc else RoleNames()
    tokens = settings.sandbox_tokens
    key = _signing_key(tokens)
    jwks = JwksCache(oidc) if oidc else None
    return Access(
        authenticator=Authenticator(
            sandboxes=SandboxTokenVerifier(
                [key], gateway_id=settings.gateway_id, allow_no_expiry=tokens.allow_no_expiry, clock=clock
            ),
            users=UserTokenVerifier(oidc, jwks, clock=clock) if oidc and jwks else None,
            unauthenticated_user=local_dev_user(roles) if settings.allow_unauthenticated_users else None,
        ),
        policy=MethodPolicy.from_descriptors(roles=roles, enforce_scopes=bool(oidc and oidc.scopes_claim)),
        membership=WorkspaceMembership.from_settings(roles, settings.workspaces),
        sandbox_tokens=SandboxTokenIssuer(
            key,
            gateway_id=settings.gateway_id,
            ttl=tokens.ttl,
            allow_no_expiry=tokens.allow_no_expiry,
            clock=clock,
        ),
        jwks=jwks,
    )


def _signing_key(settings: SandboxTokenSettings) -> SigningKey:
    if settings.signing_key is None:
        return generate_signing_key(settings.key_id)
    return load_or_create_signing_key(settings.signing_key, settings.key_id)
