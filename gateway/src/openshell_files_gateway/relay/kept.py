"""Relays that have carried an operation and wait for the next one of their sandbox (FRM-9)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from openshell_files_gateway.relay.channel import RelayChannel
    from openshell_files_gateway.relay.file_relay import FileRelay
    from openshell_files_gateway.relay.repeatable import RepeatableChannel
    from openshell_files_gateway.relay.session import SupervisorSession

#: How long one waits. Agents wait much longer, so that it is this side that ends it.
KEEP_SECONDS: Final = 5.0

#: A relay holds its supervisor's connection; one that is to be replaced (connection age) must come to an end.
MOST_SECONDS: Final = 60.0

#: Of one sandbox at a time.
MOST_RELAYS: Final = 8


@dataclass(slots=True, eq=False)
class KeptRelay:
    """A relay to the file agent of a sandbox, lent to one operation at a time.

    Attributes:
        channel: its bytes; whoever has the relay closes it.
        session: that it was opened in.
        relay: the file protocol on it.
        until: when it is not kept any more, on the loop's clock.
        rests_until: when it has rested long enough.
        repeatable: of the operation that has it, unless that is its first one.
    """

    channel: RelayChannel
    session: SupervisorSession
    relay: FileRelay
    until: float
    rests_until: float = 0.0
    repeatable: RepeatableChannel | None = None


class KeptRelays:
    """Relays at rest and those that were lent, by sandbox.

    To open a relay the supervisor is asked over its session and makes a call
    of its own; for a small file that is as much work as the file.
    """

    def __init__(self) -> None:
        self._resting: dict[str, list[KeptRelay]] = {}
        self._lent: dict[str, set[KeptRelay]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closed = False

    def take(self, sandbox_id: str, session: SupervisorSession) -> KeptRelay | None:
        """Lend a relay of a sandbox's current session, if one rests; `keep` or `drop` must follow."""
        now = asyncio.get_running_loop().time()
        resting = self._resting.pop(sandbox_id, [])
        found: KeptRelay | None = None
        while resting and found is None:
            kept = resting.pop()
            if kept.channel.resume() and kept.session is session and now < kept.rests_until:
                found = kept
            else:
                kept.channel.close()
        self._rest(sandbox_id, resting)
        if found is not None:
            self._lent.setdefault(sandbox_id, set()).add(found)
        return found

    def keep(self, sandbox_id: str, kept: KeptRelay) -> None:
        """Let a relay rest whose operation ended in order; closes it if it cannot."""
        self._take_back(sandbox_id, kept)
        now = asyncio.get_running_loop().time()
        resting = [other for other in self._resting.get(sandbox_id, []) if not other.channel.closed]
        if self._closed or kept.channel.closed or now >= kept.until or len(resting) >= MOST_RELAYS:
            kept.channel.close()
            return
        kept.rests_until = min(now + KEEP_SECONDS, kept.until)
        kept.channel.rest()
        self._rest(sandbox_id, [*resting, kept])

    def drop(self, sandbox_id: str, kept: KeptRelay) -> None:
        """Close a relay whose operation did not end in order."""
        self._take_back(sandbox_id, kept)
        kept.channel.close()

    def release(self, sandbox_id: str) -> None:
        """Close those of a sandbox that rest."""
        for kept in self._resting.get(sandbox_id, []):
            kept.channel.close()
        self._rest(sandbox_id, [])

    def supersede(self, sandbox_id: str) -> None:
        """Let go of what an older session's supervisor may never answer on.

        Operations of which its agent has said nothing begin anew, as relays
        that were not claimed are asked for again (RLY-4).
        """
        self.release(sandbox_id)
        for kept in self._lent.get(sandbox_id, ()):
            if kept.repeatable is not None and not kept.repeatable.heard:
                kept.channel.lose("a newer session of the supervisor is here")

    def close(self) -> None:
        """Close those that rest, and keep none any more."""
        self._closed = True
        for sandbox_id in list(self._resting):
            self.release(sandbox_id)

    def _take_back(self, sandbox_id: str, kept: KeptRelay) -> None:
        lent = self._lent.get(sandbox_id, set())
        lent.discard(kept)
        if not lent:
            self._lent.pop(sandbox_id, None)

    def _rest(self, sandbox_id: str, resting: list[KeptRelay]) -> None:
        """Note which ones rest, and wait for the first that has rested long enough."""
        timer = self._timers.pop(sandbox_id, None)
        if timer is not None:
            timer.cancel()
        if not resting:
            self._resting.pop(sandbox_id, None)
            return
        self._resting[sandbox_id] = resting
        due = min(kept.rests_until for kept in resting)
        self._timers[sandbox_id] = asyncio.get_running_loop().call_at(due, self._end_overdue, sandbox_id)

    def _end_overdue(self, sandbox_id: str) -> None:
        now = asyncio.get_running_loop().time()
        resting: list[KeptRelay] = []
        for kept in self._resting.get(sandbox_id, []):
            if kept.rests_until <= now:
                kept.channel.close()
            else:
                resting.append(kept)
        self._rest(sandbox_id, resting)
