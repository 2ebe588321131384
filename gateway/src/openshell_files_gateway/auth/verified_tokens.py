"""Tokens that were verified already, so that each is paid for once.

A client sends the same token with every call. Checking it again costs as much
as the rest of a small call; what can change meanwhile is only the time and the
issuer's keys, and both are looked at on every use.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from openshell_files_gateway.auth.issuer_keys import VerificationKey
from openshell_files_gateway.auth.principals import Principal

#: About 1 KiB each. Callers and sandboxes that are active at a time; with more
#: of them some tokens are verified again.
DEFAULT_CAPACITY: Final = 4096

_PrincipalT = TypeVar("_PrincipalT", bound=Principal)


@dataclass(frozen=True, slots=True)
class VerifiedToken(Generic[_PrincipalT]):
    """The outcome of a verification.

    Attributes:
        principal: whose token it is.
        key: what it was verified with. Whoever uses the outcome asks first
            whether this is still a key.
        expires_at: Unix time from which it is not accepted.
    """

    principal: _PrincipalT
    key: VerificationKey
    expires_at: float


@dataclass(frozen=True, slots=True)
class VerifiedTokensStatistics:
    """How the memory is used.

    Attributes:
        entries: tokens that are remembered.
        hits: answers from memory.
        misses: tokens that were not remembered.
    """

    entries: int
    hits: int
    misses: int


class VerifiedTokens(Generic[_PrincipalT]):
    """Remembers a bounded number of verified tokens by their SHA-256, the least used are forgotten.

    Tokens themselves are not kept, and refused ones leave no trace.

    Args:
        capacity: most tokens to remember.
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[bytes, VerifiedToken[_PrincipalT]] = OrderedDict()
        self._hits = 0
        self._misses = 0

    @property
    def statistics(self) -> VerifiedTokensStatistics:
        """How the memory is used."""
        return VerifiedTokensStatistics(len(self._entries), self._hits, self._misses)

    def find(self, token: str, now: float) -> VerifiedToken[_PrincipalT] | None:
        """Return what is remembered of a token that has not expired.

        Args:
            token: the token as it came.
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
        """Keep an outcome until it expires, is forgotten, or is displaced."""
        digest = _digest(token)
        self._entries[digest] = verified
        self._entries.move_to_end(digest)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def forget(self, token: str) -> None:
        """Drop what is remembered of a token."""
        self._entries.pop(_digest(token), None)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
