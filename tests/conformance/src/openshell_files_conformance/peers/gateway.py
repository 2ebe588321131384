"""A gateway for the supervisor under test, which does exactly what a case says.

It serves `ConnectSupervisor`, `RelayStream` and `RefreshSandboxToken` on a loopback port. By default it behaves: it accepts every session, opens relays when
a case asks for one, and ends them in order. A case makes it misbehave by answering the hello itself, by resetting a relay, by cutting frames
at any place, by not reading, or by stopping the whole server.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from openshell_files_conformance.checks import CannotGoOnError, Transcript
from openshell_files_conformance.pb.openshell.v1 import openshell_pb2
from openshell_files_conformance.peers.relay_frames import cut

SERVICE: Final = "openshell.v1.OpenShell"
#: The largest message that a gateway takes: 1 MiB and what is around it.
MAX_MESSAGE_BYTES: Final = (1 << 20) + (64 << 10)
#: Bytes of the file protocol in one RelayFrame, unless a case cuts them otherwise.
PIECE_BYTES: Final = 256 << 10
#: How long a supervisor may take to answer, in seconds, before the case cannot go on.
ANSWER_SECONDS: Final = 10.0
#: The longest delay before a supervisor connects again, in seconds.
RECONNECT_SECONDS: Final = 31.0

Context = Any
Answer = Callable[["GatewaySession"], Awaitable[None]]


class RelayRefusedError(CannotGoOnError):
    """The supervisor answered an open with `RelayOpenResult{success: false}`; the text is its own."""


@dataclass
class GatewaySession:
    """The gateway's end of one control stream.

    Attributes:
        hello: the supervisor's first message; None if it was another.
        first: that first message.
        authorization: the header of the call.
        heard: messages after the first, in order.
        over: set when the supervisor's side has ended.
    """

    context: Context
    first: openshell_pb2.SupervisorMessage
    authorization: str
    heard: list[openshell_pb2.SupervisorMessage] = field(
        default_factory=list[openshell_pb2.SupervisorMessage]
    )
    over: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _end: asyncio.Future[grpc.StatusCode] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def hello(self) -> openshell_pb2.SupervisorHello:
        """What the supervisor announced; empty if it sent something else."""
        return self.first.hello

    async def send(self, message: openshell_pb2.GatewayMessage) -> None:
        """Send a message to the supervisor."""
        async with self._turn:
            await self.context.write(message)

    async def accept(self, heartbeat_seconds: float = 5.0) -> None:
        """Accept the session, and announce an interval of heartbeats."""
        accepted = openshell_pb2.SessionAccepted(session_id=f"conformance-{next(_ids)}")
        accepted.heartbeat_interval.FromNanoseconds(int(heartbeat_seconds * 1e9))
        await self.send(openshell_pb2.GatewayMessage(session_accepted=accepted))

    async def heartbeat(self) -> None:
        """Send one heartbeat."""
        await self.send(openshell_pb2.GatewayMessage(heartbeat=openshell_pb2.GatewayHeartbeat()))

    def end(self, code: grpc.StatusCode = grpc.StatusCode.OK) -> None:
        """End the stream; with another code than OK, by an error."""
        if not self._end.done():
            self._end.set_result(code)

    async def wait_for(
        self, wanted: Callable[[openshell_pb2.SupervisorMessage], bool], seconds: float = ANSWER_SECONDS
    ) -> openshell_pb2.SupervisorMessage:
        """Return the first message that is wanted, even if it came before.

        Raises:
            CannotGoOnError: the stream ended, or the message did not come in time.
        """
        try:
            async with asyncio.timeout(seconds), self._changed:
                while True:
                    for message in self.heard:
                        if wanted(message):
                            return message
                    if self.over.is_set():
                        raise CannotGoOnError("the supervisor's session ended before the message came")
                    await self._changed.wait()
        except TimeoutError:
            raise CannotGoOnError(f"the supervisor did not send the message within {seconds:g} s") from None

    async def run(self) -> grpc.StatusCode:
        """Hear the supervisor until one side ends the stream."""
        hearing = asyncio.create_task(self._hear())
        try:
            await _either(hearing, self._end)
            return self._end.result() if self._end.done() else grpc.StatusCode.OK
        finally:
            self.over.set()
            hearing.cancel()
            async with self._changed:
                self._changed.notify_all()

    async def _hear(self) -> None:
        # A broken call ends the stream like an orderly end; which of the two it was, no clause asks.
        with suppress(grpc.RpcError, asyncio.InvalidStateError):
            while isinstance(message := await self.context.read(), openshell_pb2.SupervisorMessage):
                async with self._changed:
                    self.heard.append(message)
                    self._changed.notify_all()


@dataclass
class GatewayRelay:
    """The gateway's end of one relay, as bytes.

    A task reads ahead without bound, so that a case may send for as long as it likes; `hold` stops it, for cases in which nobody reads.

    Attributes:
        authorization: the header of the call.
        pieces: sizes of the messages of bytes that the supervisor sent.
        ended: set when the supervisor sends no more.
    """

    context: Context
    channel_id: str
    authorization: str
    pieces: list[int] = field(default_factory=list[int])
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    _came: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue[bytes])
    _reads: asyncio.Event = field(default_factory=asyncio.Event)
    _end: asyncio.Future[grpc.StatusCode] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    _gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, data: bytes, cuts: Sequence[int] = ()) -> None:
        """Send bytes, cut into pieces of `cuts`, and the rest as it is usual.

        Raises:
            CannotGoOnError: the supervisor has ended the call.
        """
        rest = cut(data, itertools.chain(cuts, itertools.repeat(PIECE_BYTES)))
        for piece in rest:
            await self.send_frame(openshell_pb2.RelayFrame(data=piece))

    async def send_frame(self, frame: openshell_pb2.RelayFrame) -> None:
        """Send one message of the relay.

        Raises:
            CannotGoOnError: the supervisor has ended the call.
        """
        try:
            await self.context.write(frame)
        except (grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError) as error:
            raise CannotGoOnError(f"the supervisor ended the relay: {error}") from error

    async def receive(self, seconds: float = ANSWER_SECONDS) -> bytes:
        """Return the next bytes; b"" when the supervisor sends no more.

        Raises:
            CannotGoOnError: nothing came in time.
        """
        try:
            async with asyncio.timeout(seconds):
                data = await self._came.get()
        except TimeoutError:
            raise CannotGoOnError(f"nothing came on the relay for {seconds:g} s") from None
        if not data:
            self._came.put_nowait(b"")
        return data

    def hold(self) -> None:
        """Read nothing from the supervisor until `read_on`."""
        self._reads.clear()

    def read_on(self) -> None:
        """Read again."""
        self._reads.set()

    def end(self) -> None:
        """End the relay in order."""
        self._finish(grpc.StatusCode.OK)

    def reset(self) -> None:
        """Break the relay off by an error."""
        self._finish(grpc.StatusCode.UNAVAILABLE)

    async def gone(self) -> None:
        """Wait until the call is over on this side."""
        await self._gone.wait()

    def _finish(self, code: grpc.StatusCode) -> None:
        if not self._end.done():
            self._end.set_result(code)

    async def run(self) -> grpc.StatusCode:
        """Read the supervisor's bytes until the gateway ends the relay."""
        self._reads.set()
        reading = asyncio.create_task(self._read())
        try:
            return await self._end
        finally:
            reading.cancel()
            self._over()
            self._gone.set()

    async def _read(self) -> None:
        try:
            while True:
                await self._reads.wait()
                frame = await self.context.read()
                if not isinstance(frame, openshell_pb2.RelayFrame):
                    return
                if frame.data:
                    self.pieces.append(frame.ByteSize())
                    self._came.put_nowait(frame.data)
        except (grpc.RpcError, asyncio.InvalidStateError):
            return
        finally:
            self._over()

    def _over(self) -> None:
        if not self.ended.is_set():
            self.ended.set()
            self._came.put_nowait(b"")


@dataclass
class _Wanted:
    """A relay that the supervisor has been asked for."""

    claimed: asyncio.Future[GatewayRelay]
    metadata_after: asyncio.Event | None = None


async def accept_at_once(session: GatewaySession) -> None:
    """Answer a hello as a gateway does."""
    await session.accept()


_ids = itertools.count(1)


class FakeGateway:
    """Takes a supervisor's calls; cases decide what it says.

    Attributes:
        port: that it listens on, known once it has started.
        answer: what it says to a hello; cases replace it.
        sessions: every session so far, the newest last.
        claims: channel ids that were claimed, in order, those that were refused included.
        wrong_tokens: `authorization` headers of calls that had not the right token.
        refresh: the answer to `RefreshSandboxToken`; without it, UNIMPLEMENTED.
    """

    def __init__(self, token: str = "") -> None:
        self.port = 0
        self.answer: Answer = accept_at_once
        self.sessions: list[GatewaySession] = []
        self.claims: list[str] = []
        self.wrong_tokens: list[str] = []
        self.refresh: Callable[[], Awaitable[openshell_pb2.RefreshSandboxTokenResponse]] | None = None
        self._token = token
        self._wanted: dict[str, _Wanted] = {}
        self._changed = asyncio.Condition()
        self._server: grpc.aio.Server | None = None

    @property
    def endpoint(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    async def start(self, port: int = 0) -> None:
        """Listen; on a given port if the supervisor knows it already."""
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
        server = grpc.aio.server(options=options)
        message = openshell_pb2
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    SERVICE,
                    {
                        "ConnectSupervisor": grpc.stream_stream_rpc_method_handler(
                            self._connect,
                            request_deserializer=message.SupervisorMessage.FromString,
                            response_serializer=message.GatewayMessage.SerializeToString,
                        ),
                        "RelayStream": grpc.stream_stream_rpc_method_handler(
                            self._relay,
                            request_deserializer=message.RelayFrame.FromString,
                            response_serializer=message.RelayFrame.SerializeToString,
                        ),
                        "RefreshSandboxToken": grpc.unary_unary_rpc_method_handler(
                            self._refresh,
                            request_deserializer=message.RefreshSandboxTokenRequest.FromString,
                            response_serializer=message.RefreshSandboxTokenResponse.SerializeToString,
                        ),
                    },
                ),
            )
        )
        self.port = server.add_insecure_port(f"127.0.0.1:{port}")
        if not self.port:
            raise OSError(f"port {port} is taken")
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Drop every connection, as the death of a gateway does; more than once is fine."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    async def session(self, after: int = 0, seconds: float = ANSWER_SECONDS) -> GatewaySession:
        """Return the newest session, once there have been more than `after`.

        Raises:
            CannotGoOnError: the supervisor did not connect in time.
        """
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: len(self.sessions) > after)
                return self.sessions[-1]
        except TimeoutError:
            raise CannotGoOnError(f"the supervisor did not connect within {seconds:g} s") from None

    def new_channel(self) -> str:
        """Return an id of a relay that no other has."""
        return f"conformance-channel-{next(_ids)}"

    def expect(
        self, channel_id: str, *, metadata_after: asyncio.Event | None = None
    ) -> asyncio.Future[GatewayRelay]:
        """Say that a relay may be claimed, and return the future of its claim.

        Args:
            channel_id: of the relay.
            metadata_after: the initial metadata is held back until then.
        """
        claimed: asyncio.Future[GatewayRelay] = asyncio.get_running_loop().create_future()
        self._wanted[channel_id] = _Wanted(claimed, metadata_after)
        return claimed

    async def open_relay(
        self,
        session: GatewaySession,
        opened: openshell_pb2.RelayOpen,
        transcript: Transcript | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> GatewayRelay:
        """Ask the supervisor for a relay, and wait until it claims it.

        Raises:
            RelayRefusedError: it answered that it cannot.
            CannotGoOnError: it did not answer, or the session ended.
        """
        if not opened.channel_id:
            opened.channel_id = self.new_channel()
        claimed = self.expect(opened.channel_id)
        if transcript is not None:
            transcript.sent(f"RelayOpen{{{opened.WhichOneof('target')}}} as {opened.channel_id}")
        await session.send(openshell_pb2.GatewayMessage(relay_open=opened))
        refused = asyncio.create_task(
            session.wait_for(lambda heard: _refuses(heard, opened.channel_id), seconds)
        )
        try:
            await _either(claimed, refused)
            if claimed.done():
                return claimed.result()
            raise RelayRefusedError(refused.result().relay_open_result.error)
        finally:
            refused.cancel()
            with suppress(asyncio.CancelledError, CannotGoOnError):
                await refused
            self._wanted.pop(opened.channel_id, None)

    async def _connect(self, _: AsyncIterator[Any], context: Context) -> None:
        authorization = self._authorized(context)
        if authorization is None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is not the sandbox's")
        first = await context.read()
        if not isinstance(first, openshell_pb2.SupervisorMessage):
            return
        session = GatewaySession(context, first, authorization or "")
        async with self._changed:
            self.sessions.append(session)
            self._changed.notify_all()
        await self.answer(session)
        code = await session.run()
        if code is not grpc.StatusCode.OK:
            await context.abort(code, "the gateway ends the session")

    async def _relay(self, _: AsyncIterator[Any], context: Context) -> None:
        authorization = self._authorized(context)
        if authorization is None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is not the sandbox's")
        first = await context.read()
        channel_id = first.init.channel_id if isinstance(first, openshell_pb2.RelayFrame) else ""
        self.claims.append(channel_id)
        wanted = self._wanted.pop(channel_id, None)
        if wanted is None or wanted.claimed.done():
            await context.abort(grpc.StatusCode.NOT_FOUND, "no relay waits under this channel id")
            return
        if wanted.metadata_after is not None:
            await wanted.metadata_after.wait()
        await context.send_initial_metadata(())
        relay = GatewayRelay(context, channel_id, authorization or "")
        wanted.claimed.set_result(relay)
        code = await relay.run()
        if code is not grpc.StatusCode.OK:
            await context.abort(code, "the gateway breaks the relay off")

    async def _refresh(self, request: Any, context: Context) -> Any:
        del request
        if self.refresh is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no new tokens here")
            return None
        return await self.refresh()

    def _authorized(self, context: Context) -> str | None:
        """Return the `authorization` header; None if it has not the token of the sandbox."""
        headers = [str(value) for key, value in context.invocation_metadata() if key == "authorization"]
        given = headers[0] if headers else ""
        scheme, _, token = given.partition(" ")
        if self._token and (len(headers) != 1 or scheme.lower() != "bearer" or token.strip() != self._token):
            self.wrong_tokens.append(given)
            return None
        return given


async def _either(one: asyncio.Future[Any], other: asyncio.Future[Any]) -> None:
    """Wait until one of two futures is done."""
    await asyncio.wait((one, other), return_when=asyncio.FIRST_COMPLETED)


def _refuses(message: openshell_pb2.SupervisorMessage, channel_id: str) -> bool:
    result = message.relay_open_result
    return message.HasField("relay_open_result") and result.channel_id == channel_id and not result.success


@asynccontextmanager
async def fake_gateway(token: str = "", port: int = 0) -> AsyncGenerator[FakeGateway]:
    """Run a gateway for the length of the context."""
    gateway = FakeGateway(token)
    await gateway.start(port)
    try:
        yield gateway
    finally:
        await gateway.stop()
