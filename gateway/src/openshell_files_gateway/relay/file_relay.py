"""The file protocol on a relay channel, from the gateway's side (FRM-1 to FRM-6)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from openshell_files_process.agent_secret import NONCE_BYTES, agent_proof, gateway_proof, is_proof, new_nonce
from openshell_files_protocol import chunks
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.framing import FrameDecoder, FramingError, frame_segments
from openshell_files_protocol.limits import MAX_FRAME_BYTES
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.relay.agent_errors import error_of
from openshell_files_gateway.relay.core.relay_states import RelayEvent, RelayState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from openshell_files_gateway.relay.channel import RelayChannel
    from openshell_files_gateway.relay.core.relay_states import RelayLife
    from openshell_files_gateway.relay.supervisor_session import SupervisorSession


class FileRelay:
    """A relay to a file agent: operations, one after the other.

    Args:
        channel: its bytes; the pool closes it.
        session: of the supervisor that was asked for it.
        life: its state.
        expires: no operation begins on it afterwards, on the loop's clock.

    Attributes:
        channel, session, life, expires: as given.
        idle_until: closed then if it is idle.
        reusable: whether the present operation may be followed by another (FRM-9).
        input_over: whether nothing is on its way to the agent any more.
        heard: whether the agent sent a frame of the present operation.
    """

    def __init__(
        self, channel: RelayChannel, session: SupervisorSession, life: RelayLife, expires: float
    ) -> None:
        self.channel = channel
        self.session = session
        self.life = life
        self.expires = expires
        self.idle_until = 0.0
        self.reusable = False
        self.input_over = True
        self.heard = False
        self._on_frame: Callable[[], None] = _count_nothing
        self._decoder = FrameDecoder()
        # Cut as they are asked for: a message of empty frames would be a
        # million objects.
        self._frames: Iterator[memoryview] = iter(())
        self._ever_heard = False

    def __repr__(self) -> str:
        return f"<FileRelay {self.channel.channel_id}, {self.life!r}>"

    def begin(self, on_frame: Callable[[], None], *, reusable: bool) -> None:
        """Make ready for the next operation.

        Args:
            on_frame: called for every frame of the agent, also for those that
                only say that it is at work (FRM-7).
            reusable: whether another operation may follow, if the supervisor
                can do that.
        """
        files = self.session.files
        self._on_frame = on_frame
        self.reusable = reusable and files is not None and files.keeps_relays
        self.input_over = True
        self.heard = False

    def ended_in_order(self) -> bool:
        """Tell whether another operation may follow; ask once.

        The operation is over in both directions, and the agent sent nothing
        behind its last frame.
        """
        if not (self.reusable and self.input_over and self.life.state is RelayState.ANSWERED):
            return False
        try:
            return next(self._frames, None) is None and self._decoder.at_boundary
        except FramingError:
            return False

    async def authenticate(self, secret: bytes) -> None:
        """Prove both sides' knowledge of the secret, before anything else (FRM-8).

        Raises:
            TransferError: AGENT_UNAUTHENTICATED if what listens does not know
                it, or says that this gateway does not; and as `next_frame`.
        """
        nonce = new_nonce()
        await self._send(
            file_relay_pb2.FileRelayRequest(authenticate=file_relay_pb2.FileRelayAuthenticate(nonce=nonce))
        )
        frame = await self.next_frame()
        if isinstance(frame, memoryview) or frame.WhichOneof("frame") != "challenge":
            raise self._not_an_agent("no challenge came")
        challenge = frame.challenge
        if len(challenge.nonce) != NONCE_BYTES or not is_proof(
            agent_proof(secret, nonce, challenge.nonce), challenge.proof
        ):
            raise TransferError(
                Reason.AGENT_UNAUTHENTICATED, "what listens in the sandbox does not know the agent's secret"
            )
        proof = gateway_proof(secret, nonce, challenge.nonce)
        await self._send(file_relay_pb2.FileRelayRequest(proof=file_relay_pb2.FileRelayProof(proof=proof)))

    async def open(self, request: file_relay_pb2.FileRelayOpen) -> None:
        """Send the first frame (FRM-2).

        Args:
            request: the operation.

        Raises:
            TransferError: INVALID_REQUEST if the caller's request makes it
                larger than a frame may be, RELAY_LOST.
        """
        frame = file_relay_pb2.FileRelayRequest(open=request)
        if frame.ByteSize() > MAX_FRAME_BYTES:
            raise invalid(
                "request", f"too large: {frame.ByteSize()} bytes, at most {MAX_FRAME_BYTES} are allowed"
            )
        await self._send(frame)

    async def forward(self, messages: Sequence[bytes], *, ended: bool = False) -> None:
        """Send callers' messages as they came (FRM-4); joined into one write.

        Args:
            messages: at least one, unless it is the end.
            ended: whether the caller's stream is over (FRM-6).
        """
        segments: list[bytes | memoryview] = []
        for message in messages:
            segments += frame_segments(chunks.embed([message]))
        if ended:
            segments += _input_end(cancelled=False)
        await self.channel.send(segments)

    async def cancel_input(self) -> None:
        """Say that nobody waits for an answer any more (FRM-6)."""
        await self.channel.send(_input_end(cancelled=True))

    async def next_frame(self) -> memoryview | file_relay_pb2.FileRelayResponse:
        """Return the next frame of the agent.

        Returns:
            A view of the caller's message if the frame carries one (FRM-4),
            else the parsed frame; never `accepted`, `working` or `error`.

        Raises:
            TransferError: the agent's error, RELAY_LOST if the relay is over
                (FRM-3), FILES_UNSUPPORTED or AGENT_PROTOCOL_ERROR (FRM-5).
        """
        while True:
            frame = await self._next_raw()
            await self.channel.keep_pace(len(frame))
            message = chunks.embedded(frame)
            if message is not None:
                return message
            try:
                response = file_relay_pb2.FileRelayResponse.FromString(bytes(frame))
            except DecodeError as error:
                raise self._not_an_agent(str(error)) from error
            kind = response.WhichOneof("frame")
            if kind == "error":
                refusal = error_of(response.error)
                # An agent that lost count of frames, or has a bug, may say more.
                if refusal.reason not in {Reason.AGENT_PROTOCOL_ERROR, Reason.INTERNAL}:
                    self.life.after(RelayEvent.ANSWER)
                raise refusal
            if kind == "download":
                return memoryview(response.download.SerializeToString())
            if kind not in {None, "accepted", "working"}:
                return response
            # One message can hold any number of these; others have a turn too.
            await asyncio.sleep(0)

    def last(self, frame: memoryview | file_relay_pb2.FileRelayResponse, kind: str) -> Any:  # noqa: ANN401 - by kind
        """Take a frame for the operation's last one.

        Args:
            frame: as `next_frame` returned it.
            kind: the field that it must have.

        Returns:
            That field.

        Raises:
            TransferError: AGENT_PROTOCOL_ERROR if it has another one.
        """
        if isinstance(frame, memoryview) or frame.WhichOneof("frame") != kind:
            got = "content" if isinstance(frame, memoryview) else frame.WhichOneof("frame")
            raise TransferError(Reason.AGENT_PROTOCOL_ERROR, f"the file agent answered {got}, not {kind}")
        self.life.after(RelayEvent.ANSWER)
        return getattr(frame, kind)

    async def _next_raw(self) -> memoryview:
        while True:
            try:
                for frame in self._frames:
                    self.heard = self._ever_heard = True
                    self._on_frame()
                    return frame
            except FramingError as error:
                raise self._not_an_agent(str(error)) from error
            data = await self.channel.receive()
            if not len(data):
                raise TransferError(
                    Reason.RELAY_LOST, "the relay to the sandbox ended before the file agent gave a result"
                )
            self._frames = self._decoder.feed(data)

    async def _send(self, request: file_relay_pb2.FileRelayRequest) -> None:
        await self.channel.send(frame_segments([request.SerializeToString()]))

    def _not_an_agent(self, detail: str) -> TransferError:
        if self._ever_heard:
            return TransferError(Reason.AGENT_PROTOCOL_ERROR, f"the file agent broke the protocol: {detail}")
        return TransferError(Reason.FILES_UNSUPPORTED, f"no file agent answers in the sandbox: {detail}")


def _input_end(*, cancelled: bool) -> list[bytes | memoryview]:
    end = file_relay_pb2.FileRelayInputEnd(cancelled=cancelled)
    return frame_segments([file_relay_pb2.FileRelayRequest(input_end=end).SerializeToString()])


def _count_nothing() -> None:
    """No operation has the relay."""
