"""AUT-2: users' tokens, end to end and without holding up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from blockbuster import BlockingError, blockbuster_ctx
from key_sources import Clock, ScriptedSource, until
from openshell_files_gateway.auth.oidc.jwks import JwksCache
from openshell_files_gateway.auth.oidc.user_tokens import UserTokenVerifier
from openshell_files_gateway.auth.principals import User
from openshell_files_gateway.auth.verified_tokens import VerifiedTokens
from openshell_files_gateway.config.signing_key import load_or_create_signing_key
from openshell_files_gateway.config.tables import OidcSettings
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason
from scripted_issuer import DISCOVERY, JWKS, ScriptedIssuer
from token_forge import AUDIENCE, ISSUER, NOW, Signer, honest_claims, signer, token

KEY = signer("ES256", "the-key")
OTHER = signer("ES256", "other-key", label="other")


class Setting:
    """A verifier, and all that it depends on."""

    def __init__(self, *signers: Signer, capacity: int = 8, scopes_claim: str = "") -> None:
        self.clock = Clock(NOW)
        self.monotonic = Clock()
        self.source = ScriptedSource(*(signers or (KEY,)))
        self.verified = VerifiedTokens[User](capacity)
        settings = OidcSettings(issuer=ISSUER, audience=AUDIENCE, jwks_ttl=100, scopes_claim=scopes_claim)
        self.verifier = UserTokenVerifier(
            settings,
            JwksCache(settings, source=self.source, clock=self.monotonic),
            clock=self.clock,
            verified=self.verified,
        )

    async def refusal(self, text: str) -> Reason:
        with pytest.raises(TransferError) as caught:
            await self.verifier.verify(text)
        return caught.value.reason


@pytest.mark.parametrize(
    "algorithm",
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"],
)
async def test_every_algorithm_works_with_its_key(algorithm: str) -> None:
    key = signer(algorithm)
    assert (await Setting(key).verifier.verify(token(key))).subject == "alice-subject"


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt", None])
async def test_access_tokens_may_say_what_they_are(kind: str | None) -> None:
    user = await Setting().verifier.verify(token(KEY, header={"typ": kind}))
    assert user.subject == "alice-subject"


async def test_the_user_is_what_the_token_says() -> None:
    setting = Setting(scopes_claim="scope")
    assert await setting.verifier.verify(token(KEY)) == User(
        subject="alice-subject",
        issuer=ISSUER,
        display_name="alice",
        roles=frozenset({"openshell-user"}),
        scopes=frozenset({"sandbox:write"}),
        provider="oidc",
    )


@pytest.mark.parametrize("name", [None, "", 7, "line\nbreak"])
async def test_a_user_without_a_name_goes_by_the_subject(name: object) -> None:
    user = await Setting().verifier.verify(token(KEY, honest_claims(preferred_username=name)))
    assert user.display_name == user.subject


async def test_scopes_are_not_read_unless_they_are_configured() -> None:
    assert (await Setting().verifier.verify(token(KEY))).scopes == frozenset()


async def test_a_token_is_verified_once() -> None:
    setting = Setting()
    text = token(KEY)
    users = [await setting.verifier.verify(text) for _ in range(5)]
    assert users[0] is users[4]
    assert setting.verified.statistics.hits == 4


async def test_a_verified_token_expires() -> None:
    setting = Setting()
    text = token(KEY, honest_claims(exp=NOW + 10))
    await setting.verifier.verify(text)
    setting.clock.now += 10 + 59.9
    await setting.verifier.verify(text)
    setting.clock.now += 0.1
    assert await setting.refusal(text) is Reason.TOKEN_EXPIRED
    assert setting.verified.statistics.entries == 0


async def test_a_verified_token_goes_with_its_key() -> None:
    """The issuer withdrew the key, perhaps because it was stolen."""
    setting = Setting()
    text = token(KEY)
    await setting.verifier.verify(text)
    setting.source.publish_only(OTHER)
    setting.monotonic.now += 2
    await setting.verifier.verify(token(OTHER))
    assert await setting.refusal(text) is Reason.TOKEN_UNKNOWN_KEY


async def test_a_verified_token_does_not_pass_to_another_key_of_the_same_name() -> None:
    setting = Setting()
    text = token(KEY)
    await setting.verifier.verify(text)
    setting.source.publish_only(signer("ES256", KEY.key_id, label="replacement"), OTHER)
    setting.monotonic.now += 2
    await setting.verifier.verify(token(OTHER))
    assert await setting.refusal(text) is Reason.TOKEN_BAD_SIGNATURE


async def test_a_verified_token_does_not_outlive_a_long_outage() -> None:
    setting = Setting()
    text = token(KEY, honest_claims(exp=NOW + 100_000))
    await setting.verifier.verify(text)
    setting.source.fail()
    setting.monotonic.now += 299
    await setting.verifier.verify(text)
    setting.monotonic.now += 1
    assert await setting.refusal(text) is Reason.ISSUER_UNAVAILABLE


async def test_the_memory_is_bounded_and_keeps_what_is_used() -> None:
    setting = Setting(capacity=4)
    used = token(KEY)
    for number in range(20):
        await setting.verifier.verify(used)
        await setting.verifier.verify(token(KEY, honest_claims(sub=f"user-{number}")))
    assert setting.verified.statistics.entries == 4
    assert setting.verified.statistics.hits == 19


async def test_refused_tokens_leave_no_trace() -> None:
    setting = Setting()
    for number in range(20):
        await setting.refusal(token(KEY, honest_claims(sub=f"user-{number}", aud="somebody-else")))
    assert setting.verified.statistics.entries == 0


@pytest.fixture
def no_blocking() -> Iterator[None]:
    with blockbuster_ctx("openshell_files_gateway"):
        yield


@pytest.fixture
async def issuer() -> AsyncIterator[ScriptedIssuer]:
    async with ScriptedIssuer(KEY) as running:
        yield running


def over_http(issuer: ScriptedIssuer, clock: Clock) -> tuple[UserTokenVerifier, JwksCache]:
    settings = OidcSettings(
        issuer=issuer.issuer, audience=AUDIENCE, jwks_ttl=100, dangerously_allow_insecure_http=True
    )
    cache = JwksCache(settings, clock=clock)
    return UserTokenVerifier(settings, cache, clock=Clock(NOW)), cache


@pytest.mark.usefixtures("no_blocking")
async def test_a_slow_issuer_holds_up_nobody_else(issuer: ScriptedIssuer) -> None:
    """While one caller waits for a key that may exist, others are served and the loop turns."""
    clock = Clock()
    verifier, cache = over_http(issuer, clock)
    known = token(KEY, honest_claims(iss=issuer.issuer))
    await verifier.verify(known)
    clock.now += 2
    issuer.replies[DISCOVERY].gate = gate = asyncio.Event()
    issuer.asked.clear()
    issuer.signers.append(OTHER)
    waiting = [
        asyncio.create_task(verifier.verify(token(OTHER, honest_claims(iss=issuer.issuer)))) for _ in range(3)
    ]
    await issuer.asked.wait()
    for number in range(10):
        fresh = token(KEY, honest_claims(iss=issuer.issuer, sub=f"user-{number}"))
        assert (await verifier.verify(fresh)).subject == f"user-{number}"
    assert not any(task.done() for task in waiting)
    issuer.publish(KEY, OTHER)
    gate.set()
    assert [user.subject for user in await asyncio.gather(*waiting)] == ["alice-subject"] * 3
    assert issuer.requests[JWKS] == 2
    await cache.aclose()


@pytest.mark.usefixtures("no_blocking")
async def test_a_refresh_holds_up_nobody(issuer: ScriptedIssuer) -> None:
    """Past the TTL callers are served with the keys at hand while the issuer takes its time."""
    clock = Clock()
    verifier, cache = over_http(issuer, clock)
    text = token(KEY, honest_claims(iss=issuer.issuer))
    await verifier.verify(text)
    clock.now += 100
    issuer.replies[JWKS].gate = asyncio.Event()
    await verifier.verify(text)
    await until(lambda: issuer.requests[JWKS] == 2)
    await verifier.verify(text)
    await verifier.verify(token(KEY, honest_claims(iss=issuer.issuer, sub="somebody-new")))
    await cache.aclose()


@pytest.mark.usefixtures("no_blocking")
async def test_the_detector_detects(tmp_path: Path) -> None:
    """The two tests before prove nothing otherwise."""
    with pytest.raises(BlockingError):
        load_or_create_signing_key(tmp_path / "key.pem")
