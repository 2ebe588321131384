"""A gateway for the supervisor under test, which does exactly what a case says.

It serves `ConnectSupervisor`, `RelayStream` and `RefreshSandboxToken` on a loopback port. By default it behaves: it accepts every session, opens relays when
a case asks for one, and ends them in order. A case makes it misbehave by answering the hello itself, by resetting a relay, by cutting frames
at any place, by not reading, or by stopping the whole server.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc

from openshell_files_conformance.checks import CannotGoOnError, Transcript
from openshell_files_conformance.pb.openshell.v1 import openshell_pb2
from openshell_files_conformance.peers.gateway_streams import (
    ANSWER_SECONDS,
    Context,
    GatewayRelay,
    GatewaySession,
    either,
)

SERVICE: Final = "openshell.v1.OpenShell"
#: The largest message that a gateway takes: 1 MiB and what is around it.
MAX_MESSAGE_BYTES: Final = (1 << 20) + (64 << 10)
#: The longest delay before a supervisor connects again, in seconds.
RECONNECT_SECONDS: Final = 31.0

Answer = Callable[["GatewaySession"], Awaitable[None]]


class RelayRefusedError(CannotGoOnError):
    """The supervisor answered an open with `RelayOpenResult{success: false}`; the text is its own."""


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
            await either(claimed, refused)
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
