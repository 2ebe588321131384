"""A gateway in this process, and peers of it that do exactly what a test says."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from openshell_files_gateway.auth.assembly import Access, assemble_access
from openshell_files_gateway.config.settings import GatewaySettings
from openshell_files_gateway.config.tables import (
    LimitSettings,
    OidcSettings,
    RelaySettings,
    SandboxSettings,
    SandboxTokenSettings,
    ServerSettings,
    TlsSettings,
    WorkspaceMember,
    WorkspaceSettings,
)
from openshell_files_gateway.dev.identity_provider import DevelopmentIdentityProvider
from openshell_files_gateway.gateway import Gateway
from openshell_files_protocol import methods
from openshell_files_protocol.framing import (
    FrameDecoder,
    decode_relay_data,
    encode_relay_data,
    frame_segments,
)
from openshell_files_protocol.limits import MAX_CHUNK_BYTES
from openshell_files_protocol.pb.openshell.v1 import (
    exec_relay_pb2,
    file_relay_pb2,
    files_pb2,
    openshell_pb2,
)
from openshell_supervisor_sim.relay.byte_stream import open_stream

SANDBOX = "11111111-1111-4111-8111-111111111111"
OTHER_SANDBOX = "22222222-2222-4222-8222-222222222222"
FOREIGN_SANDBOX = "33333333-3333-4333-8333-333333333333"
AUDIENCE = "tests"

FILES = file_relay_pb2.FileTransferCapability(protocol_version=1, max_chunk_bytes=MAX_CHUNK_BYTES)
#: Of one that takes several operations on a relay (FRM-9).
KEEPS = file_relay_pb2.FileTransferCapability(
    protocol_version=1, max_chunk_bytes=MAX_CHUNK_BYTES, keeps_relays=True
)

RawCall = Any


async def pour(call: Any, message: bytes) -> None:
    """Send a message again and again until the call is over."""
    # Not `call.write`: when the gateway ends the call, that replaces its status by one of its own.
    with suppress(grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
        while not call.done():
            await call._cython_call.send_serialized_message(message)


@dataclass
class FakeRelay:
    """One relay that the fake supervisor claimed; speaks file frames."""

    call: RawCall
    _decoder: FrameDecoder = field(default_factory=FrameDecoder)
    _frames: list[file_relay_pb2.FileRelayRequest] = field(
        default_factory=list[file_relay_pb2.FileRelayRequest]
    )

    async def next_frame(self) -> file_relay_pb2.FileRelayRequest | None:
        """Return the gateway's next frame; None when the relay is over."""
        while not self._frames:
            frames = await self._read()
            if frames is None:
                return None
            self._frames += frames
        return self._frames.pop(0)

    async def next_write(self) -> list[file_relay_pb2.FileRelayRequest]:
        """Return what the gateway sent in one piece; nothing may be left of the piece before."""
        assert self._frames == []
        return await self._read() or []

    async def _read(self) -> list[file_relay_pb2.FileRelayRequest] | None:
        message = await self.call.read()
        if not isinstance(message, bytes):
            return None
        data = decode_relay_data(message)
        assert data is not None
        return [
            file_relay_pb2.FileRelayRequest.FromString(bytes(frame)) for frame in self._decoder.feed(data)
        ]

    async def answer(self, response: file_relay_pb2.FileRelayResponse) -> None:
        for message in encode_relay_data(frame_segments([response.SerializeToString()])):
            await self.call.write(message)

    async def send_bytes(self, data: bytes) -> None:
        for message in encode_relay_data([data]):
            await self.call.write(message)


@dataclass
class FakeSupervisor:
    """A supervisor that only does what it is told."""

    channel: grpc.aio.Channel
    token: str
    sandbox_id: str
    call: RawCall = None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),)

    async def connect(
        self,
        files: file_relay_pb2.FileTransferCapability | None = FILES,
        commands: exec_relay_pb2.ExecCapability | None = None,
    ) -> str:
        """Say hello and return the session id."""
        self.call = open_stream(self.channel, methods.CONNECT_SUPERVISOR, self.metadata)
        hello = openshell_pb2.SupervisorHello(
            sandbox_id=self.sandbox_id, instance_id="fake", file_transfer=files, exec=commands
        )
        await self.say(openshell_pb2.SupervisorMessage(hello=hello))
        message = await self.hear()
        assert message is not None
        assert message.WhichOneof("payload") == "session_accepted", message
        return message.session_accepted.session_id

    async def say(self, message: openshell_pb2.SupervisorMessage) -> None:
        await self.call.write(message.SerializeToString())

    async def hear(self) -> openshell_pb2.GatewayMessage | None:
        """Return the gateway's next message that is no heartbeat; None at the end."""
        while True:
            data = await self.call.read()
            if not isinstance(data, bytes):
                return None
            message = openshell_pb2.GatewayMessage.FromString(data)
            if message.WhichOneof("payload") != "heartbeat":
                return message

    async def next_open(self) -> openshell_pb2.RelayOpen:
        message = await self.hear()
        assert message is not None
        assert message.WhichOneof("payload") == "relay_open", message
        return message.relay_open

    async def claim(self, channel_id: str) -> FakeRelay:
        """Claim a relay, and wait until the gateway accepted it."""
        call = open_stream(self.channel, methods.RELAY_STREAM, self.metadata)
        frame = openshell_pb2.RelayFrame(init=openshell_pb2.RelayInit(channel_id=channel_id))
        await call.write(frame.SerializeToString())
        await call.initial_metadata()
        return FakeRelay(call)

    async def take_relay(self) -> FakeRelay:
        return await self.claim((await self.next_open()).channel_id)


@dataclass
class GatewayHarness:
    """A gateway that listens, and everything to talk to it."""

    endpoint: str
    gateway: Gateway
    access: Access
    identity_provider: DevelopmentIdentityProvider
    _channels: list[grpc.aio.Channel] = field(default_factory=list[grpc.aio.Channel])

    def channel(self) -> grpc.aio.Channel:
        """Return a connection of its own (connections are shared otherwise)."""
        channel = grpc.aio.insecure_channel(
            self.endpoint,
            [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 8 << 20)],
        )
        self._channels.append(channel)
        return channel

    def supervisor(self, sandbox_id: str = SANDBOX) -> FakeSupervisor:
        return FakeSupervisor(self.channel(), self.access.sandbox_tokens.mint(sandbox_id).token, sandbox_id)

    def user(self) -> tuple[tuple[str, str], ...]:
        """Return the call metadata of a user who may do everything here."""
        return (("authorization", f"Bearer {self.identity_provider.issue()}"),)

    async def stat(self, sandbox_id: str = SANDBOX, **options: Any) -> files_pb2.StatFileResponse:
        """Call StatFile: the shortest way through a relay and back."""
        request = files_pb2.StatFileRequest(sandbox=files_pb2.SandboxRef(id=sandbox_id), remote_path="/f")
        call = self.channel().unary_unary(
            methods.STAT_FILE,
            request_serializer=files_pb2.StatFileRequest.SerializeToString,
            response_deserializer=files_pb2.StatFileResponse.FromString,
        )
        response: files_pb2.StatFileResponse = await call(request, metadata=self.user(), **options)
        return response

    async def aclose(self) -> None:
        for channel in self._channels:
            await channel.close()


@asynccontextmanager
async def running_gateway(
    *,
    relay: RelaySettings | None = None,
    limits: LimitSettings | None = None,
    more_sandboxes: Iterable[str] = (),
    server: Mapping[str, float] | None = None,
    sandbox_tokens: SandboxTokenSettings | None = None,
    changes: Mapping[str, Any] | None = None,
) -> AsyncGenerator[GatewayHarness, None]:
    """Run a gateway on a free port, with two sandboxes and one of somebody else's.

    Args:
        relay: settings of that table.
        limits: settings of that table.
        more_sandboxes: ids, which are their names too.
        changes: other tables, in the place of what is here.
        server: more settings of that table.
        sandbox_tokens: settings of that table.
    """
    provider = DevelopmentIdentityProvider(audience=AUDIENCE)
    await asyncio.to_thread(provider.start)
    settings = GatewaySettings(
        gateway_id=f"tests-{uuid.uuid4()}",
        server=ServerSettings.model_validate({"port": 0, "stop_timeout": 0.2} | dict(server or {})),
        sandbox_tokens=sandbox_tokens or SandboxTokenSettings(),
        tls=TlsSettings(disabled=True),
        oidc=OidcSettings(issuer=provider.issuer, audience=AUDIENCE, dangerously_allow_insecure_http=True),
        relay=relay or RelaySettings(),
        limits=limits or LimitSettings(),
        sandboxes=(
            SandboxSettings(id=SANDBOX, name="demo"),
            SandboxSettings(id=OTHER_SANDBOX, name="other"),
            SandboxSettings(id=FOREIGN_SANDBOX, name="foreign", workspace="theirs"),
            *(SandboxSettings(id=one, name=one) for one in more_sandboxes),
        ),
        workspaces=(
            WorkspaceSettings(name="default", members=(WorkspaceMember(subject=provider.client_id),)),
            WorkspaceSettings(name="theirs", members=(WorkspaceMember(subject="somebody-else"),)),
        ),
    )
    if changes:
        settings = GatewaySettings(**(dict(settings) | dict(changes)))
    access = assemble_access(settings)
    gateway = Gateway(settings, access)
    harness = GatewayHarness("", gateway, access, provider)
    try:
        harness.endpoint = await gateway.start()
        yield harness
    finally:
        await harness.aclose()
        await gateway.stop()
        await asyncio.to_thread(provider.stop)
