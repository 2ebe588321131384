"""Renews the sandbox's token before it expires."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import structlog
from google.protobuf.message import DecodeError
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2

from openshell_supervisor_sim.session.backoff import Backoff
from openshell_supervisor_sim.session.token_file import TokenFile, TokenFileError, is_token

log = structlog.get_logger("openshell_supervisor_sim.token")

#: Part of its lifetime after which a token is renewed (upstream's), and the random part of that, so
#: that not all sandboxes renew at once.
_RENEW_AT: Final = 0.8
_JITTER: Final = 0.1

#: Longest interval between two checks of file and clock, which others may change.
_LOOK_SECONDS: Final = 60.0

_CALL_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class TokenLife:
    """The lifetime of a token, in seconds since 1970."""

    issued: float
    expires: float

    def renewal(self, spread: float) -> float:
        """Return the time of the renewal.

        Args:
            spread: position within the jitter, between 0 and 1.
        """
        return self.issued + (self.expires - self.issued) * _RENEW_AT * (1 - _JITTER * spread)


def token_life(token: str, now: float) -> TokenLife | None:
    """Read the lifetime of the process's own JWT, without verifying it.

    Args:
        token: as calls send it.
        now: time of issue for a token without one.

    Returns:
        None if the token does not expire, or cannot be parsed.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims: Any = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        expires, issued = float(claims.get("exp") or 0), float(claims.get("iat") or now)
    except (binascii.Error, ValueError, TypeError, AttributeError, OverflowError):
        return None
    # Upstream writes 0 for a token that never expires.
    return TokenLife(min(issued, now), expires) if expires > 0 else None


class RenewalError(Exception):
    """The gateway did not issue a new token."""


@dataclass(slots=True, kw_only=True)
class TokenRenewal:
    """Renews the token in a file until cancelled; never ends a session.

    Attributes:
        channel: to the gateway.
        tokens: file of the token.
        backoff: after a failure.
        clock: seconds since 1970.
        look_seconds: longest interval between two checks of file and clock.
    """

    channel: grpc.aio.Channel
    tokens: TokenFile
    backoff: Backoff = field(default_factory=lambda: Backoff(initial=5.0, maximum=120.0))
    clock: Callable[[], float] = time.time
    look_seconds: float = _LOOK_SECONDS

    async def run(self) -> None:
        """Renew the token each time before it expires."""
        spread = random.random()  # noqa: S311 - spreads load, is no secret
        while True:
            try:
                delay = await self._renew_if_due(spread)
            except (RenewalError, TokenFileError) as error:
                delay = self.backoff.next_delay()
                log.warning("the token was not renewed", reason=str(error), retry_in=round(delay, 2))
            await asyncio.sleep(delay)

    async def _renew_if_due(self, spread: float) -> float:
        """Return the seconds until the next check."""
        token = await asyncio.to_thread(self.tokens.read)
        now = self.clock()
        life = token_life(token, now)
        if life is None:
            return self.look_seconds
        due = life.renewal(spread)
        if now < due:
            return min(due - now, self.look_seconds)
        renewed = await self._ask(token)
        await asyncio.to_thread(self.tokens.replace, token, renewed)
        self.backoff.reset()
        next_life = token_life(renewed, now)
        log.info("token renewed", expires=None if next_life is None else round(next_life.expires))
        if next_life is not None and next_life.renewal(spread) <= now:
            # The new token has expired already, or the clocks differ by more than its lifetime;
            # another request at once would not help.
            raise RenewalError(
                "the new token has expired already; compare the clocks of gateway and supervisor"
            )
        return 0.0

    async def _ask(self, token: str) -> str:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(
            methods.REFRESH_SANDBOX_TOKEN
        )
        request = openshell_pb2.RefreshSandboxTokenRequest().SerializeToString()
        try:
            data = await call(
                request, metadata=(("authorization", f"Bearer {token}"),), timeout=_CALL_SECONDS
            )
            renewed = openshell_pb2.RefreshSandboxTokenResponse.FromString(data).token
        except grpc.aio.AioRpcError as error:
            raise RenewalError(f"{error.code().name}: {error.details()}") from error
        except DecodeError as error:
            raise RenewalError(f"not a RefreshSandboxTokenResponse: {error}") from error
        if not is_token(renewed):
            raise RenewalError("the gateway's answer contains no token")
        return renewed
