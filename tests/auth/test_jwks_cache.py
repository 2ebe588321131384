"""AUT-2: the issuer's keys through rotation, outage and floods."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import structlog
from key_sources import Clock, ScriptedSource, until
from openshell_files_gateway.auth.oidc.jwks import JwksCache
from openshell_files_gateway.config.tables import OidcSettings
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason
from token_forge import ISSUER, signer

OLD = signer("ES256", "old")
NEW = signer("ES256", "new", label="new")

TTL = 100.0
COOLDOWN = 1.0


class Setting:
    """A cache, the source behind it and the clock beside it."""

    def __init__(self) -> None:
        self.clock = Clock(1000.0)
        self.source = ScriptedSource(OLD)
        self.cache = JwksCache(
            OidcSettings(issuer=ISSUER, jwks_ttl=TTL, refresh_cooldown=COOLDOWN),
            source=self.source,
            clock=self.clock,
        )

    async def refusal(self, key_id: str) -> TransferError:
        with pytest.raises(TransferError) as caught:
            await self.cache.find(key_id)
        return caught.value

    async def until_fetched(self, fetches: int) -> None:
        """Wait until so many fetches have ended or are held up."""
        await until(lambda: self.source.fetches >= fetches)


@pytest.fixture
async def at() -> AsyncIterator[Setting]:
    setting = Setting()
    yield setting
    await setting.cache.aclose()


async def test_a_fresh_key_is_cached(at: Setting) -> None:
    """AUT-2: one fetch serves everybody within the TTL."""
    assert (await at.cache.find("old")).key_id == "old"
    at.clock.now += TTL - 0.1
    assert (await at.cache.find("old")).key_id == "old"
    assert at.source.fetches == 1


async def test_many_first_callers_share_one_fetch(at: Setting) -> None:
    """AUT-2: single flight."""
    at.source.gate.clear()
    callers = [asyncio.create_task(at.cache.find("old")) for _ in range(50)]
    await at.source.began.wait()
    at.source.gate.set()
    assert {key.key_id for key in await asyncio.gather(*callers)} == {"old"}
    assert at.source.fetches == 1


async def test_a_stale_key_is_used_while_new_ones_are_fetched(at: Setting) -> None:
    """AUT-2: past the TTL nobody waits, and the refresh happens nevertheless."""
    await at.cache.find("old")
    at.clock.now += TTL
    at.source.gate.clear()
    at.source.publish_only(NEW)
    assert (await at.cache.find("old")).key_id == "old"
    assert (await at.cache.find("old")).key_id == "old"
    await at.until_fetched(2)
    at.source.gate.set()
    await until(lambda: at.cache.cached("new") is not None)
    assert at.cache.cached("old") is None
    assert at.source.fetches == 2


async def test_a_key_that_the_issuer_withdrew_is_unknown(at: Setting) -> None:
    """AUT-2: after rotation the old key verifies nothing."""
    await at.cache.find("old")
    at.source.publish_only(NEW)
    at.clock.now += COOLDOWN
    assert (await at.cache.find("new")).key_id == "new"
    at.clock.now += COOLDOWN
    assert (await at.refusal("old")).reason is Reason.TOKEN_UNKNOWN_KEY


async def test_a_flood_of_unknown_keys_causes_one_fetch_per_cooldown(at: Setting) -> None:
    """AUT-2: tokens cannot be used to hammer the issuer."""
    await at.cache.find("old")
    for expected in (2, 3):
        at.clock.now += COOLDOWN
        outcomes = await asyncio.gather(
            *(at.cache.find(f"forged-{number}") for number in range(200)), return_exceptions=True
        )
        assert {getattr(outcome, "reason", None) for outcome in outcomes} == {Reason.TOKEN_UNKNOWN_KEY}
        assert (await at.refusal("forged-again")).reason is Reason.TOKEN_UNKNOWN_KEY
        assert at.source.fetches == expected


async def test_known_keys_are_served_during_a_flood(at: Setting) -> None:
    """AUT-2: a fetch for somebody else's token is nobody's problem."""
    await at.cache.find("old")
    at.clock.now += COOLDOWN
    at.source.gate.clear()
    forged = asyncio.create_task(at.cache.find("forged"))
    await at.until_fetched(2)
    assert (await at.cache.find("old")).key_id == "old"
    at.source.gate.set()
    with pytest.raises(TransferError):
        await forged


async def test_keys_outlive_an_outage_three_times_their_ttl(at: Setting) -> None:
    """AUT-2: an issuer that is down locks nobody out at once, and nobody in for ever."""
    await at.cache.find("old")
    at.source.fail()
    at.clock.now += 2 * TTL
    assert (await at.cache.find("old")).key_id == "old"
    await at.until_fetched(2)
    at.clock.now += TTL - 0.1
    assert (await at.cache.find("old")).key_id == "old"
    await at.until_fetched(3)
    at.clock.now += 0.1
    error = await at.refusal("old")
    assert error.reason is Reason.ISSUER_UNAVAILABLE
    assert error.retry_delay is not None
    assert error.retry_delay > 0
    assert at.cache.cached("old") is None


async def test_the_issuer_coming_back_ends_the_outage(at: Setting) -> None:
    """AUT-2: nothing has to be restarted."""
    at.source.fail()
    assert (await at.refusal("old")).reason is Reason.ISSUER_UNAVAILABLE
    at.source.failure = None
    at.clock.now += COOLDOWN
    assert (await at.cache.find("old")).key_id == "old"
    assert at.cache.statistics.last_failure == ""


async def test_an_unknown_key_during_an_outage_may_be_a_new_one(at: Setting) -> None:
    """AUT-2: what cannot be found out is no reason to send a caller away for good."""
    await at.cache.find("old")
    at.source.fail()
    at.clock.now += COOLDOWN
    assert (await at.refusal("new")).reason is Reason.ISSUER_UNAVAILABLE
    assert (await at.cache.find("old")).key_id == "old"


@pytest.mark.parametrize("keys", [[], [{"kty": "oct", "kid": "old"}]], ids=["empty", "only unusable"])
async def test_a_set_without_usable_keys_changes_nothing(at: Setting, keys: list[dict[str, str]]) -> None:
    """AUT-2: an issuer's mishap does not empty the cache."""
    await at.cache.find("old")
    at.source.raw_keys = keys
    at.clock.now += TTL
    await at.cache.find("old")
    await at.until_fetched(2)
    assert (await at.cache.find("old")).key_id == "old"
    assert at.cache.statistics.failures == 1


async def test_attempts_become_rarer_while_the_issuer_is_down(at: Setting) -> None:
    """AUT-2: the cooldown doubles, up to half a minute; callers are told when to come back."""
    at.source.fail()
    delays: list[float] = []
    for _ in range(8):
        delay = (await at.refusal("old")).retry_delay
        assert delay is not None
        delays.append(delay)
        fetches = at.source.fetches
        at.clock.now += delay / 2
        await at.refusal("old")
        assert at.source.fetches == fetches
        at.clock.now += delay / 2
    assert delays == [1, 2, 4, 8, 16, 30, 30, 30]


async def test_a_bug_in_fetching_is_an_outage(at: Setting) -> None:
    """AUT-2: resolver and HTTP client raise more than they document; callers get a row of the table."""
    at.source.failure = UnicodeError("label too long")
    with structlog.testing.capture_logs() as logs:
        assert (await at.refusal("old")).reason is Reason.ISSUER_UNAVAILABLE
    assert any(entry.get("exc_info") for entry in logs)
    assert "label too long" in at.cache.statistics.last_failure
    at.source.failure = None
    at.clock.now += COOLDOWN
    assert (await at.cache.find("old")).key_id == "old"


async def test_a_caller_that_gives_up_does_not_end_the_fetch(at: Setting) -> None:
    """AUT-2: the fetch is everybody's."""
    at.source.gate.clear()
    impatient, patient = (asyncio.create_task(at.cache.find("old")) for _ in range(2))
    await at.source.began.wait()
    impatient.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await impatient
    at.source.gate.set()
    assert (await patient).key_id == "old"
    assert at.source.fetches == 1


async def test_the_upkeep_fetches_without_being_asked(at: Setting) -> None:
    """AUT-2: `start` does not wait for the issuer, and the first caller does not either."""
    at.cache.start()
    assert at.source.fetches == 0
    await at.until_fetched(1)
    assert at.cache.cached("old") is not None


async def test_the_upkeep_tries_again() -> None:
    """AUT-2: an issuer that is down when the gateway starts is asked again, without a caller."""
    source = ScriptedSource(OLD)
    source.fail()
    cache = JwksCache(OidcSettings(issuer=ISSUER, refresh_cooldown=0.001), source=source)
    cache.start()
    await until(lambda: source.fetches >= 3)
    source.failure = None
    await until(lambda: cache.cached("old") is not None)
    await cache.aclose()


async def test_the_upkeep_fetches_again_when_the_ttl_is_over() -> None:
    """AUT-2: a key that was withdrawn goes even if no caller comes."""
    source = ScriptedSource(OLD)
    cache = JwksCache(OidcSettings(issuer=ISSUER, jwks_ttl=0.01, refresh_cooldown=0.001), source=source)
    cache.start()
    await until(lambda: source.fetches >= 3)
    await cache.aclose()


async def test_closing_leaves_nothing_behind_and_cancels_no_caller(at: Setting) -> None:
    """AUT-2: a caller that waits while the gateway stops gets an answer."""
    at.source.gate.clear()
    at.cache.start()
    caller = asyncio.create_task(at.cache.find("old"))
    await at.source.began.wait()
    await at.cache.aclose()
    with pytest.raises(TransferError) as caught:
        await caller
    assert caught.value.reason is Reason.ISSUER_UNAVAILABLE
    assert at.source.closed
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("jwks")]
    assert (await at.refusal("old")).reason is Reason.ISSUER_UNAVAILABLE
    assert at.source.fetches == 1
