"""The control stream to the gateway: connects, announces, serves relays, reconnects."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import grpc
import structlog
from google.protobuf.message import DecodeError
from openshell_files_process.tasks import TaskScope
from openshell_files_protocol import methods
from openshell_files_protocol.limits import PROTOCOL_VERSION
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2

from openshell_supervisor_sim.relay.byte_stream import (
    RelayByteStream,
    RelayLostError,
    StreamCall,
    open_stream,
)
from openshell_supervisor_sim.relay.targets import (
    RelayServer,
    RelayTargets,
    TargetRefusedError,
    described,
    transfer_id,
)
from openshell_supervisor_sim.session.backoff import Backoff
from openshell_supervisor_sim.session.heartbeats import Heartbeats, agreed
from openshell_supervisor_sim.session.session_remedies import Remedies
from openshell_supervisor_sim.session.token_file import TokenFileError, TokenSource

log = structlog.get_logger("openshell_supervisor_sim.session.control_stream")

#: Results that wait to be sent (upstream's queue).
_OUTBOUND_MESSAGES: Final = 64

#: Status codes of a lost connection (upstream's).
_TRANSPORT_CODES: Final = (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN)

#: How long a gateway may take to answer the hello.
HELLO_SECONDS: Final = 15.0


class SessionError(Exception):
    """The session could not be opened, or ended.

    Attributes:
        code: status of the call; None if it has not ended.
    """

    def __init__(self, reason: str, code: grpc.StatusCode | None = None) -> None:
        super().__init__(reason)
        self.code = code


class SessionClosedError(SessionError):
    """The stream has ended: the gateway ended it, or the connection was lost."""


@dataclass(slots=True, kw_only=True)
class SupervisorSession:
    """Keeps one sandbox connected to its gateway until cancelled.

    Attributes:
        channel: to the gateway; carries the control stream and every relay.
        sandbox_id: of the token.
        token: for every call.
        targets: of relays; the hello announces them.
        backoff: between attempts.
        instance_id: of this supervisor; random.
        cause: returns the cause of a failed connection in a sentence; "" if it finds none.
    """

    channel: grpc.aio.Channel
    sandbox_id: str
    token: TokenSource
    targets: RelayTargets
    backoff: Backoff = field(default_factory=Backoff)
    instance_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    cause: Callable[[], Awaitable[str]] | None = None
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    _epoch: int = 0
    _attempt: int = 0
    _greeted: bool = False
    _draining: bool = False
    _remedies: Remedies = field(default_factory=Remedies)
    _relays: set[str] = field(default_factory=set[str])
    _relay_tasks: TaskScope = field(default_factory=TaskScope)
    _outbound: asyncio.Queue[openshell_pb2.SupervisorMessage] = field(
        default_factory=lambda: asyncio.Queue[openshell_pb2.SupervisorMessage](_OUTBOUND_MESSAGES)
    )

    async def run(self) -> None:
        """Connect, serve and reconnect until cancelled or drained.

        A cancellation ends the running relays, too.
        """
        try:
            while True:
                try:
                    await self._run_once()
                except (SessionError, TokenFileError) as error:
                    if self._draining:
                        await self._end_without_session(error)
                        return
                    self._attempt += 1
                    delay = self.backoff.next_delay()
                    remedy = self._remedies.new(error.code) if isinstance(error, SessionError) else None
                    log.warning(
                        "session failed",
                        reason=await self._reason(error),
                        attempt=self._attempt,
                        retry_in=round(delay, 2),
                        **({} if remedy is None else {"remedy": remedy}),
                    )
                    await asyncio.sleep(delay)
        finally:
            await self._relay_tasks.end()

    async def drain(self, seconds: float) -> int:
        """Accept no more relays, and wait for the running ones.

        Args:
            seconds: to wait at most.

        Returns:
            Relays that still run.
        """
        self._draining = True
        if self.targets.files is not None:
            self.targets.files.finish()
        if self._relays:
            log.info("waiting for relays to end", relays=len(self._relays), seconds=seconds)
        return await self._relay_tasks.wait(seconds)

    async def _reason(self, error: SessionError | TokenFileError) -> str:
        """Return why the session failed: gRPC does not tell a failed TLS handshake from a gateway that does not run."""
        if self.cause is not None and isinstance(error, SessionClosedError) and not self._greeted:
            return await self.cause() or str(error)
        return str(error)

    async def _end_without_session(self, error: Exception) -> None:
        """Wait for the running relays: each is a separate call and needs no session."""
        if isinstance(error, SessionClosedError):
            log.info("session closed", reason=str(error))
        else:
            log.warning("session failed", reason=str(error), attempt=self._attempt)
        await self._relay_tasks.wait()

    async def _run_once(self) -> None:
        """One session, from hello to its end.

        Relays outlive it: each is a separate call.
        """
        self._epoch += 1
        self._greeted = False
        # Messages of the previous session have no meaning in this one.
        self._outbound = asyncio.Queue(_OUTBOUND_MESSAGES)
        call = open_stream(self.channel, methods.CONNECT_SUPERVISOR, await self.token.metadata())
        try:
            heartbeats = await self._greet(call)
            self.backoff.reset()
            self._attempt = 0
            self._remedies.reset()
            self._greeted = True
            self.connected.set()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(call, heartbeats.sending))
                tasks.create_task(self._read(call, heartbeats.silence))
        except* (grpc.RpcError, asyncio.InvalidStateError, SessionError) as group:
            # One clause for all errors: reader and writer can fail together, and the errors of two
            # clauses would leave as a group, which no caller expects.
            errors = [
                error if isinstance(error, SessionError) else await _closed(call, error)
                for error in group.exceptions
            ]
            # If something failed, the end of the call is only its consequence.
            wrong = [error for error in errors if not isinstance(error, SessionClosedError)]
            reasons = "; ".join(dict.fromkeys(map(str, wrong or errors)))
            code = next((error.code for error in wrong or errors if error.code is not None), None)
            raise (SessionError if wrong else SessionClosedError)(reasons, code) from group
        finally:
            self.connected.clear()
            call.cancel()

    async def _greet(self, call: StreamCall) -> Heartbeats:
        """Send the hello, and return the intervals of the session."""
        hello = openshell_pb2.SupervisorHello(
            sandbox_id=self.sandbox_id,
            instance_id=self.instance_id,
            connection_epoch=self._epoch,
        )
        if self.targets.files is not None:
            hello.file_transfer.CopyFrom(self.targets.files.capability)
        if self.targets.commands is not None:
            hello.exec.protocol_version = PROTOCOL_VERSION
        await call.write(openshell_pb2.SupervisorMessage(hello=hello).SerializeToString())
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                answer = await self._receive(call)
        except TimeoutError:
            raise SessionError(f"no answer to the hello within {HELLO_SECONDS:g} s") from None
        match answer.WhichOneof("payload"):
            case "session_accepted":
                accepted = answer.session_accepted
                log.info("session accepted", sandbox_id=self.sandbox_id, session_id=accepted.session_id)
                return agreed(accepted)
            case "session_rejected":
                raise SessionError(f"session rejected: {answer.session_rejected.reason}")
            case other:
                raise SessionError(f"expected SessionAccepted or SessionRejected, got {other}")

    @staticmethod
    async def _receive(call: StreamCall) -> openshell_pb2.GatewayMessage:
        data = await call.read()
        if not isinstance(data, bytes):
            raise await _closed(call, None)
        try:
            return openshell_pb2.GatewayMessage.FromString(data)
        except DecodeError as error:
            raise SessionError(f"not a GatewayMessage: {error}") from error

    async def _write(self, call: StreamCall, interval: float) -> None:
        """Send queued messages, and a heartbeat when none is queued."""
        heartbeat = openshell_pb2.SupervisorMessage(heartbeat=openshell_pb2.SupervisorHeartbeat())
        while True:
            try:
                async with asyncio.timeout(interval):
                    message = await self._outbound.get()
            except TimeoutError:
                message = heartbeat
            await call.write(message.SerializeToString())

    async def _read(self, call: StreamCall, silence: float) -> None:
        """Handle the gateway's messages until its stream ends or is silent for too long."""
        while True:
            try:
                async with asyncio.timeout(silence):
                    message = await self._receive(call)
            except TimeoutError:
                raise SessionError("the gateway sent nothing for too long") from None
            match message.WhichOneof("payload"):
                case "relay_open":
                    self._take_up(message.relay_open)
                case "heartbeat":
                    pass
                case "relay_close":
                    # As upstream, this message closes nothing: a relay ends with its call.
                    closed = message.relay_close
                    log.info("gateway closed a relay", channel_id=closed.channel_id, reason=closed.reason)
                case other:
                    log.warning("gateway message ignored", payload=other)

    def _take_up(self, opened: openshell_pb2.RelayOpen) -> None:
        """Start to serve a relay, once."""
        channel_id = opened.channel_id
        if channel_id in self._relays:
            # The gateway repeats unclaimed opens in a new session.
            log.info("relay is served already", channel_id=channel_id)
            return
        self._relays.add(channel_id)
        relay = self._relay_tasks.start(self._serve_relay(opened), "relay")
        relay.add_done_callback(lambda _: self._relays.discard(channel_id))

    async def _serve_relay(self, opened: openshell_pb2.RelayOpen) -> None:
        """Serve one relay; its failure does not end the session."""
        target = described(opened)
        with structlog.contextvars.bound_contextvars(transfer_id=transfer_id(opened)):
            try:
                if self._draining:
                    raise TargetRefusedError("this supervisor is shutting down")  # noqa: TRY301 - one way to refuse
                async with self.targets.opened(opened) as server:
                    metadata = await self.token.metadata()
                    self._report(opened.channel_id, None)
                    await self._claim_and_serve(opened, server, metadata)
            except (TargetRefusedError, TokenFileError) as error:
                log.warning("relay refused", target=target, channel_id=opened.channel_id, reason=str(error))
                self._report(opened.channel_id, str(error))

    async def _claim_and_serve(
        self, opened: openshell_pb2.RelayOpen, server: RelayServer, metadata: tuple[tuple[str, str], ...]
    ) -> None:
        target = described(opened)
        stream = RelayByteStream(open_stream(self.channel, methods.RELAY_STREAM, metadata))
        try:
            await stream.claim(opened.channel_id)
            log.info("relay open", target=target, channel_id=opened.channel_id)
            await server.serve(stream)
        except RelayLostError as error:
            log.info("relay failed", target=target, channel_id=opened.channel_id, reason=str(error))
        except asyncio.CancelledError:
            await stream.cancel()
            raise
        except Exception:
            log.exception("relay failed by a bug", target=target, channel_id=opened.channel_id)
        else:
            log.info("relay closed", target=target, channel_id=opened.channel_id)
        await stream.close()

    def _report(self, channel_id: str, error: str | None) -> None:
        """Tell the gateway whether this supervisor serves the relay (RLY-5)."""
        result = openshell_pb2.RelayOpenResult(
            channel_id=channel_id, success=error is None, error=error or ""
        )
        try:
            self._outbound.put_nowait(openshell_pb2.SupervisorMessage(relay_open_result=result))
        except asyncio.QueueFull:
            # The gateway has stopped reading; its own timeout ends the relay.
            log.warning("relay result dropped", channel_id=channel_id)


async def _closed(call: StreamCall, error: BaseException | None) -> SessionError:
    """Return the error for a stream that has ended."""
    if not call.done():
        return SessionClosedError(str(error or "the gateway closed the stream"))
    code = await call.code()
    if code is grpc.StatusCode.OK:
        return SessionClosedError("the gateway closed the stream")
    reason = f"{code.name}: {await call.details()}"
    return SessionClosedError(reason, code) if code in _TRANSPORT_CODES else SessionError(reason, code)
