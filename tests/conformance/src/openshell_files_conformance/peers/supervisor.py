"""A supervisor for the gateway under test, which does exactly what a case says.

A session announces what the case wants, and collects what the gateway sends. Relays are claimed, refused, left alone or broken by the case itself, or
served by an agent (`model_agent.py`) where the case is about something else.
"""

from __future__ import annotations

import asyncio
import traceback
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Self

from openshell_files_conformance.checks import CannotGoOnError, Transcript
from openshell_files_conformance.pb.openshell.v1 import (
    exec_relay_pb2,
    file_relay_pb2,
    files_pb2,
    openshell_pb2,
)
from openshell_files_conformance.peers.client import ANSWER_SECONDS, Call, Channel, Ended, brief
from openshell_files_conformance.peers.relay_frames import (
    FrameDecoder,
    FramingError,
    cut,
    encode_frame,
    exec_requests,
    requests,
)

Request = file_relay_pb2.FileRelayRequest
Response = file_relay_pb2.FileRelayResponse
ToGateway = openshell_pb2.SupervisorMessage

#: Bytes of the file protocol in one RelayFrame, unless a case cuts them otherwise.
PIECE_BYTES: Final = 256 << 10
#: How often a session sends a heartbeat, in seconds (RLY-30).
HEARTBEAT_SECONDS: Final = 5.0


def file_transfer(**fields: Any) -> file_relay_pb2.FileTransferCapability:
    """What the hello of a supervisor with a plain file agent announces."""
    announced: dict[str, Any] = {
        "protocol_version": 1,
        "max_chunk_bytes": 512 << 10,
        "digests": [files_pb2.DIGEST_ALGORITHM_SHA256],
        **fields,
    }
    return file_relay_pb2.FileTransferCapability(
        **{name: value for name, value in announced.items() if value is not None}
    )


class SupervisorRelay:
    """The supervisor's end of one relay.

    Attributes:
        frames: of the gateway, decoded so far.
        call: the RelayStream.
    """

    def __init__(self, channel_id: str, call: Call[openshell_pb2.RelayFrame], transcript: Transcript) -> None:
        self.channel_id = channel_id
        self.call = call
        self.frames: list[Any] = []
        self.bytes_received = 0
        self._decoder: FrameDecoder[Any] = requests()
        self._waiting: list[Any] = []
        self._transcript = transcript

    def for_commands(self) -> Self:
        """Decode the frames of a command from here on."""
        self._decoder = exec_requests()
        return self

    async def init(self) -> None:
        """Claim the channel: the first message of the stream."""
        await self.call.send(
            openshell_pb2.RelayFrame(init=openshell_pb2.RelayInit(channel_id=self.channel_id))
        )

    async def send(
        self, *responses: Response | exec_relay_pb2.ExecRelayResponse, cuts: Sequence[int] = ()
    ) -> bool:
        """Send frames, cut into pieces of these sizes; return whether the gateway still took them."""
        for response in responses:
            self._transcript.sent(f"relay: {brief(response)}")
        return await self.send_bytes(b"".join(map(encode_frame, responses)), cuts)

    async def send_bytes(self, data: bytes, cuts: Sequence[int] = ()) -> bool:
        """Send bytes, which need not be frames."""
        for part in cut(data, cuts) if cuts else cut(data, [PIECE_BYTES] * (1 + len(data) // PIECE_BYTES)):
            if not await self.call.send(openshell_pb2.RelayFrame(data=part), quiet=True):
                return False
        return True

    async def next(self, seconds: float | None = None) -> Any | None:
        """Return the gateway's next frame; None when the relay is over.

        Raises:
            CannotGoOnError: nothing came in time, or what came are no frames.
        """
        while not self._waiting:
            received = await self.call.next(seconds)
            if received is None:
                return None
            self.bytes_received += len(received.data)
            try:
                self._waiting = self._decoder.feed(received.data)
            except FramingError as error:
                raise CannotGoOnError(f"the gateway's bytes in a relay are not frames: {error}") from error
        frame = self._waiting.pop(0)
        self.frames.append(frame)
        self._transcript.received(f"relay: {brief(frame)}")
        return frame

    async def opened(self, seconds: float | None = None) -> file_relay_pb2.FileRelayOpen:
        """Return the `open` that must be the next frame.

        Raises:
            CannotGoOnError: it is another.
        """
        frame = await self.next(seconds)
        if frame is None or frame.WhichOneof("frame") != "open":
            raise CannotGoOnError(f"the gateway's frame is {frame and brief(frame)}, and not open")
        opened: file_relay_pb2.FileRelayOpen = frame.open
        return opened

    async def until(self, kind: str, seconds: float | None = None) -> Any | None:
        """Return the next frame of a kind, or None if the relay ends before."""
        while (frame := await self.next(seconds)) is not None:
            if frame.WhichOneof("frame") == kind:
                return frame
        return None

    async def half_close(self) -> None:
        """End the supervisor's side in order."""
        await self.call.half_close()

    def reset(self) -> None:
        """Lose the relay."""
        self.call.cancel()

    async def end(self, seconds: float | None = None) -> Ended[Any]:
        """Wait until the gateway ends the relay."""
        while await self.next(seconds) is not None:
            pass
        return await self.call.end(seconds)

    async def wait_over(self, seconds: float | None = None) -> bool:
        """Return whether the relay comes to its end in time, whatever is still sent on it."""
        try:
            await self.end(seconds)
        except CannotGoOnError:
            return False
        return True


Serve = Callable[["SupervisorSession", openshell_pb2.RelayOpen], Awaitable[None]]


class SupervisorSession:
    """The supervisor's end of one control stream.

    Attributes:
        accepted: the gateway's answer to the hello; None if it was refused.
        heard: every message of the gateway, in order.
        opens: relays that nobody serves by itself.
    """

    def __init__(self, peer: Supervisor, call: Call[openshell_pb2.GatewayMessage]) -> None:
        self.peer = peer
        self.call = call
        self.accepted: openshell_pb2.SessionAccepted | None = None
        self.rejected: openshell_pb2.SessionRejected | None = None
        self.heard: list[openshell_pb2.GatewayMessage] = []
        self.opens: asyncio.Queue[openshell_pb2.RelayOpen] = asyncio.Queue()
        self.ended: Ended[Any] | None = None
        self.serve: Serve | None = None
        self._over = asyncio.Event()
        self._heard = asyncio.Condition()
        self._tasks = set[asyncio.Task[Any]]()

    async def start(self, hello: openshell_pb2.SupervisorHello, *, heartbeats: bool) -> None:
        """Send the hello, and wait for the gateway's answer or its refusal."""
        await self.call.send(ToGateway(hello=hello))
        first = await self.call.next()
        if first is None:
            self.ended = await self.call.end()
            self._over.set()
            return
        self.heard.append(first)
        match first.WhichOneof("payload"):
            case "session_accepted":
                self.accepted = first.session_accepted
            case "session_rejected":
                self.rejected = first.session_rejected
            case other:
                raise CannotGoOnError(f"the gateway's first message of a session is {other}")
        self.spawn(self._hear())
        if heartbeats:
            self.spawn(self._beat())

    def spawn(self, work: Any) -> None:
        """Run something beside the session, until the session is closed."""
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            lines = traceback.format_exception(error)
            self.peer.transcript.note("error in a peer of the suite:\n" + "".join(lines))

    async def send(self, *messages: ToGateway) -> bool:
        """Send control messages."""
        return await self.call.send(*messages)

    async def refuse(self, opened: openshell_pb2.RelayOpen, words: str) -> None:
        """Refuse a relay (RLY-5)."""
        result = openshell_pb2.RelayOpenResult(channel_id=opened.channel_id, success=False, error=words)
        await self.send(ToGateway(relay_open_result=result))

    async def next_open(self, seconds: float | None = None) -> openshell_pb2.RelayOpen:
        """Return the next relay that the gateway wants opened.

        Raises:
            CannotGoOnError: none came in time.
        """
        seconds = self.peer.patience if seconds is None else seconds
        try:
            return await asyncio.wait_for(self.opens.get(), seconds)
        except TimeoutError:
            raise CannotGoOnError(f"the gateway opened no relay within {seconds:g} s") from None

    async def no_open(self, seconds: float) -> bool:
        """Return whether the gateway opens no relay for so long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.opens.get(), seconds)
            return False
        return True

    async def take_up(self, seconds: float | None = None) -> SupervisorRelay:
        """Claim the next relay."""
        return await self.claim(await self.next_open(seconds))

    async def claim(
        self, opened: openshell_pb2.RelayOpen | str, *, by: Supervisor | None = None
    ) -> SupervisorRelay:
        """Claim a relay on a stream of its own, by this supervisor or by another."""
        peer = by or self.peer
        channel_id = opened if isinstance(opened, str) else opened.channel_id
        relay = SupervisorRelay(channel_id, peer.open("RelayStream"), peer.transcript)
        await relay.init()
        return relay

    async def wait_over(self, seconds: float | None = None) -> Ended[Any]:
        """Wait until the gateway ends the session, and return how.

        Raises:
            CannotGoOnError: it did not in time.
        """
        seconds = self.peer.patience if seconds is None else seconds
        try:
            await asyncio.wait_for(self._over.wait(), seconds)
        except TimeoutError:
            raise CannotGoOnError(f"the gateway did not end the session within {seconds:g} s") from None
        assert self.ended is not None
        return self.ended

    @property
    def over(self) -> bool:
        """Whether the session has ended."""
        return self._over.is_set()

    async def wait_heard(self, kind: str, count: int = 1, seconds: float | None = None) -> bool:
        """Return whether so many messages of a kind came in time."""
        seconds = self.peer.patience if seconds is None else seconds
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._heard:
                while sum(one.WhichOneof("payload") == kind for one in self.heard) < count:
                    await self._heard.wait()
        return sum(one.WhichOneof("payload") == kind for one in self.heard) >= count

    async def close(self) -> None:
        """Leave."""
        self.call.cancel()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _hear(self) -> None:
        try:
            while (message := await self.call.next(3600)) is not None:
                async with self._heard:
                    self.heard.append(message)
                    self._heard.notify_all()
                if message.HasField("relay_open"):
                    if self.serve is None:
                        self.opens.put_nowait(message.relay_open)
                    else:
                        self.spawn(self.serve(self, message.relay_open))
            self.ended = await self.call.end(3600)
        finally:
            self._over.set()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self.send(ToGateway(heartbeat=openshell_pb2.SupervisorHeartbeat()))


class Supervisor:
    """A sandbox's supervisor with a connection of its own.

    Attributes:
        instance_id: of its hellos; epochs count up.
    """

    def __init__(
        self,
        endpoint: str,
        sandbox_id: str,
        token: str,
        case_id: str,
        transcript: Transcript,
        patience: float = ANSWER_SECONDS,
    ) -> None:
        self.sandbox_id = sandbox_id
        self.token: str | None = token
        self.transcript = transcript
        self.instance_id = str(uuid.uuid4())
        self.sessions: list[SupervisorSession] = []
        self.patience = patience
        self._channel = Channel(endpoint, case_id, transcript, patience=patience)
        self._epoch = 0

    def open(self, method: str, token: str | None = None) -> Call[Any]:
        """Begin a call of a supervisor's method."""
        return self._channel.open(method, token=token or self.token)

    def hello(self, **fields: Any) -> openshell_pb2.SupervisorHello:
        """Return a hello of the next epoch; `file_transfer=None` announces no files."""
        self._epoch += 1
        announced: dict[str, Any] = {
            "sandbox_id": self.sandbox_id,
            "instance_id": self.instance_id,
            "connection_epoch": self._epoch,
            "file_transfer": file_transfer(),
            **fields,
        }
        return openshell_pb2.SupervisorHello(
            **{name: value for name, value in announced.items() if value is not None}
        )

    async def connect(
        self, hello: openshell_pb2.SupervisorHello | None = None, *, heartbeats: bool = True, **fields: Any
    ) -> SupervisorSession:
        """Open a session, whether the gateway accepts it or not."""
        session = SupervisorSession(self, self.open("ConnectSupervisor"))
        self.sessions.append(session)
        await session.start(hello or self.hello(**fields), heartbeats=heartbeats)
        return session

    async def connected(self, **fields: Any) -> SupervisorSession:
        """Open a session that the gateway accepts.

        Raises:
            CannotGoOnError: it does not.
        """
        session = await self.connect(**fields)
        if session.accepted is None:
            raise CannotGoOnError(
                f"the gateway does not accept a supervisor: {session.ended or session.rejected}"
            )
        return session

    async def close(self) -> None:
        """End every session, and the connection."""
        for session in self.sessions:
            await session.close()
        await self._channel.close()


def accepted() -> Response:
    """The agent's first frame."""
    return Response(accepted=file_relay_pb2.FileRelayAccepted(protocol_version=1))


def failure(reason: str, message: str = "made by the suite", **fields: Any) -> Response:
    """The agent's last frame of an operation that failed."""
    return Response(error=file_relay_pb2.FileRelayError(reason=reason, message=message, **fields))
