"""Sources of issuer's keys that do as they are told, and clocks that stand still."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from openshell_files_gateway.auth.issuer_keys import KeySet, read_key_set
from openshell_files_gateway.auth.oidc.issuer_documents import IssuerDocumentError
from token_forge import Signer


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is the case.

    Raises:
        TimeoutError: it is not within 10 seconds.
    """
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 -- what is waited for has no event, and shall need none
            await asyncio.sleep(0.001)


class Clock:
    """A clock that moves only when it is told to."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class ScriptedSource:
    """A key source without a network.

    Attributes:
        signers: whose keys it gives.
        raw_keys: if not None, these JWKs instead.
        failure: if not None, fetching fails with this.
        gate: a fetch waits until it is set.
        fetches: how many fetches began.
        closed: whether it was closed.
    """

    def __init__(self, *signers: Signer) -> None:
        self.signers = list(signers)
        self.raw_keys: list[dict[str, Any]] | None = None
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.began = asyncio.Event()
        self.fetches = 0
        self.closed = False

    def fail(self, why: str = "the issuer is down") -> None:
        """Fail from now on."""
        self.failure = IssuerDocumentError(why)

    def publish_only(self, *signers: Signer) -> None:
        """Give the keys of these signers from now on."""
        self.signers = list(signers)

    async def fetch(self) -> KeySet:
        """Give the keys of the signers."""
        self.fetches += 1
        self.began.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        keys = [signer.jwk for signer in self.signers] if self.raw_keys is None else self.raw_keys
        return read_key_set(json.dumps({"keys": keys}).encode())

    async def aclose(self) -> None:
        """Note that it was closed."""
        self.closed = True
