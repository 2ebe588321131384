"""Relays that have carried an operation and wait for the next one of their sandbox (FRM-9)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from openshell_files_gateway.relay.channel import RelayChannel
    from openshell_files_gateway.relay.file_relay import FileRelay
    from openshell_files_gateway.relay.session import SupervisorSession

#: How long one waits. Agents wait much longer, so that it is this side that ends it.
KEEP_SECONDS: Final = 5.0

#: A relay holds its supervisor's connection; one that is to be replaced (connection age) must come to an end.
MOST_SECONDS: Final = 60.0

#: Of one sandbox at a time.
MOST_RELAYS: Final = 8


@dataclass(slots=True)
class KeptRelay:
    """A relay to the file agent of a sandbox.

    Attributes:
        channel: its bytes; whoever has the relay closes it.
        session: that it was opened in.
        relay: the file protocol on it.
        until: when it is not kept any more, on the loop's clock.
    """

    channel: RelayChannel
    session: SupervisorSession
    relay: FileRelay
    until: float


class KeptRelays:
    """Relays at rest, by sandbox.

    To open a relay the supervisor is asked over its session and makes a call
    of its own; for a small file that is as much work as the file.
    """

    def __init__(self) -> None:
        self._resting: dict[str, list[KeptRelay]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closed = False

    def __len__(self) -> int:
        return sum(map(len, self._resting.values()))

    def begin(self, channel: RelayChannel, session: SupervisorSession, relay: FileRelay) -> KeptRelay:
        """Begin to count the time of a new relay."""
        return KeptRelay(channel, session, relay, asyncio.get_running_loop().time() + MOST_SECONDS)

    def take(self, sandbox_id: str, session: SupervisorSession | None) -> KeptRelay | None:
        """Return a relay of a sandbox's current session, if one rests; it is the caller's then."""
        resting = self._resting.pop(sandbox_id, [])
        found: KeptRelay | None = None
        while resting and found is None:
            kept = resting.pop()
            if kept.channel.resume() and kept.session is session:
                found = kept
            else:
                kept.channel.close()
        if resting:
            self._resting[sandbox_id] = resting
        else:
            self._cancel_timer(sandbox_id)
        return found

    def keep(self, sandbox_id: str, kept: KeptRelay) -> None:
        """Let a relay rest whose operation ended in order; closes it if it cannot."""
        loop = asyncio.get_running_loop()
        resting = self._resting.get(sandbox_id, [])
        if self._closed or kept.channel.closed or loop.time() >= kept.until or len(resting) >= MOST_RELAYS:
            kept.channel.close()
            return
        kept.channel.rest()
        self._resting.setdefault(sandbox_id, resting).append(kept)
        # One timer for all: they are used last in, first out, so the rest of them ends when nobody came for so long.
        self._cancel_timer(sandbox_id)
        self._timers[sandbox_id] = loop.call_later(KEEP_SECONDS, self._release, sandbox_id)

    def close(self) -> None:
        """Close those that rest, and keep none any more."""
        self._closed = True
        for sandbox_id in list(self._resting):
            self._cancel_timer(sandbox_id)
            self._release(sandbox_id)

    def _release(self, sandbox_id: str) -> None:
        self._timers.pop(sandbox_id, None)
        for kept in self._resting.pop(sandbox_id, []):
            kept.channel.close()

    def _cancel_timer(self, sandbox_id: str) -> None:
        timer = self._timers.pop(sandbox_id, None)
        if timer is not None:
            timer.cancel()
