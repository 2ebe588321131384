"""The methods that supervisors call: ConnectSupervisor, RelayStream, RefreshSandboxToken."""

from __future__ import annotations

import asyncio
import uuid
from typing import Final, Protocol

import structlog
from openshell_files_protocol.durations import duration_of
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.auth.sandbox_tokens import SandboxTokenIssuer
from openshell_files_gateway.concurrency.tasks import Helpers, with_helpers
from openshell_files_gateway.relay.broker import RelayBroker
from openshell_files_gateway.relay.channel import RelayChannel
from openshell_files_gateway.relay.paces import SupervisorPaces, floods
from openshell_files_gateway.relay.supervisor_session import SupervisorSession
from openshell_files_gateway.sandboxes.directory import SandboxDirectory
from openshell_files_gateway.server.calls import Call, Implementation, parse_request
from openshell_files_gateway.server.core.pace import LEAST_PAUSE_SECONDS
from openshell_files_gateway.server.headers import send_headers

log = structlog.get_logger("openshell_files_gateway.supervisors")

#: Time limit for the first message of a stream (upstream has none).
_FIRST_MESSAGE_SECONDS: Final = 10.0

#: Size of the largest meaningful control message; a larger one counts as several.
_MESSAGE_BYTES: Final = 4096


class Presence(Protocol):
    """Keeps record of the sandboxes whose supervisor is connected."""

    async def connected(self, sandbox_id: str, instance_id: str) -> None:
        """Record that a supervisor's session is the sandbox's current one."""
        ...

    async def disconnected(self, sandbox_id: str) -> None:
        """Record that the sandbox's current session ended."""
        ...


class SupervisorMethods:
    """Implements the methods that supervisors call.

    Args:
        directory: the sandboxes that may connect.
        broker: holds the sessions, opens the relays.
        tokens: mints the tokens that RefreshSandboxToken returns.
        presence: records which sandboxes have a supervisor.
        heartbeat_seconds: interval of the gateway's heartbeats, announced to
            supervisors for theirs.
        silence_seconds: timeout after which a silent session is closed.
            Upstream has no such timeout (docs/adr/0007).
    """

    def __init__(
        self,
        directory: SandboxDirectory,
        broker: RelayBroker,
        tokens: SandboxTokenIssuer,
        presence: Presence,
        *,
        heartbeat_seconds: float,
        silence_seconds: float,
    ) -> None:
        self._directory = directory
        self._broker = broker
        self._tokens = tokens
        self._presence = presence
        self._heartbeat = heartbeat_seconds
        self._silence = silence_seconds

    def implementations(self) -> dict[str, Implementation]:
        """Return the methods by name."""
        return {
            "ConnectSupervisor": self.connect_supervisor,
            "RelayStream": self.relay_stream,
            "RefreshSandboxToken": self.refresh_sandbox_token,
        }

    async def connect_supervisor(self, _: object, call: Call) -> None:
        """ConnectSupervisor: the control stream of one sandbox (RLY-1, RLY-4)."""
        hello = await self._hello(call)
        session = SupervisorSession(str(uuid.uuid4()), hello)
        accepted = openshell_pb2.SessionAccepted(
            session_id=session.session_id, heartbeat_interval=duration_of(self._heartbeat)
        )
        # Queued before the session is registered, so that no RelayOpen
        # overtakes it, which would be fatal for upstream's supervisor.
        session.send_first(openshell_pb2.GatewayMessage(session_accepted=accepted))
        call.facts |= {"session_id": session.session_id, "instance_id": hello.instance_id}

        async def connected(helpers: Helpers) -> None:
            helpers.start(self._write(session, call), "session-write")
            helpers.start(self._read(session, call), "session-read")
            try:
                await self._broker.connect(session)
                log.info(
                    "supervisor connected",
                    sandbox_id=session.sandbox_id,
                    session_id=session.session_id,
                    serves_files=session.files is not None,
                    serves_commands=session.commands is not None,
                )
                await self._presence.connected(session.sandbox_id, session.instance_id)
                await session.wait_ended()
                # The reader ends the session, perhaps because of an error.
                helpers.check()
            finally:
                session.end("the stream ended")
                was_current = self._broker.disconnect(session)
                call.facts |= {"end_reason": session.end_reason, "was_current": was_current}
                if was_current:
                    await self._presence.disconnected(session.sandbox_id)

        await with_helpers(connected)

    async def relay_stream(self, _: object, call: Call) -> None:
        """RelayStream: the bytes of one relay (RLY-2, RLY-3)."""
        data = await self._first(call, "first RelayFrame must be init with non-empty channel_id")
        frame: openshell_pb2.RelayFrame = parse_request(openshell_pb2.RelayFrame, data)
        channel_id = frame.init.channel_id
        if frame.WhichOneof("payload") != "init" or not channel_id:
            raise invalid("init", "first RelayFrame must be init with non-empty channel_id")
        call.facts["channel_id"] = channel_id
        target = self._broker.take(channel_id, call.sandbox_id)
        call.rename(target.transfer_id)
        channel = RelayChannel(channel_id, call.context, self._broker.paces.of_relay(call.sandbox_id, target))
        try:
            # By default the headers go out with the first byte, but the
            # supervisor waits for them before it reads.
            await send_headers(call.context)
            self._broker.deliver(channel)
            await channel.wait_closed()
        finally:
            self._broker.lose(channel_id)
            channel.lose("the supervisor's stream ended")
            await channel.aclose()
            call.facts |= {
                "to_sandbox_bytes": channel.bytes_sent,
                "from_sandbox_bytes": channel.bytes_received,
            }

    async def refresh_sandbox_token(self, data: bytes, call: Call) -> bytes:
        """RefreshSandboxToken: mint a new token for the calling sandbox."""
        parse_request(openshell_pb2.RefreshSandboxTokenRequest, data)
        self._require_record(call.sandbox_id)
        token, expires = self._tokens.mint(call.sandbox_id)
        response = openshell_pb2.RefreshSandboxTokenResponse(token=token)
        if expires is not None:
            response.expiration_time.FromSeconds(expires)
        return response.SerializeToString()

    async def _hello(self, call: Call) -> openshell_pb2.SupervisorHello:
        data = await self._first(call, "stream closed before hello")
        message: openshell_pb2.SupervisorMessage = parse_request(openshell_pb2.SupervisorMessage, data)
        if message.WhichOneof("payload") != "hello":
            raise invalid("hello", "expected SupervisorHello")
        hello = message.hello
        if not hello.sandbox_id:
            raise invalid("hello.sandbox_id", "sandbox_id is required")
        if hello.sandbox_id != call.sandbox_id:
            raise TransferError(
                Reason.SANDBOX_MISMATCH, "cross-sandbox access denied: principal does not own this sandbox"
            )
        self._require_record(hello.sandbox_id)
        SupervisorPaces.require_patience(self._broker.paces.of_session(hello.sandbox_id))
        return hello

    @staticmethod
    async def _first(call: Call, complaint: str) -> bytes:
        try:
            async with asyncio.timeout(_FIRST_MESSAGE_SECONDS):
                data = await call.read()
        except TimeoutError:
            raise TransferError(
                Reason.TRANSFER_IDLE, f"no first message within {_FIRST_MESSAGE_SECONDS:g} s"
            ) from None
        if not isinstance(data, bytes):
            raise invalid("request", complaint)
        return data

    def _require_record(self, sandbox_id: str) -> None:
        if self._directory.find(sandbox_id) is None:
            raise TransferError(Reason.SANDBOX_NOT_FOUND, "sandbox not found")

    async def _write(self, session: SupervisorSession, call: Call) -> None:
        """Send the queued messages, and a heartbeat whenever the queue stays empty for the interval."""
        heartbeat = openshell_pb2.GatewayMessage(heartbeat=openshell_pb2.GatewayHeartbeat())
        while True:
            try:
                async with asyncio.timeout(self._heartbeat):
                    message = await session.next_outbound()
            except TimeoutError:
                message = heartbeat
            await call.write(message.SerializeToString())

    async def _read(self, session: SupervisorSession, call: Call) -> None:
        """Read the supervisor's messages, within the rate limit, until its stream ends or falls silent.

        Raises:
            TransferError: SUPERVISOR_FLOODS if it stays above the rate.
        """
        clock = asyncio.get_running_loop().time
        pace = self._broker.paces.of_session(session.sandbox_id)
        while True:
            try:
                async with asyncio.timeout(self._silence):
                    data = await call.read()
            except TimeoutError:
                session.end(f"no message for {self._silence:g} s")
                return
            if not isinstance(data, bytes):
                session.end("the supervisor ended its stream")
                return
            message: openshell_pb2.SupervisorMessage = parse_request(openshell_pb2.SupervisorMessage, data)
            self._handle(message, session)
            pause = pace.take(now := clock(), max(1.0, len(data) / _MESSAGE_BYTES))
            if pace.flooding(now):
                session.end("it flooded the gateway")
                raise floods(pace.banned(now))
            if pause >= LEAST_PAUSE_SECONDS:
                await asyncio.sleep(pause)

    def _handle(self, message: openshell_pb2.SupervisorMessage, session: SupervisorSession) -> None:
        match message.WhichOneof("payload"):
            case "heartbeat":
                pass
            case "relay_open_result":
                result = message.relay_open_result
                if not result.success:
                    self._broker.refuse(result.channel_id, session.sandbox_id, result.error)
            case "relay_close":
                log.info("supervisor closed a relay", channel_id=message.relay_close.channel_id[:64])
            case other:
                # A second hello, or a message that is newer than this gateway.
                log.warning("supervisor message ignored", sandbox_id=session.sandbox_id, payload=other)
