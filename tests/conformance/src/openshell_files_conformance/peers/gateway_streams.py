"""The two streams of a supervisor as the gateway's end sees them: the session, and the bytes of one relay."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import openshell_pb2
from openshell_files_conformance.peers.relay_frames import cut

#: Bytes of the file protocol in one RelayFrame, unless a case cuts them otherwise.
PIECE_BYTES: Final = 256 << 10
#: How long a supervisor may take to answer, in seconds, before the case cannot go on.
ANSWER_SECONDS: Final = 10.0

Context = Any
_sessions = itertools.count(1)


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
        """Send a message to the supervisor.

        Raises:
            CannotGoOnError: the supervisor has ended the session.
        """
        try:
            async with self._turn:
                await self.context.write(message)
        except Exception as error:
            # See `GatewayRelay.send_frame`.
            raise CannotGoOnError(f"the supervisor ended its session: {error}") from error

    async def accept(self, heartbeat_seconds: float = 5.0) -> None:
        """Accept the session, and announce an interval of heartbeats."""
        accepted = openshell_pb2.SessionAccepted(session_id=f"conformance-{next(_sessions)}")
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
            await either(hearing, self._end)
            return self._end.result() if self._end.done() else grpc.StatusCode.OK
        finally:
            self.over.set()
            hearing.cancel()
            async with self._changed:
                self._changed.notify_all()

    async def _hear(self) -> None:
        # A broken call ends the stream like an orderly end; which of the two it was, no clause asks.
        with suppress(Exception):
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
        except Exception as error:
            # grpc.aio has an error of its own, which it does not publish, for a call that has just ended.
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
        except Exception:  # noqa: BLE001 - whatever ended the call, there is nothing more to read
            return
        finally:
            self._over()

    def _over(self) -> None:
        if not self.ended.is_set():
            self.ended.set()
            self._came.put_nowait(b"")


async def either(one: asyncio.Future[Any], other: asyncio.Future[Any]) -> None:
    """Wait until one of two futures is done."""
    await asyncio.wait((one, other), return_when=asyncio.FIRST_COMPLETED)
