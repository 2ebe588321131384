"""The development identity provider: real HTTP, real tokens, proper errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import httpx
import jwt
import pytest
from key_sources import Clock
from openshell_files_gateway.auth.oidc.jwks import JwksCache
from openshell_files_gateway.auth.oidc.user_tokens import UserTokenVerifier
from openshell_files_gateway.config.tables import OidcSettings
from openshell_files_gateway.dev.identity_provider import DevelopmentClient, DevelopmentIdentityProvider
from openshell_files_protocol.errors import TransferError

AUDIENCE = "the-gateway"
CLIENTS = (
    DevelopmentClient("first", "s3cret:with+odd chars%"),
    DevelopmentClient("second", "other", roles=("openshell-admin",), scopes=("openshell:all",)),
)


@pytest.fixture(scope="module")
def provider() -> Iterator[DevelopmentIdentityProvider]:
    with DevelopmentIdentityProvider(audience=AUDIENCE, clients=CLIENTS) as running:
        yield running


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False) as client:
        yield client


def verifier(provider: DevelopmentIdentityProvider, clock: Clock) -> tuple[UserTokenVerifier, JwksCache]:
    settings = OidcSettings(
        issuer=provider.issuer,
        audience=provider.audience,
        scopes_claim="scope",
        dangerously_allow_insecure_http=True,
    )
    cache = JwksCache(settings, clock=clock)
    return UserTokenVerifier(settings, cache), cache


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
async def test_a_client_gets_a_token_that_the_gateway_accepts(algorithm: Literal["ES256", "RS256"]) -> None:
    """AUT-2: discovery, client credentials, verification."""
    with DevelopmentIdentityProvider(audience=AUDIENCE, algorithm=algorithm) as running:
        checker, cache = verifier(running, Clock())
        async with httpx.AsyncClient(trust_env=False) as client:
            discovery = (await client.get(running.issuer + "/.well-known/openid-configuration")).json()
            response = await client.post(
                discovery["token_endpoint"],
                data={"grant_type": "client_credentials", "audience": AUDIENCE, "scope": "sandbox:write"},
                auth=(running.client_id, running.client_secret),
            )
        answer = response.json()
        user = await checker.verify(answer["access_token"])
        await cache.aclose()
    assert (answer["token_type"], answer["expires_in"], answer["scope"]) == ("Bearer", 3600, "sandbox:write")
    assert user.subject == running.client_id
    assert user.roles == {"openshell-user"}
    assert user.scopes == {"sandbox:write"}


def test_fetch_token_is_what_a_client_does(provider: DevelopmentIdentityProvider) -> None:
    claims = jwt.decode(provider.fetch_token(scope="sandbox:read"), options={"verify_signature": False})
    assert claims["scope"] == "sandbox:read"
    assert claims.keys() >= {
        "iss",
        "aud",
        "sub",
        "exp",
        "iat",
        "nbf",
        "jti",
        "realm_access",
        "preferred_username",
    }


@pytest.mark.parametrize("way", ["basic", "form"])
def test_a_client_may_say_who_it_is_in_two_ways(
    provider: DevelopmentIdentityProvider, http: httpx.Client, way: str
) -> None:
    """RFC 6749 §2.3.1."""
    form = {"grant_type": "client_credentials"}
    if way == "basic":
        response = http.post(provider.token_endpoint, data=form, auth=("second", "other"))
    else:
        response = http.post(
            provider.token_endpoint, data={**form, "client_id": "second", "client_secret": "other"}
        )
    assert response.status_code == 200
    claims = jwt.decode(response.json()["access_token"], options={"verify_signature": False})
    assert (claims["sub"], claims["realm_access"]["roles"]) == ("second", ["openshell-admin"])


def test_odd_secrets_are_form_encoded_in_basic(
    provider: DevelopmentIdentityProvider, http: httpx.Client
) -> None:
    """RFC 6749 §2.3.1: id and secret are form-encoded before they are joined."""
    response = http.post(
        provider.token_endpoint,
        data={"grant_type": "client_credentials"},
        auth=("first", "s3cret%3Awith%2Bodd+chars%25"),
    )
    assert response.status_code == 200


GOOD = {"grant_type": "client_credentials", "client_id": "second", "client_secret": "other"}

REFUSED: dict[str, tuple[dict[str, str], int, str]] = {
    "grant_missing": ({**GOOD, "grant_type": ""}, 400, "invalid_request"),
    "grant_unknown": ({**GOOD, "grant_type": "password"}, 400, "unsupported_grant_type"),
    "secret_wrong": ({**GOOD, "client_secret": "othe"}, 401, "invalid_client"),
    "secret_missing": ({**GOOD, "client_secret": ""}, 401, "invalid_client"),
    "client_unknown": ({**GOOD, "client_id": "third"}, 401, "invalid_client"),
    "client_missing": ({"grant_type": "client_credentials"}, 401, "invalid_client"),
    "scope_too_wide": ({**GOOD, "scope": "openshell:all more"}, 400, "invalid_scope"),
    "audience_unknown": ({**GOOD, "audience": "somebody-else"}, 400, "invalid_target"),
    "resource_unknown": ({**GOOD, "resource": "https://elsewhere.example"}, 400, "invalid_target"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_those_of_oauth(
    provider: DevelopmentIdentityProvider, http: httpx.Client, case: str
) -> None:
    """RFC 6749 §5.2: JSON with `error`, never stored."""
    form, status, error = REFUSED[case]
    response = http.post(provider.token_endpoint, data=form)
    assert (response.status_code, response.json()["error"]) == (status, error)
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-type"] == "application/json"
    assert ("www-authenticate" in response.headers) is (status == 401)


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"grant_type=client_credentials&grant_type=client_credentials", {}, 400),
        (b"grant_type=client_credentials", {"content-type": "application/json"}, 400),
        (b"grant_type", {}, 400),
        (b"grant_type=\xff", {}, 400),
        (b"grant_type=client_credentials", {"authorization": "Basic !!!"}, 401),
        (b"grant_type=client_credentials", {"authorization": "Bearer abc"}, 401),
        (b"grant_type=client_credentials", {"authorization": "Basic c2Vjb25k"}, 401),
        (b"grant_type=client_credentials&client_secret=x", {"authorization": "Basic c2Vjb25kOm90aGVy"}, 400),
        (b"grant_type=client_credentials&client_id=x", {"authorization": "Basic c2Vjb25kOm90aGVy"}, 400),
        (b"x=" + b"y" * 20_000, {}, 413),
    ],
)
def test_odd_requests_are_refused(
    provider: DevelopmentIdentityProvider,
    http: httpx.Client,
    content: bytes,
    headers: dict[str, str],
    status: int,
) -> None:
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert http.post(provider.token_endpoint, content=content, headers=kind | headers).status_code == status


def test_a_body_without_length_is_refused(provider: DevelopmentIdentityProvider, http: httpx.Client) -> None:
    assert http.post(provider.token_endpoint, content=iter([b"grant_type=x"])).status_code == 411


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/token", 405),
        ("POST", "/jwks", 405),
        ("POST", "/.well-known/openid-configuration", 405),
        ("GET", "/", 404),
        ("POST", "/", 404),
    ],
)
def test_other_paths_and_methods_are_refused(
    provider: DevelopmentIdentityProvider, http: httpx.Client, method: str, path: str, status: int
) -> None:
    response = http.request(method, provider.issuer + path)
    assert response.status_code == status
    assert ("allow" in response.headers) is (status == 405)


def test_no_private_part_of_a_key_is_published(
    provider: DevelopmentIdentityProvider, http: httpx.Client
) -> None:
    keys = http.get(provider.issuer + "/jwks").json()["keys"]
    assert keys
    assert all(not {"d", "p", "q", "k"} & key.keys() for key in keys)


async def test_rotation_is_followed() -> None:
    """AUT-2: with the old key still published its tokens stay valid, without it they do not."""
    with DevelopmentIdentityProvider(audience=AUDIENCE) as running:
        clock = Clock()
        checker, cache = verifier(running, clock)
        before = running.issue()
        await checker.verify(before)
        running.rotate_key()
        between = running.issue()
        clock.now += 1
        await checker.verify(between)
        await checker.verify(before)
        running.rotate_key(keep_previous=False)
        clock.now += 1
        await checker.verify(running.issue())
        for text in (before, between):
            with pytest.raises(TransferError, match="TOKEN_UNKNOWN_KEY"):
                await checker.verify(text)
        await cache.aclose()


def test_claims_can_be_replaced_and_left_out(provider: DevelopmentIdentityProvider) -> None:
    text = provider.issue(ttl=-5, sub="somebody", aud=["a", "b"], nbf=None)
    claims = jwt.decode(text, options={"verify_signature": False})
    assert (claims["sub"], claims["aud"]) == ("somebody", ["a", "b"])
    assert claims["exp"] == claims["iat"] - 5
    assert "nbf" not in claims


def test_it_can_be_stopped_more_than_once() -> None:
    running = DevelopmentIdentityProvider(audience=AUDIENCE)
    running.stop()
    running.start()
    issuer = running.issuer
    running.start()
    assert running.issuer == issuer
    running.stop()
    running.stop()
    with pytest.raises(RuntimeError, match="not running"):
        _ = running.issuer
    with pytest.raises(httpx.ConnectError):
        httpx.get(issuer, trust_env=False)


def test_no_connection_outlives_it(provider: DevelopmentIdentityProvider, http: httpx.Client) -> None:
    """Otherwise a client that keeps connections would not notice an outage."""
    assert http.get(provider.issuer + "/jwks").headers["connection"] == "close"


def test_secrets_are_random_and_not_shown() -> None:
    one, other = (DevelopmentIdentityProvider(audience=AUDIENCE) for _ in range(2))
    assert one.client_secret != other.client_secret
    assert one.client_secret not in repr(one.clients)
