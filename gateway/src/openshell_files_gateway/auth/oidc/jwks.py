"""A cache of the issuer's keys (AUT-2).

* Within the TTL, cached keys are fresh, and no caller waits. After the TTL they
  stay in use for up to three TTLs, while a background task fetches new ones.
* Without usable keys, and for an unknown key id, callers wait for a fetch. All
  of them share one fetch, and none starts within the cooldown after the last,
  which grows after failures.
* A fetch that fails, or finds no usable key, leaves the cached keys unchanged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason
from structlog.typing import FilteringBoundLogger

from openshell_files_gateway.auth.issuer_keys import KeySet, VerificationKey
from openshell_files_gateway.auth.oidc.issuer_documents import IssuerDocumentError, IssuerDocuments, KeySource
from openshell_files_gateway.concurrency.tasks import BackgroundTasks
from openshell_files_gateway.config.tables import OidcSettings

#: Factor of the TTL for which keys stay in use while the issuer does not answer.
STALE_FACTOR: Final = 3

#: Longest backoff between two fetches while the issuer does not answer.
_MAX_BACKOFF_SECONDS: Final = 30.0

_log: FilteringBoundLogger = structlog.get_logger("openshell_files_gateway.auth")


@dataclass(frozen=True, slots=True)
class JwksStatistics:
    """Statistics of the cache.

    Attributes:
        keys: number of cached keys.
        age: seconds since they were fetched; None without keys.
        fetches: number of fetches.
        failures: fetches that found no usable key.
        last_failure: cause of the last fetch's failure; empty if it succeeded.
    """

    keys: int
    age: float | None
    fetches: int
    failures: int
    last_failure: str


class JwksCache:
    """Finds an issuer's key by its id.

    Use it in one event loop. Between `start` and `aclose` it fetches keys in
    the background; without `start` it fetches only when a caller needs keys.

    Args:
        settings: issuer, TTL and cooldown.
        source: source of the keys; default: the issuer's documents.
        clock: seconds on a monotonic clock.
    """

    def __init__(
        self,
        settings: OidcSettings,
        *,
        source: KeySource | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._source = source or IssuerDocuments(settings)
        self._clock = clock
        self._keys: KeySet | None = None
        self._fetched_at = 0.0
        self._next_fetch_at = 0.0
        self._last_failure = ""
        self._failures_in_row = 0
        self._fetches = 0
        self._failures = 0
        self._tasks = BackgroundTasks()
        self._refresh: asyncio.Task[None] | None = None
        self._upkeep: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def statistics(self) -> JwksStatistics:
        """Statistics of the cache."""
        return JwksStatistics(
            keys=len(self._keys.keys) if self._keys else 0,
            age=self._clock() - self._fetched_at if self._keys else None,
            fetches=self._fetches,
            failures=self._failures,
            last_failure=self._last_failure,
        )

    def start(self) -> None:
        """Start the task that fetches the keys and keeps them fresh until `aclose`.

        Returns at once, since the gateway must be able to start while the
        issuer is down.
        """
        if self._upkeep is None:
            self._upkeep = self._tasks.start(self._keep_fresh(), "jwks-upkeep")

    async def aclose(self) -> None:
        """End the tasks and close the connections."""
        self._closed = True
        self._upkeep = self._refresh = None
        await self._tasks.end()
        await self._source.aclose()

    async def find(self, key_id: str) -> VerificationKey:
        """Return the key with that id.

        Raises:
            TransferError: TOKEN_UNKNOWN_KEY if the issuer has no such key;
                ISSUER_UNAVAILABLE with a retry delay if the keys cannot be
                fetched.
        """
        if not self._usable:
            await self._fetch_if_allowed()
        elif self._age >= self._settings.jwks_ttl and self._fetch_allowed:
            self._begin_refresh()
        key = self.cached(key_id)
        if key is None and self._usable:
            await self._fetch_if_allowed()
            key = self.cached(key_id)
        if key is not None:
            return key
        if self._usable and not self._last_failure:
            raise TransferError(
                Reason.TOKEN_UNKNOWN_KEY, f"the token's key is not among those of '{self._settings.issuer}'"
            )
        raise TransferError(
            Reason.ISSUER_UNAVAILABLE,
            f"the keys of '{self._settings.issuer}' cannot be fetched",
            retry_delay=max(self._next_fetch_at - self._clock(), self._settings.refresh_cooldown),
        )

    def cached(self, key_id: str) -> VerificationKey | None:
        """Return the key with that id from the cache; None if it is unknown or too old."""
        return self._keys.keys.get(key_id) if self._keys is not None and self._usable else None

    @property
    def _age(self) -> float:
        return self._clock() - self._fetched_at

    @property
    def _usable(self) -> bool:
        return self._keys is not None and self._age < STALE_FACTOR * self._settings.jwks_ttl

    @property
    def _fetch_allowed(self) -> bool:
        return not self._closed and self._clock() >= self._next_fetch_at

    async def _fetch_if_allowed(self) -> None:
        """Wait for the running fetch, or for a new one if the cooldown is over."""
        if self._refresh is not None or self._fetch_allowed:
            # Callers share the fetch: a cancelled caller must not cancel it,
            # and its cancellation by `aclose` must not cancel the callers.
            await asyncio.wait([self._begin_refresh()])

    def _begin_refresh(self) -> asyncio.Task[None]:
        if self._refresh is None:
            self._refresh = self._tasks.start(self._fetch(), "jwks-refresh")
        return self._refresh

    async def _fetch(self) -> None:
        """Fetch the keys once. Failures are recorded and logged, not raised."""
        self._fetches += 1
        try:
            keys = await self._source.fetch()
        except IssuerDocumentError as error:
            self._record_failure(str(error))
        except Exception as error:  # noqa: BLE001 -- logged below; the name resolver alone raises several kinds
            # A bug must not end the upkeep, nor leave callers waiting: it
            # counts as a failed fetch.
            self._record_failure(f"{type(error).__name__}: {error}")
            _log.exception("issuer keys failed unexpectedly", issuer=self._settings.issuer)
        else:
            if keys.keys:
                self._record_success(keys)
            else:
                self._record_failure("the issuer publishes no key that verifies tokens")
        finally:
            self._refresh = None

    def _record_failure(self, why: str) -> None:
        self._failures += 1
        self._failures_in_row += 1
        self._last_failure = why
        cooldown = self._settings.refresh_cooldown
        backoff = cooldown * 2.0 ** min(self._failures_in_row - 1, 16)
        self._next_fetch_at = self._clock() + min(backoff, max(cooldown, _MAX_BACKOFF_SECONDS))
        _log.warning(
            "issuer keys unavailable",
            issuer=self._settings.issuer,
            error=why,
            attempt=self._failures_in_row,
            keys_still_usable=self._usable,
        )

    def _record_success(self, keys: KeySet) -> None:
        changed = self._keys is None or self._keys.keys != keys.keys
        self._keys = keys
        self._fetched_at = self._clock()
        self._next_fetch_at = self._fetched_at + self._settings.refresh_cooldown
        self._failures_in_row = 0
        self._last_failure = ""
        if changed:
            _log.info(
                "issuer keys fetched",
                issuer=self._settings.issuer,
                key_ids=sorted(keys.keys),
                left_out=keys.left_out,
            )

    async def _keep_fresh(self) -> None:
        """Fetch now and after each TTL; retry with backoff while the issuer does not answer."""
        while True:
            await asyncio.wait([self._begin_refresh()])
            due_at = self._next_fetch_at if self._last_failure else self._fetched_at + self._settings.jwks_ttl
            await asyncio.sleep(max(due_at - self._clock(), self._settings.refresh_cooldown))
