"""AUT-1, AUT-3: from credentials to a principal, as the settings want it."""

from __future__ import annotations

from typing import Any

import pytest
from openshell_files_gateway.auth.assembly import Access, assemble_access
from openshell_files_gateway.auth.principals import SandboxPrincipal, User
from openshell_files_gateway.config.settings import GatewaySettings
from openshell_files_gateway.dev.identity_provider import DevelopmentIdentityProvider
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason
from token_forge import signer, token


def assemble(**tables: Any) -> Access:
    return assemble_access(GatewaySettings.model_validate({"tls": {"disabled": True}, **tables}))


async def refusal(access: Access, *authorization: str) -> TransferError:
    with pytest.raises(TransferError) as caught:
        await access.authenticator.authenticate(authorization)
    return caught.value


async def test_users_and_supervisors_are_told_apart() -> None:
    """AUT-1, AUT-3: whole, with an identity provider over HTTP."""
    with DevelopmentIdentityProvider(audience="openshell-cli") as provider:
        access = assemble(
            oidc={
                "issuer": provider.issuer,
                "scopes_claim": "scope",
                "dangerously_allow_insecure_http": True,
            },
            workspaces=[{"name": "default", "members": [{"subject": provider.client_id}]}],
        )
        access.start()
        user = await access.authenticator.authenticate([f"Bearer {provider.issue()}"])
        assert isinstance(user, User)
        access.policy.authorize(methods.UPLOAD_FILE, user)
        assert access.membership.may(user, "default")
        assert not access.membership.may(user, "elsewhere")

        supervisor = await access.authenticator.authenticate(
            [f"Bearer {access.sandbox_tokens.mint('sandbox-1').token}"]
        )
        assert supervisor == SandboxPrincipal("sandbox-1")
        access.policy.authorize(methods.CONNECT_SUPERVISOR, supervisor)

        narrow = await access.authenticator.authenticate([f"Bearer {provider.issue(scope='sandbox:read')}"])
        with pytest.raises(TransferError, match="SCOPE_REQUIRED"):
            access.policy.authorize(methods.UPLOAD_FILE, narrow)

        assert (await refusal(access)).reason is Reason.TOKEN_MISSING
        await access.aclose()


async def test_an_issuer_cannot_make_a_sandbox() -> None:
    """AUT-3: whatever a user's token claims, its key is the issuer's."""
    with DevelopmentIdentityProvider(audience="openshell-gateway:openshell") as provider:
        access = assemble(
            oidc={
                "issuer": provider.issuer,
                "audience": "openshell-gateway:openshell",
                "dangerously_allow_insecure_http": True,
            }
        )
        text = provider.issue(sandbox_id="sandbox-1", sub="spiffe://openshell/sandbox/sandbox-1")
        assert isinstance(await access.authenticator.authenticate([f"Bearer {text}"]), User)
        await access.aclose()


async def test_unauthenticated_users_are_off_by_default() -> None:
    """AUT-12."""
    access = assemble(oidc={"issuer": "https://issuer.example"})
    assert (await refusal(access)).reason is Reason.TOKEN_MISSING
    await access.aclose()


async def test_the_local_user_stands_for_callers_without_credentials() -> None:
    """Facts 2.7: upstream's local development user."""
    access = assemble(allow_unauthenticated_users=True)
    user = await access.authenticator.authenticate([])
    assert user == User(
        subject="unauthenticated-local-dev",
        issuer="local-dev",
        display_name="Unauthenticated Local Dev",
        roles=frozenset({"openshell-user", "openshell-admin"}),
        scopes=frozenset({"openshell:all"}),
        provider="local_dev",
    )
    access.policy.authorize(methods.UPLOAD_FILE, user)
    assert isinstance(user, User)
    assert access.membership.may(user, "anywhere", "admin")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (f"Bearer {token(signer('ES256'))}", Reason.TOKEN_UNKNOWN_KEY),
        ("Bearer opaque", Reason.TOKEN_MALFORMED),
        ("Basic dXNlcjpwYXNzd29yZA==", Reason.TOKEN_MISSING),
    ],
)
async def test_bad_credentials_are_not_taken_for_none(value: str, reason: Reason) -> None:
    """AUT-1: who presents something is judged by it."""
    access = assemble(allow_unauthenticated_users=True)
    assert (await refusal(access, value)).reason is reason


async def test_the_local_user_goes_by_the_configured_roles() -> None:
    access = assemble(
        allow_unauthenticated_users=True,
        oidc={"issuer": "https://issuer.example", "admin_role": "boss", "user_role": "worker"},
    )
    user = await access.authenticator.authenticate([])
    access.policy.authorize(methods.UPLOAD_FILE, user)
    assert isinstance(user, User)
    assert user.roles == {"boss", "worker"}
    await access.aclose()


async def test_the_gateway_starts_without_its_issuer() -> None:
    """AUT-2: an issuer that is down is an answer to callers, not the end of the gateway."""
    with DevelopmentIdentityProvider(audience="openshell-cli") as provider:
        issuer, text = provider.issuer, provider.issue()
    access = assemble(oidc={"issuer": issuer, "dangerously_allow_insecure_http": True})
    access.start()
    error = await refusal(access, f"Bearer {text}")
    assert error.reason is Reason.ISSUER_UNAVAILABLE
    assert error.retry_delay
    supervisor = await access.authenticator.authenticate(
        [f"Bearer {access.sandbox_tokens.mint('sandbox-1').token}"]
    )
    assert supervisor == SandboxPrincipal("sandbox-1")
    await access.aclose()


def test_users_of_different_issuers_have_different_keys() -> None:
    """RSM-2: uploads belong to issuer and subject together."""

    def user(issuer: str, subject: str) -> User:
        return User(subject, issuer, "", frozenset(), frozenset(), "oidc")

    assert user("https://a.example", "b|c").key != user("https://a.example/b", "c").key
    assert user("https://a.example", "x").key != user("https://b.example", "x").key
    with pytest.raises(ValueError, match="ambiguous"):
        user("https://a.example|b", "c")
