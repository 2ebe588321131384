"""The control stream: connect, announce, serve relays, reconnect."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import Final, Protocol

import grpc
import structlog
from google.protobuf.message import DecodeError
from openshell_files_protocol import methods
from openshell_files_protocol.limits import PROTOCOL_VERSION
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, openshell_pb2

from openshell_supervisor_sim.backoff import Backoff
from openshell_supervisor_sim.relay import RelayByteStream, RelayLostError, StreamCall, open_stream
from openshell_supervisor_sim.token_file import TokenFile, TokenFileError

log = structlog.get_logger("openshell_supervisor_sim.session")

#: Least time between heartbeats, whatever the gateway announces (upstream's).
_HEARTBEAT_FLOOR_SECONDS: Final = 5.0

#: A gateway that missed so many heartbeats is taken for dead.
_MISSED_HEARTBEATS: Final = 3

#: How long a gateway may take to answer the hello.
_HELLO_SECONDS: Final = 15.0


class FileServer(Protocol):
    """What serves a relay: the file agent."""

    async def serve(self, stream: RelayByteStream) -> None:
        """Serve one operation and return."""
        ...


class SessionError(Exception):
    """The session could not be opened, or ended."""


@dataclass(slots=True, kw_only=True)
class SupervisorSession:
    """Keeps one sandbox connected to its gateway until cancelled.

    Attributes:
        channel: to the gateway; carries the control stream and every relay.
        sandbox_id: as the token says.
        token: attached to every call.
        files: serves relays.
        max_chunk_bytes: announced in the hello.
        backoff: between attempts.
        instance_id: of this supervisor; random.
    """

    channel: grpc.aio.Channel
    sandbox_id: str
    token: TokenFile
    files: FileServer
    max_chunk_bytes: int
    backoff: Backoff = field(default_factory=Backoff)
    instance_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    _epoch: int = 0
    _relays: set[asyncio.Task[None]] = field(default_factory=set["asyncio.Task[None]"])
    _outbound: asyncio.Queue[openshell_pb2.SupervisorMessage] = field(
        default_factory=lambda: asyncio.Queue[openshell_pb2.SupervisorMessage](64)
    )

    async def run(self) -> None:
        """Connect, serve and reconnect, for ever.

        On cancellation the relays that are running are cancelled too.
        """
        try:
            while True:
                try:
                    await self._run_once()
                except (SessionError, TokenFileError, RelayLostError) as error:
                    delay = self.backoff.next_delay()
                    log.warning("session ended", reason=str(error), retry_in=round(delay, 2))
                    await asyncio.sleep(delay)
        finally:
            relays = list(self._relays)
            for relay in relays:
                relay.cancel()
            await asyncio.gather(*relays, return_exceptions=True)

    async def _run_once(self) -> None:
        """One session, from hello to its end.

        Relays outlive it: they are calls of their own.
        """
        self._epoch += 1
        call = open_stream(self.channel, methods.CONNECT_SUPERVISOR, await self.token.metadata())
        try:
            interval = await self._greet(call)
            self.backoff.reset()
            self.connected.set()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(call, interval))
                tasks.create_task(self._read(call, interval))
        except* (grpc.RpcError, asyncio.InvalidStateError, SessionError) as group:
            # One clause: what two of them raise comes out as a group, which
            # nobody outside expects. Reader and writer can fail together.
            reasons = [
                str(error) if isinstance(error, SessionError) else await _status(call, error)
                for error in group.exceptions
            ]
            raise SessionError("; ".join(dict.fromkeys(reasons))) from group
        finally:
            self.connected.clear()
            call.cancel()

    async def _greet(self, call: StreamCall) -> float:
        """Send the hello and return the heartbeat interval in seconds."""
        hello = openshell_pb2.SupervisorHello(
            sandbox_id=self.sandbox_id,
            instance_id=self.instance_id,
            connection_epoch=self._epoch,
            file_transfer=file_relay_pb2.FileTransferCapability(
                protocol_version=PROTOCOL_VERSION, max_chunk_bytes=self.max_chunk_bytes
            ),
        )
        await call.write(openshell_pb2.SupervisorMessage(hello=hello).SerializeToString())
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                answer = await self._receive(call)
        except TimeoutError:
            raise SessionError(f"no answer to the hello within {_HELLO_SECONDS:g} s") from None
        match answer.WhichOneof("payload"):
            case "session_accepted":
                accepted = answer.session_accepted
                log.info("session accepted", sandbox_id=self.sandbox_id, session_id=accepted.session_id)
                announced = accepted.heartbeat_interval.ToTimedelta().total_seconds()
                return max(announced, _HEARTBEAT_FLOOR_SECONDS)
            case "session_rejected":
                raise SessionError(f"session rejected: {answer.session_rejected.reason}")
            case other:
                raise SessionError(f"expected SessionAccepted or SessionRejected, got {other}")

    @staticmethod
    async def _receive(call: StreamCall) -> openshell_pb2.GatewayMessage:
        data = await call.read()
        if not isinstance(data, bytes):
            raise SessionError(await _status(call, None))
        try:
            return openshell_pb2.GatewayMessage.FromString(data)
        except DecodeError as error:
            raise SessionError(f"not a GatewayMessage: {error}") from error

    async def _write(self, call: StreamCall, interval: float) -> None:
        """Send what is queued, and a heartbeat when nothing is."""
        heartbeat = openshell_pb2.SupervisorMessage(heartbeat=openshell_pb2.SupervisorHeartbeat())
        while True:
            try:
                async with asyncio.timeout(interval):
                    message = await self._outbound.get()
            except TimeoutError:
                message = heartbeat
            await call.write(message.SerializeToString())

    async def _read(self, call: StreamCall, interval: float) -> None:
        """Take the gateway's messages until its stream ends or falls silent."""
        while True:
            try:
                async with asyncio.timeout(interval * _MISSED_HEARTBEATS):
                    message = await self._receive(call)
            except TimeoutError:
                raise SessionError("the gateway fell silent") from None
            match message.WhichOneof("payload"):
                case "relay_open":
                    relay = asyncio.create_task(self._serve_relay(message.relay_open))
                    self._relays.add(relay)
                    relay.add_done_callback(self._relays.discard)
                case "heartbeat" | "relay_close":
                    pass
                case other:
                    log.warning("gateway message ignored", payload=other)

    async def _serve_relay(self, opened: openshell_pb2.RelayOpen) -> None:
        """Take up one relay; nothing that goes wrong here concerns the session."""
        target = opened.WhichOneof("target")
        if target != "file":
            why = f"this supervisor serves no {target or 'ssh'} target"
            await self._report(opened.channel_id, why)
            return
        try:
            metadata = await self.token.metadata()
        except TokenFileError as error:
            await self._report(opened.channel_id, str(error))
            return
        await self._report(opened.channel_id, None)
        with structlog.contextvars.bound_contextvars(transfer_id=opened.file.transfer_id):
            stream = RelayByteStream(open_stream(self.channel, methods.RELAY_STREAM, metadata))
            try:
                await stream.claim(opened.channel_id)
                await self.files.serve(stream)
            except RelayLostError as error:
                log.info("relay lost", reason=str(error))
            except asyncio.CancelledError:
                stream.cancel()
                raise
            except Exception:
                log.exception("relay failed")
            await stream.close()

    async def _report(self, channel_id: str, error: str | None) -> None:
        """Tell the gateway whether the relay will be taken up (RLY-5)."""
        result = openshell_pb2.RelayOpenResult(
            channel_id=channel_id, success=error is None, error=error or ""
        )
        await self._outbound.put(openshell_pb2.SupervisorMessage(relay_open_result=result))


async def _status(call: StreamCall, error: BaseException | None) -> str:
    if call.done():
        code = await call.code()
        if code is grpc.StatusCode.OK:
            return "the gateway closed the stream"
        return f"{code.name}: {await call.details()}"
    return str(error or "the gateway closed the stream")
