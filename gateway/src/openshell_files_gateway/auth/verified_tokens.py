"""A cache of verified tokens.

A client sends the same token with every call, and verifying it costs as much as
the rest of a small call. Only the time and the issuer's keys can change its
validity; both are checked on every use.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from openshell_files_gateway.auth.issuer_keys import VerificationKey
from openshell_files_gateway.auth.principals import Principal

#: Entries have about 1 KiB each. With more active callers and sandboxes than
#: this, some tokens are verified again.
DEFAULT_CAPACITY: Final = 4096

_PrincipalT = TypeVar("_PrincipalT", bound=Principal)


@dataclass(frozen=True, slots=True)
class VerifiedToken(Generic[_PrincipalT]):
    """The outcome of a verification.

    Attributes:
        principal: the token's principal.
        key: the key that verified it. A user of the entry checks that the
            issuer still publishes this key.
        expires_at: Unix time at which the token expires.
    """

    principal: _PrincipalT
    key: VerificationKey
    expires_at: float


@dataclass(frozen=True, slots=True)
class VerifiedTokensStatistics:
    """Statistics of the cache.

    Attributes:
        entries: tokens in the cache.
        hits: lookups that found their token.
        misses: lookups that did not.
    """

    entries: int
    hits: int
    misses: int


class VerifiedTokens(Generic[_PrincipalT]):
    """Cache of verified tokens by their SHA-256, with eviction of the least recently used.

    It contains neither tokens themselves nor anything about refused ones.

    Args:
        capacity: largest number of tokens.
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[bytes, VerifiedToken[_PrincipalT]] = OrderedDict()
        self._hits = 0
        self._misses = 0

    @property
    def statistics(self) -> VerifiedTokensStatistics:
        """Statistics of the cache."""
        return VerifiedTokensStatistics(len(self._entries), self._hits, self._misses)

    def find(self, token: str, now: float) -> VerifiedToken[_PrincipalT] | None:
        """Return the entry of a token that has not expired; None without one.

        Args:
            token: the token as received.
            now: Unix time.
        """
        digest = _digest(token)
        entry = self._entries.get(digest)
        if entry is None:
            self._misses += 1
            return None
        if now >= entry.expires_at:
            del self._entries[digest]
            self._misses += 1
            return None
        self._entries.move_to_end(digest)
        self._hits += 1
        return entry

    def remember(self, token: str, verified: VerifiedToken[_PrincipalT]) -> None:
        """Add a token, until it expires, is forgotten or evicted."""
        digest = _digest(token)
        self._entries[digest] = verified
        self._entries.move_to_end(digest)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def forget(self, token: str) -> None:
        """Remove a token from the cache."""
        self._entries.pop(_digest(token), None)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
