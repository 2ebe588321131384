"""A supervisor with a valid token that lies, and callers into its sandbox: what `liar.py` lets loose on a gateway.

It prints "ready" when its session is accepted and its callers call, and goes on until it is killed. Usage:
``lying_supervisor.py --endpoint E --sandbox-id ID --token-file FILE --lie NAME``, with a user's token in
OPENSHELL_FILES_TOKEN.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import grpc
from openshell_files_protocol import methods
from openshell_files_protocol.framing import encode_relay_data, frame_segments
from openshell_files_protocol.limits import MAX_CHUNK_BYTES
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2, openshell_pb2
from openshell_supervisor_sim.relay.byte_stream import StreamCall, open_stream

#: What a program that uses the sandbox without haste does: so many callers, each pausing so long.
CALLERS: Final = 4
PAUSE_SECONDS: Final = 0.1

#: As many calls as one sandbox may have at a time, none of which is answered.
MANY: Final = 32

#: How many calls the liar itself has open at once when it floods with them.
AT_ONCE: Final = 16

#: Longer than a gateway waits for a claim.
EXPIRY_SECONDS: Final = 10.5

_GONE: Final = (
    grpc.aio.AioRpcError,
    grpc.aio.InternalError,
    asyncio.InvalidStateError,
    asyncio.CancelledError,
)

STAT: Final = file_relay_pb2.FileRelayResponse(
    stat_file=files_pb2.StatFileResponse(file=files_pb2.FileInfo(path="/f", size_bytes=5))
)
HEADER: Final = file_relay_pb2.FileRelayResponse(
    download=files_pb2.DownloadFileResponse(header=files_pb2.DownloadFileHeader())
)
CONTENT: Final = file_relay_pb2.FileRelayResponse(download=files_pb2.DownloadFileResponse(chunk=bytes(1)))


def framed(response: file_relay_pb2.FileRelayResponse) -> bytes:
    """Return a frame as the agent sends it."""
    return b"".join(frame_segments([response.SerializeToString()]))


def relay_frame(data: bytes) -> bytes:
    """Return a message of a RelayStream call."""
    return b"".join(encode_relay_data([data]))


@dataclass
class Liar:
    """The supervisor's connection, and a user's.

    Attributes:
        endpoint: the gateway.
        sandbox_id: whose supervisor it is.
        sandbox_token: what it may claim with.
        user_token: of the callers into the sandbox.
    """

    endpoint: str
    sandbox_id: str
    sandbox_token: str
    user_token: str
    tasks: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    def __post_init__(self) -> None:
        self.supervisor = self._channel()
        self.user = self._channel()

    def _channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.endpoint, [("grpc.use_local_subchannel_pool", 1)])

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.sandbox_token}"),)

    @property
    def user_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.user_token}"),)

    def spawn(self, work: Awaitable[object]) -> None:
        """Let something run on; what becomes of it does not matter."""

        async def run() -> None:
            with suppress(*_GONE):
                await work

        task = asyncio.create_task(run())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def connect(self) -> StreamCall:
        """Open the session."""
        call = open_stream(self.supervisor, methods.CONNECT_SUPERVISOR, self.metadata)
        capability = file_relay_pb2.FileTransferCapability(
            protocol_version=1, max_chunk_bytes=MAX_CHUNK_BYTES
        )
        hello = openshell_pb2.SupervisorHello(
            sandbox_id=self.sandbox_id, instance_id=uuid.uuid4().hex, file_transfer=capability
        )
        await call.write(openshell_pb2.SupervisorMessage(hello=hello).SerializeToString())
        await call.read()
        return call

    async def serve(self, session: StreamCall, answer: Callable[[str], Awaitable[object]]) -> None:
        """Call `answer` with the channel of each open."""
        while isinstance(data := await session.read(), bytes):
            message = openshell_pb2.GatewayMessage.FromString(data)
            if message.WhichOneof("payload") == "relay_open":
                self.spawn(answer(message.relay_open.channel_id))

    async def beat(self, session: StreamCall) -> None:
        """Send heartbeats as an honest supervisor does."""
        heartbeat = openshell_pb2.SupervisorMessage(heartbeat=openshell_pb2.SupervisorHeartbeat())
        while True:
            await asyncio.sleep(5)
            await session.write(heartbeat.SerializeToString())

    async def claim(self, channel_id: str) -> StreamCall:
        """Claim a channel, and wait until the gateway accepted."""
        call = open_stream(self.supervisor, methods.RELAY_STREAM, self.metadata)
        init = openshell_pb2.RelayFrame(init=openshell_pb2.RelayInit(channel_id=channel_id))
        await call.write(init.SerializeToString())
        await call.initial_metadata()
        return call

    # What callers do

    async def stat_again_and_again(self) -> None:
        request = files_pb2.StatFileRequest(
            sandbox=files_pb2.SandboxRef(id=self.sandbox_id), remote_path="/f"
        )
        method = cast("Any", self.user.unary_unary(methods.STAT_FILE))
        while True:
            with suppress(grpc.aio.AioRpcError):
                await method(request.SerializeToString(), metadata=self.user_metadata)
            await asyncio.sleep(PAUSE_SECONDS)

    async def download_again_and_again(self) -> None:
        request = files_pb2.DownloadFileRequest(sandbox_id=self.sandbox_id, remote_path="/f")
        method = cast("Any", self.user.unary_stream(methods.DOWNLOAD_FILE))
        while True:
            with suppress(grpc.aio.AioRpcError):
                async for _ in method(request.SerializeToString(), metadata=self.user_metadata):
                    pass
            await asyncio.sleep(PAUSE_SECONDS)

    async def upload_again_and_again(self) -> None:
        metadata = files_pb2.UploadFileMetadata(
            sandbox_id=self.sandbox_id, remote_path="/f", explicit_finish=True
        )
        first = files_pb2.UploadFileRequest(metadata=metadata).SerializeToString()
        piece = files_pb2.UploadFileRequest(chunk=bytes(256 * 1024)).SerializeToString()
        while True:
            call = cast("Any", self.user.stream_unary(methods.UPLOAD_FILE)(metadata=self.user_metadata))
            with suppress(*_GONE):
                await call.write(first)
                while not call.done():
                    await call.write(piece)
            await asyncio.sleep(PAUSE_SECONDS)

    # What the supervisor does with an open

    async def answer_a_stat(self, channel_id: str) -> StreamCall:
        call = await self.claim(channel_id)
        await call.read()
        await call.write(relay_frame(framed(STAT)))
        return call

    async def answer_honestly(self, channel_id: str) -> None:
        call = await self.answer_a_stat(channel_id)
        while isinstance(await call.read(), bytes):
            pass

    async def open_twice(self, channel_id: str) -> None:
        for _ in range(AT_ONCE):
            self.spawn(self.claim(channel_id))
        await self.answer_honestly(channel_id)

    async def send_after_close(self, channel_id: str) -> None:
        call = await self.answer_a_stat(channel_id)
        await self.pour(call, relay_frame(bytes(256 * 1024)))

    async def ignore(self, channel_id: str) -> None:
        pass

    async def answer_late(self, channel_id: str) -> None:
        await asyncio.sleep(EXPIRY_SECONDS)
        await self.claim(channel_id)

    async def flood_with_empty_frames(self, channel_id: str) -> None:
        call = await self.claim(channel_id)
        await self.pour(call, openshell_pb2.RelayFrame(data=b"").SerializeToString())

    async def flood_with_working(self, channel_id: str) -> None:
        call = await self.claim(channel_id)
        working = file_relay_pb2.FileRelayResponse(working=file_relay_pb2.FileRelayWorking())
        await self.pour(call, relay_frame(framed(working) * 20_000))

    async def send_bytes_one_by_one(self, channel_id: str) -> None:
        call = await self.claim(channel_id)
        await call.write(relay_frame(framed(HEADER)))
        pieces = [relay_frame(bytes([byte])) for byte in framed(CONTENT)]
        while True:
            for piece in pieces:
                await call.write(piece)

    async def send_content_byte_by_byte(self, channel_id: str) -> None:
        call = await self.claim(channel_id)
        await call.write(relay_frame(framed(HEADER)))
        await self.pour(call, relay_frame(framed(CONTENT) * 20_000))

    async def take_and_be_silent(self, channel_id: str) -> None:
        call = await self.claim(channel_id)
        await asyncio.Event().wait()
        await call.read()

    @staticmethod
    async def pour(call: StreamCall, message: bytes) -> None:
        """Send a message until the gateway does not take it any more."""
        while True:
            await call.write(message)

    # What it does by itself

    async def claim_what_is_not_its_own(self) -> None:
        while True:
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                call = await self.claim(str(uuid.uuid4()))
                await call.read()


@dataclass(frozen=True)
class Lie:
    """What the supervisor does, and what callers into its sandbox do meanwhile.

    Attributes:
        answer: to each open; None reads none.
        caller: what each caller does; None if there is none.
        callers: how many.
        heartbeats: whether the session says that it lives.
    """

    answer: Callable[[Liar, str], Awaitable[object]] | None = Liar.ignore
    caller: Callable[[Liar], Awaitable[None]] | None = None
    callers: int = CALLERS
    heartbeats: bool = True
    alone: Callable[[Liar, StreamCall], Awaitable[None]] | None = None


async def _claims(liar: Liar, _session: StreamCall) -> None:
    await asyncio.gather(*(liar.claim_what_is_not_its_own() for _ in range(AT_ONCE)))


async def _control_flood(liar: Liar, session: StreamCall) -> None:
    """Flood, and when the session is ended for it, connect and flood again."""
    result = openshell_pb2.RelayOpenResult(channel_id=str(uuid.uuid4()), success=False, error="flood")
    message = openshell_pb2.SupervisorMessage(relay_open_result=result).SerializeToString()
    while True:
        with suppress(grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            await Liar.pour(session, message)
        with suppress(grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            session = await liar.connect()


#: "none" is no lie: what the same callers cost when the supervisor answers as it should.
LIES: Final[dict[str, Lie]] = {
    "none": Lie(Liar.answer_honestly, Liar.stat_again_and_again),
    "claims channels that are not its own": Lie(alone=_claims),
    "opens twice": Lie(Liar.open_twice, Liar.stat_again_and_again),
    "sends data after close": Lie(Liar.send_after_close, Liar.stat_again_and_again),
    "ignores opens": Lie(Liar.ignore, Liar.stat_again_and_again, MANY),
    "answers after expiry": Lie(Liar.answer_late, Liar.stat_again_and_again, MANY),
    "floods the session": Lie(heartbeats=False, alone=_control_flood),
    "floods relays with empty frames": Lie(Liar.flood_with_empty_frames, Liar.download_again_and_again),
    "floods relays with signs of life": Lie(Liar.flood_with_working, Liar.download_again_and_again),
    "cuts relays into single bytes": Lie(Liar.send_bytes_one_by_one, Liar.download_again_and_again),
    "sends frames of one byte": Lie(Liar.send_content_byte_by_byte, Liar.download_again_and_again),
    "goes silent without closing": Lie(
        Liar.take_and_be_silent, Liar.upload_again_and_again, heartbeats=False
    ),
}


async def lie_on(liar: Liar, lie: Lie) -> None:
    """Connect, tell the lie, and never end."""
    session = await liar.connect()
    answer = lie.answer
    if answer is not None:
        liar.spawn(liar.serve(session, lambda channel_id: answer(liar, channel_id)))
    if lie.heartbeats:
        liar.spawn(liar.beat(session))
    if lie.alone is not None:
        liar.spawn(lie.alone(liar, session))
    if lie.caller is not None:
        for _ in range(lie.callers):
            liar.spawn(lie.caller(liar))
    print("ready", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Lie until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--sandbox-id", required=True)
    parser.add_argument("--token-file", type=Path, required=True)
    parser.add_argument("--lie", choices=LIES, required=True)
    arguments = parser.parse_args()
    token = arguments.token_file.read_text("ascii").strip()

    async def run() -> None:
        liar = Liar(arguments.endpoint, arguments.sandbox_id, token, os.environ["OPENSHELL_FILES_TOKEN"])
        await lie_on(liar, LIES[arguments.lie])

    asyncio.run(run())


if __name__ == "__main__":
    main()
