"""The pool of relays to file agents: where a relay is reused (FRM-26, ADR 0016)."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from openshell_files_gateway.relay.core.relay_states import RelayEvent, RelayLife, RelayState
from openshell_files_gateway.relay.file_relay import FileRelay

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from openshell_files_gateway.relay.broker import RelayBroker
    from openshell_files_gateway.relay.targets import RelayTarget

#: How long a relay may stay idle. Agents wait much longer, so that always the gateway closes it.
IDLE_SECONDS: Final = 5.0

#: Age at which a relay is no longer reused. An open relay keeps its connection open, even past the connection's maximum age.
MAX_AGE_SECONDS: Final = 60.0

#: Limit on idle relays of one sandbox.
MAX_IDLE: Final = 8


class RelayPool:
    """Pool of relays: hands out an idle relay of the sandbox or opens a new one.

    Opening a relay takes a message on the supervisor's session and a call of
    the supervisor; for a small file that costs as much as the file itself.

    Args:
        broker: opens relays, and knows the sandboxes' sessions.
    """

    def __init__(self, broker: RelayBroker) -> None:
        self._broker = broker
        self._lives: set[RelayLife] = set()
        self._idle: dict[str, list[FileRelay]] = {}
        self._in_use: dict[str, set[FileRelay]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        broker.on_session_change = self.session_changed

    def statistics(self) -> Counter[RelayState]:
        """Count the relays by state."""
        return Counter(life.state for life in self._lives)

    @asynccontextmanager
    async def use(
        self, sandbox_id: str, target: RelayTarget, on_frame: Callable[[], None], *, reuse: bool
    ) -> AsyncGenerator[FileRelay]:
        """Lease a relay for one operation, within the context.

        Args:
            sandbox_id: a sandbox that the caller may use.
            target: the relay's far end.
            on_frame: called for every frame of the agent.
            reuse: take an idle relay if there is one, and return this one to
                the pool afterwards.

        Raises:
            TransferError: as `RelayBroker.open_relay`.
        """
        relay = self._take(sandbox_id, target) if reuse else None
        if relay is None:
            relay = await self._open(sandbox_id, target)
        in_use = self._in_use.setdefault(sandbox_id, set())
        in_use.add(relay)
        relay.begin(on_frame, reusable=reuse)
        try:
            yield relay
        finally:
            in_use.discard(relay)
            if not in_use and self._in_use.get(sandbox_id) is in_use:
                del self._in_use[sandbox_id]
            self._return(sandbox_id, relay)

    def session_changed(self, sandbox_id: str) -> None:
        """Close a sandbox's idle relays, and reused ones on which the former supervisor has not answered yet.

        A frozen supervisor looks like a slow one. A relay that was claimed for
        the current operation shows that the supervisor is alive; a reused
        relay shows it only when the agent sends a frame.
        """
        self._keep(sandbox_id, [])
        session = self._broker.session_of(sandbox_id)
        for relay in self._in_use.get(sandbox_id, ()):
            if session not in {None, relay.session} and relay.life.operations > 1 and not relay.heard:
                relay.channel.lose("a newer session of the supervisor is here")

    async def _open(self, sandbox_id: str, target: RelayTarget) -> FileRelay:
        life = RelayLife()
        self._lives.add(life)
        try:
            channel, session = await self._broker.open_relay(sandbox_id, target)
        except BaseException:
            self._lives.discard(life)
            raise
        life.after(RelayEvent.CLAIM)
        expires = asyncio.get_running_loop().time() + MAX_AGE_SECONDS
        return FileRelay(channel, session, life, expires)

    def _take(self, sandbox_id: str, target: RelayTarget) -> FileRelay | None:
        """Return an idle relay of the sandbox's current session, if there is one."""
        session = self._broker.usable_session(sandbox_id, target)
        idle = list(self._idle.get(sandbox_id, ()))
        found: FileRelay | None = None
        now = asyncio.get_running_loop().time()
        while idle and found is None:
            relay = idle.pop()
            if relay.channel.end_idle() and relay.session is session and now < relay.idle_until:
                relay.life.after(RelayEvent.REUSE)
                found = relay
        self._keep(sandbox_id, idle, taken=found)
        return found

    def _return(self, sandbox_id: str, relay: FileRelay) -> None:
        """Make a relay idle if its operation ended in order and the pool has room; else close it."""
        now = asyncio.get_running_loop().time()
        idle = [other for other in self._idle.get(sandbox_id, ()) if not other.channel.closed]
        if (
            relay.ended_in_order()
            and not relay.channel.closed
            and len(idle) < MAX_IDLE
            and self._broker.session_of(sandbox_id) is relay.session
        ):
            relay.life.after(RelayEvent.RETURN)
            relay.idle_until = min(now + IDLE_SECONDS, relay.expires)
            relay.channel.begin_idle()
            self._keep(sandbox_id, [*idle, relay])
        else:
            self._end(relay)

    def _end(self, relay: FileRelay) -> None:
        relay.channel.close()
        relay.life.after(RelayEvent.CLOSE)
        self._lives.discard(relay.life)

    def _keep(self, sandbox_id: str, idle: list[FileRelay], *, taken: FileRelay | None = None) -> None:
        """Set a sandbox's idle relays: close all others except `taken`, and start the timer for the first to expire."""
        for relay in self._idle.pop(sandbox_id, ()):
            if relay is not taken and relay not in idle:
                self._end(relay)
        if (timer := self._timers.pop(sandbox_id, None)) is not None:
            timer.cancel()
        if idle:
            self._idle[sandbox_id] = idle
            due = min(relay.idle_until for relay in idle)
            self._timers[sandbox_id] = asyncio.get_running_loop().call_at(
                due, self._close_overdue, sandbox_id
            )

    def _close_overdue(self, sandbox_id: str) -> None:
        now = asyncio.get_running_loop().time()
        self._keep(sandbox_id, [relay for relay in self._idle.get(sandbox_id, ()) if relay.idle_until > now])
