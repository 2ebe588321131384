"""Opens relays: finds the supervisor's session, sends RelayOpen, waits for the claim (RLY-3, RLY-14)."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.relay.core.session_table import SessionTable
from openshell_files_gateway.relay.core.waiting_relays import RelayTable
from openshell_files_gateway.relay.paces import SupervisorPaces
from openshell_files_gateway.relay.supervisor_session import SupervisorSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from openshell_files_gateway.relay.channel import RelayChannel
    from openshell_files_gateway.relay.core.session_table import SessionStatistics
    from openshell_files_gateway.relay.core.waiting_relays import RelayStatistics
    from openshell_files_gateway.relay.targets import RelayTarget


@dataclass(frozen=True, slots=True)
class _Waiter:
    """A requester that waits for its relay to be claimed, and the relay's target."""

    channel: asyncio.Future[RelayChannel]
    channel_id: str
    target: RelayTarget

    def request(self) -> openshell_pb2.GatewayMessage:
        """Return the message that asks the supervisor for the relay, in whichever session."""
        return openshell_pb2.GatewayMessage(relay_open=self.target.describe(self.channel_id))


@dataclass(frozen=True, slots=True)
class BrokerStatistics:
    """Numbers of sessions, of relays, and of requesters that wait."""

    sessions: SessionStatistics
    relays: RelayStatistics
    waiting_for_session: int
    waiting_for_claim: int


class RelayBroker:
    """Knows the session of every supervisor, and opens relays in them.

    Args:
        relays: the relays that wait to be claimed, with their limits.
        session_wait_seconds: longest wait for a supervisor that is not
            connected.
        claim_wait_seconds: longest wait for a supervisor to claim a relay.
    """

    def __init__(self, relays: RelayTable, *, session_wait_seconds: float, claim_wait_seconds: float) -> None:
        self._sessions: SessionTable[SupervisorSession] = SessionTable()
        self._relays = relays
        self._session_wait = session_wait_seconds
        self._claim_wait = claim_wait_seconds
        self._waiters: dict[str, _Waiter] = {}
        self._arrivals: dict[str, set[asyncio.Future[SupervisorSession]]] = {}
        self._shut_down = False
        #: Rate limits of supervisors.
        self.paces = SupervisorPaces()
        #: Called with a sandbox's id when its session changes, or the sandbox stops.
        self.on_session_change: Callable[[str], None] = _ignore
        #: Set whenever a requester stops waiting.
        self._claimed = asyncio.Event()

    async def connect(self, session: SupervisorSession) -> None:
        """Register a session, supersede the older one and replay its opens (RLY-4, RLY-16).

        Raises:
            TransferError: GATEWAY_SHUTTING_DOWN, or SESSION_OUTDATED if a later
                connection of the same supervisor is registered already.
        """
        if self._shut_down:
            raise _shutting_down()
        superseded = self._sessions.register(session)
        if superseded is not None:
            superseded.end("superseded by a newer session")
        self.on_session_change(session.sandbox_id)
        for arrival in self._arrivals.pop(session.sandbox_id, ()):
            if not arrival.done():
                arrival.set_result(session)
        for relay in self._relays.undelivered(session.sandbox_id, session.session_id):
            waiter = self._waiters.get(relay.channel_id)
            if waiter is None:
                continue
            try:
                waiter.target.require(session)
            except TransferError as error:
                self._fail(relay.channel_id, error)
            else:
                await session.send(waiter.request())

    def disconnect(self, session: SupervisorSession) -> bool:
        """Forget a session that ended; return True if it was the current one."""
        was_current = self._sessions.remove(session)
        if was_current:
            self.on_session_change(session.sandbox_id)
        return was_current

    def session_of(self, sandbox_id: str) -> SupervisorSession | None:
        """Return the current session of a sandbox."""
        return self._sessions.find(sandbox_id)

    def fail_waiting(self, sandbox_id: str, reason: str) -> None:
        """Fail all requesters that wait for a sandbox which stops or is deleted."""

        def error() -> TransferError:
            return TransferError(Reason.SANDBOX_NOT_READY, f"sandbox is not ready: {reason}")

        self.on_session_change(sandbox_id)
        for relay in self._relays.waiting(sandbox_id):
            self._fail(relay.channel_id, error())
        for arrival in self._arrivals.get(sandbox_id, ()):
            if not arrival.done():
                arrival.set_exception(error())

    def close_session(self, sandbox_id: str, reason: str) -> None:
        """End the session of a sandbox, if it has one."""
        session = self._sessions.find(sandbox_id)
        if session is not None:
            session.end(reason)

    async def open_relay(
        self, sandbox_id: str, target: RelayTarget
    ) -> tuple[RelayChannel, SupervisorSession]:
        """Open a relay into a sandbox.

        The caller closes the channel.

        Returns:
            The claimed channel, and the session that carried the request.

        Raises:
            TransferError: SUPERVISOR_NOT_CONNECTED, SUPERVISOR_FLOODS,
                TOO_MANY_TRANSFERS, RELAY_REFUSED, RELAY_TIMEOUT or
                GATEWAY_SHUTTING_DOWN; or the target's reason for a supervisor
                that did not announce it.
        """
        if self._shut_down:
            raise _shutting_down()
        session = await self._wait_for_session(sandbox_id)
        target.require(session)
        self.paces.require_patience(self.paces.of_relay(sandbox_id, target))
        loop = asyncio.get_running_loop()
        self._fail_overdue(loop.time())
        channel_id = str(uuid.uuid4())
        self._relays.open(channel_id, sandbox_id, session.session_id, loop.time())
        future: asyncio.Future[RelayChannel] = loop.create_future()
        waiter = self._waiters[channel_id] = _Waiter(future, channel_id, target)
        try:
            async with asyncio.timeout(self._claim_wait):
                try:
                    await session.send(waiter.request())
                    return await future, session
                except BaseException:
                    _decline(future)
                    raise
        except TimeoutError:
            raise TransferError(
                Reason.RELAY_TIMEOUT,
                f"relay open timed out: the supervisor did not claim it within {self._claim_wait:g} s",
                retry_delay=1.0,
            ) from None
        finally:
            self._relays.abandon(channel_id)
            self._waiters.pop(channel_id, None)
            self._claimed.set()

    def usable_session(self, sandbox_id: str, target: RelayTarget) -> SupervisorSession | None:
        """Return the sandbox's current session if a relay may be opened in it; None without a session.

        Raises:
            TransferError: as `open_relay` before it sends the request.
        """
        if self._shut_down:
            raise _shutting_down()
        session = self._sessions.find(sandbox_id)
        if session is None:
            return None
        target.require(session)
        self.paces.require_patience(self.paces.of_relay(sandbox_id, target))
        return session

    def take(self, channel_id: str, sandbox_id: str) -> RelayTarget:
        """Claim a relay for its sandbox (RLY-3, RLY-15); `deliver` must follow.

        Returns:
            The relay's target.

        Raises:
            TransferError: RELAY_UNKNOWN, SANDBOX_MISMATCH or RELAY_TIMEOUT.
        """
        self._relays.claim(channel_id, sandbox_id, asyncio.get_running_loop().time())
        # A requester that stops waiting abandons its relay, so a claimed relay has a requester.
        return self._waiters[channel_id].target

    def deliver(self, channel: RelayChannel) -> None:
        """Give a claimed channel to its requester.

        Raises:
            TransferError: RELAY_REQUESTER_GONE.
        """
        waiter = self._waiters.get(channel.channel_id)
        if waiter is None or waiter.channel.done():
            raise TransferError(Reason.RELAY_REQUESTER_GONE, "relay requester dropped")
        waiter.channel.set_result(channel)

    def lose(self, channel_id: str) -> None:
        """Fail a requester whose supervisor died between claim and delivery.

        Changes nothing after the delivery.
        """
        self._fail(
            channel_id,
            TransferError(
                Reason.RELAY_LOST, "the relay to the sandbox broke: the supervisor claimed it and was gone"
            ),
        )

    def refuse(self, channel_id: str, sandbox_id: str, why: str) -> None:
        """Fail the requester of a relay that the supervisor refused (RLY-17)."""
        if self._relays.refuse(channel_id, sandbox_id) is not None:
            self._fail(
                channel_id, TransferError(Reason.RELAY_REFUSED, f"the supervisor refused the relay: {why}")
            )

    async def drain(self, seconds: float) -> None:
        """Refuse new relays, wait for the claims of requested ones, and end the sessions (RLY-19, RLY-20).

        Args:
            seconds: longest wait for the claims.
        """
        self._shut_down = True
        for arrivals in self._arrivals.values():
            for arrival in arrivals:
                if not arrival.done():
                    arrival.set_exception(_shutting_down())
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._waiters:
                    self._claimed.clear()
                    await self._claimed.wait()
        for channel_id in list(self._waiters):
            self._fail(channel_id, _shutting_down())
        for session in self._sessions.all():
            session.end("the gateway is shutting down")

    def statistics(self) -> BrokerStatistics:
        """Return the numbers."""
        return BrokerStatistics(
            self._sessions.statistics(),
            self._relays.statistics(),
            sum(map(len, self._arrivals.values())),
            len(self._waiters),
        )

    async def _wait_for_session(self, sandbox_id: str) -> SupervisorSession:
        session = self._sessions.find(sandbox_id)
        if session is not None:
            return session
        arrival: asyncio.Future[SupervisorSession] = asyncio.get_running_loop().create_future()
        arrivals = self._arrivals.setdefault(sandbox_id, set())
        arrivals.add(arrival)
        try:
            async with asyncio.timeout(self._session_wait):
                return await arrival
        except TimeoutError:
            raise TransferError(
                Reason.SUPERVISOR_NOT_CONNECTED,
                f"supervisor session not connected within {self._session_wait:g} s",
                retry_delay=1.0,
            ) from None
        finally:
            if arrival.done() and not arrival.cancelled():
                # If this call was cancelled in the same turn, its error counts as retrieved.
                arrival.exception()
            arrivals.discard(arrival)
            if not arrivals and self._arrivals.get(sandbox_id) is arrivals:
                del self._arrivals[sandbox_id]

    def _fail_overdue(self, now: float) -> None:
        for relay in self._relays.expire(now):
            self._fail(relay.channel_id, TransferError(Reason.RELAY_TIMEOUT, "relay open timed out"))

    def _fail(self, channel_id: str, error: TransferError) -> None:
        waiter = self._waiters.get(channel_id)
        if waiter is not None and not waiter.channel.done():
            waiter.channel.set_exception(error)


def _decline(claimed: asyncio.Future[RelayChannel]) -> None:
    """Close a channel that was delivered in the turn of the loop in which its requester stopped waiting."""
    if claimed.done() and not claimed.cancelled() and claimed.exception() is None:
        claimed.result().close()


def _ignore(_: str) -> None:
    """Ignore a session change: there is no pool."""


def _shutting_down() -> TransferError:
    return TransferError(Reason.GATEWAY_SHUTTING_DOWN, "the gateway is shutting down", retry_delay=1.0)
