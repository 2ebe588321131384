"""A gateway that does exactly what a test says, for supervisors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from openshell_files_protocol import methods
from openshell_files_protocol.framing import (
    FrameDecoder,
    decode_relay_data,
    encode_relay_data,
    frame_segments,
)
from openshell_files_protocol.pb.openshell.v1 import exec_pb2, exec_relay_pb2, openshell_pb2

Context = Any

Refresh = Callable[[str], Awaitable[openshell_pb2.RefreshSandboxTokenResponse]]


@dataclass
class GatewaySession:
    """The gateway's end of a control stream."""

    context: Context
    hello: openshell_pb2.SupervisorHello
    authorization: str
    over: asyncio.Event = field(default_factory=asyncio.Event)
    status: grpc.StatusCode | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def say(self, **payload: Any) -> None:
        async with self._turn:
            await self.context.write(openshell_pb2.GatewayMessage(**payload).SerializeToString())

    async def accept(self, heartbeat_seconds: float = 60) -> None:
        accepted = openshell_pb2.SessionAccepted(session_id="session")
        accepted.heartbeat_interval.FromNanoseconds(int(heartbeat_seconds * 1e9))
        await self.say(session_accepted=accepted)

    async def hear(self) -> openshell_pb2.SupervisorMessage | None:
        """Return the supervisor's next message; None at the end."""
        data = await self.context.read()
        return openshell_pb2.SupervisorMessage.FromString(data) if isinstance(data, bytes) else None

    async def result(self, channel_id: str) -> openshell_pb2.RelayOpenResult:
        """Return what the supervisor says of a relay."""
        while message := await self.hear():
            if (
                message.WhichOneof("payload") == "relay_open_result"
                and message.relay_open_result.channel_id == channel_id
            ):
                return message.relay_open_result
        raise AssertionError("the session is over")

    def end(self) -> None:
        """End the stream in order."""
        self.over.set()

    def fail(self, code: grpc.StatusCode) -> None:
        """End the stream with an error."""
        self.status = code
        self.over.set()


@dataclass
class GatewayRelay:
    """The gateway's end of a relay."""

    context: Context
    authorization: str
    over: asyncio.Event = field(default_factory=asyncio.Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, data: bytes) -> None:
        for message in encode_relay_data([data]):
            await self.context.write(message)

    async def receive(self) -> bytes:
        """Return the next bytes; b"" when the supervisor sends no more."""
        message = await self.context.read()
        if not isinstance(message, bytes):
            return b""
        data = decode_relay_data(message)
        assert data is not None
        return bytes(data)

    async def rest(self) -> bytes:
        """Return everything that still comes."""
        content = bytearray()
        while data := await self.receive():
            content += data
        return bytes(content)

    def end(self) -> None:
        self.over.set()


@dataclass
class CommandOutcome:
    """What a command's relay brought."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = None
    error: Any = None
    events: list[str] = field(default_factory=list[str])
    largest: int = 0


@dataclass
class ScriptedGateway:
    """Takes every call; a test decides what it answers."""

    endpoint: str = ""
    sessions: asyncio.Queue[GatewaySession] = field(default_factory=asyncio.Queue["GatewaySession"])
    refusals: list[str] = field(default_factory=list[str])
    refresh: Refresh | None = None
    _relays: dict[str, asyncio.Future[GatewayRelay]] = field(
        default_factory=dict[str, "asyncio.Future[GatewayRelay]"]
    )
    claims: list[str] = field(default_factory=list[str])
    _channels: int = 0

    async def accepted_session(self, heartbeat_seconds: float = 60) -> GatewaySession:
        session = await self.sessions.get()
        await session.accept(heartbeat_seconds)
        return session

    def next_channel(self) -> str:
        self._channels += 1
        return f"channel-{self._channels}"

    def claimed(self, channel_id: str) -> asyncio.Future[GatewayRelay]:
        """Return a future of the relay that the supervisor opens under an id."""
        return self._relays.setdefault(channel_id, asyncio.get_running_loop().create_future())

    async def open_relay(self, session: GatewaySession, **target: Any) -> GatewayRelay:
        """Ask for a relay and wait until it is claimed."""
        channel_id = self.next_channel()
        claimed = self.claimed(channel_id)
        await session.say(relay_open=openshell_pb2.RelayOpen(channel_id=channel_id, **target))
        return await claimed

    async def start_command(self, session: GatewaySession, *command: str, **request: Any) -> GatewayRelay:
        """Open a relay for a command and send its request."""
        target = exec_relay_pb2.ExecRelayTarget(transfer_id="t")
        relay = await self.open_relay(session, exec=target)
        timeout = request.pop("timeout", None)
        message = exec_pb2.ExecSandboxRequest(command=command, **request)
        if timeout is not None:
            message.execution_timeout.FromNanoseconds(int(timeout * 1e9))
        opened = exec_relay_pb2.ExecRelayOpen(
            protocol_version=1, transfer_id="t", principal="alice", request=message
        )
        frame = exec_relay_pb2.ExecRelayRequest(open=opened).SerializeToString()
        await relay.send(b"".join(frame_segments([frame])))
        return relay

    async def run(self, session: GatewaySession, *command: str, **request: Any) -> CommandOutcome:
        """Run a command and return everything it brought."""
        return await outcome(await self.start_command(session, *command, **request))

    async def _connect(self, _: Any, context: Context) -> None:
        first = openshell_pb2.SupervisorMessage.FromString(await context.read())
        session = GatewaySession(context, first.hello, _authorization(context))
        self.sessions.put_nowait(session)
        await session.over.wait()
        if session.status is not None:
            await context.abort(session.status, "as the test wants it")

    async def _relay(self, _: Any, context: Context) -> None:
        frame = openshell_pb2.RelayFrame.FromString(await context.read())
        channel_id = frame.init.channel_id
        self.claims.append(channel_id)
        claimed = self._relays.get(channel_id)
        if claimed is None or claimed.done():
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown or expired relay channel")
            return
        await context.send_initial_metadata(())
        relay = GatewayRelay(context, _authorization(context))
        claimed.set_result(relay)
        try:
            await relay.over.wait()
        finally:
            relay.finished.set()

    async def _refresh(self, _: bytes, context: Context) -> bytes:
        if self.refresh is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no refresh here")
            return b""
        response = await self.refresh(_authorization(context))
        return response.SerializeToString()

    def handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            methods.SERVICE,
            {
                "ConnectSupervisor": grpc.stream_stream_rpc_method_handler(self._connect),
                "RelayStream": grpc.stream_stream_rpc_method_handler(self._relay),
                "RefreshSandboxToken": grpc.unary_unary_rpc_method_handler(self._refresh),
            },
        )


def _authorization(context: Context) -> str:
    found = dict(context.invocation_metadata()).get("authorization", "")
    return str(found)


async def outcome(relay: GatewayRelay, *, end: bool = True, already: bytes = b"") -> CommandOutcome:
    """Read a command's relay to its last frame; `already` is what was received before."""
    result = CommandOutcome()
    pieces: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    decoder = FrameDecoder()
    while result.exit_code is None and result.error is None:
        data, already = already or await relay.receive(), b""
        assert data, f"the relay ended without a last frame: {result}"
        for frame in decoder.feed(data):
            _take(exec_relay_pb2.ExecRelayResponse.FromString(bytes(frame)), result, pieces)
    result.stdout, result.stderr = b"".join(pieces["stdout"]), b"".join(pieces["stderr"])
    if end:
        relay.end()
    return result


def _take(
    response: exec_relay_pb2.ExecRelayResponse, result: CommandOutcome, pieces: dict[str, list[bytes]]
) -> None:
    assert result.exit_code is None, "something came after the exit"
    if response.WhichOneof("frame") == "error":
        result.error = response.error
        return
    event = response.event
    kind = event.WhichOneof("payload")
    result.events.append(str(kind))
    match kind:
        case "stdout":
            pieces["stdout"].append(event.stdout.data)
            result.largest = max(result.largest, len(event.stdout.data))
        case "stderr":
            pieces["stderr"].append(event.stderr.data)
            result.largest = max(result.largest, len(event.stderr.data))
        case _:
            result.exit_code = event.exit.exit_code


@asynccontextmanager
async def scripted_gateway() -> AsyncGenerator[ScriptedGateway, None]:
    """Run one on a free port of this machine."""
    gateway = ScriptedGateway()
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 8 << 20)])
    server.add_generic_rpc_handlers((gateway.handlers(),))
    gateway.endpoint = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield gateway
    finally:
        await server.stop(0)
